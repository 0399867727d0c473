// SPDX-License-Identifier: GPL-2.0-or-later
// A whole mapper over a fake host: the commands of the control socket from end to end.
#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20;
constexpr const char* user = "backend/vbd/5/51712";
constexpr const char* device = "dmu-5-51712";

Result<control::Json> call(const control::Json& request) {
    return control::call("dom-5", request, 20);
}

class MapperTest : public testing::Test {
protected:
    MapperTest() { host.store.set(std::string(user) + "/frontend", "/local/domain/5/device/vbd/51712"); }

    std::string qcow() { return "qcow:" + place.qcow("a.qcow", size); }
    // No dm device, no state file, no key, and nobody holds the image.
    void expect_nothing_left() {
        EXPECT_FALSE(host.dm.exists(device));
        EXPECT_TRUE(place.states().empty());
        auto reply = call({{"command", "list"}});
        if (reply) {
            EXPECT_TRUE((*reply)["disks"].empty());
        }
        FakeKernel other;
        if (std::filesystem::exists(place.path("a.qcow"))) {
            TestDisk free(other, setup_for("qcow:" + place.path("a.qcow")));
            EXPECT_TRUE(free || free.error().code != Code::busy) << free.error().message;
        }
    }
    FakeTarget& target(const control::Json& added) { return host.kernel.target(added["key"].get<std::string>()); }

    Place place;
    TestHost host;
};

TEST_F(MapperTest, AddWriteListRemove) {
    TestMapper mapper(host);
    auto added = call(add_request(qcow()));
    ASSERT_TRUE(added) << added.error().message;
    EXPECT_EQ((*added)["device"], "/dev/mapper/dmu-5-51712");
    EXPECT_TRUE((*added)["major"].is_number());
    ASSERT_TRUE(host.dm.exists(device));
    EXPECT_EQ(host.dm.device(device).info.uuid, "DMU-" + (*added)["key"].get<std::string>());
    EXPECT_EQ(place.states(), std::vector<std::string>{device});

    auto write = target(*added).write(5, pattern(512, 1));
    ASSERT_TRUE(write->wait());
    EXPECT_EQ(write->error(), 0);
    auto list = call({{"command", "list"}});
    ASSERT_TRUE(list);
    ASSERT_EQ((*list)["disks"].size(), 1u);
    const auto& disk = (*list)["disks"][0];
    EXPECT_EQ(disk["domain"], 5);
    EXPECT_EQ(disk["vdev"], "xvda");
    EXPECT_EQ(disk["format"], "qcow");
    EXPECT_EQ(disk["virtual_size"], size);
    EXPECT_EQ(disk["mode"], "w");
    EXPECT_GE(disk["misses"], 1);
    EXPECT_TRUE(disk["miss_us"]["p99"].is_number());
    EXPECT_TRUE(disk["commit_us"]["p50"].is_number());
    EXPECT_EQ(disk["map_limit"], 64u << 20);
    EXPECT_EQ(disk["forgotten"], 0);
    EXPECT_EQ(disk["chain"].size(), 1u);
    EXPECT_TRUE(disk["alarms"].empty());

    EXPECT_TRUE(call({{"command", "commit"}}));
    EXPECT_TRUE(eventually([&] { return target(*added).log().empty(); }));
    target(*added).shrink();
    list = call({{"command", "list"}});
    ASSERT_TRUE(list);
    EXPECT_GE((*list)["disks"][0]["forgotten"], 1);
    auto removed = call(remove_request());
    ASSERT_TRUE(removed) << removed.error().message;
    EXPECT_FALSE(removed->contains("pending"));
    expect_nothing_left();
    EXPECT_TRUE(call(remove_request())) << "idempotent";
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
    EXPECT_EQ(place.check("a.qcow").leaks, 0u);
}

TEST_F(MapperTest, AddIsIdempotentAndAStubdomainSharesTheDevice) {
    TestMapper mapper(host);
    host.store.set("backend/vbd/6/51712/frontend", "x");
    std::string spec = qcow();
    auto first = call(add_request(spec));
    ASSERT_TRUE(first) << first.error().message;
    auto again = call(add_request(spec));
    ASSERT_TRUE(again);
    EXPECT_EQ(*first, *again);
    auto stub = call(add_request(spec, "w", "dmu-6-51712", "backend/vbd/6/51712"));
    ASSERT_TRUE(stub) << stub.error().message;
    EXPECT_EQ((*stub)["device"], "/dev/mapper/dmu-5-51712");
    ASSERT_TRUE(call(remove_request("backend/vbd/6/51712")));
    EXPECT_TRUE(host.dm.exists(device));
    ASSERT_TRUE(call(remove_request()));
    expect_nothing_left();
}

TEST_F(MapperTest, TheSameImageTwiceForOneDomainIsBusyReadOnlyIsNot) {
    TestMapper mapper(host);
    host.store.set("backend/vbd/5/51728/frontend", "x");
    std::string spec = qcow();
    ASSERT_TRUE(call(add_request(spec)));
    auto second = call(add_request(spec, "w", "dmu-5-51728", "backend/vbd/5/51728"));
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Code::busy);
    ASSERT_TRUE(call(remove_request()));
    ASSERT_TRUE(call(add_request(spec, "r")));
    auto other = call(add_request(spec, "r", "dmu-5-51728", "backend/vbd/5/51728"));
    ASSERT_TRUE(other) << other.error().message;
    EXPECT_EQ((*other)["device"], "/dev/mapper/dmu-5-51728");
}

TEST_F(MapperTest, AnotherInstanceFindsItLocked) {
    TestMapper mapper(host), other(host, "dom-6");
    std::string spec = qcow();
    ASSERT_TRUE(call(add_request(spec)));
    auto second = control::call("dom-6", add_request(spec, "w", "dmu-6-51712", "backend/vbd/6/51712"));
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Code::busy);
    EXPECT_NE(second.error().message.find("in use (locked)"), std::string::npos) << second.error().message;
    EXPECT_FALSE(host.dm.exists("dmu-6-51712"));
}

TEST_F(MapperTest, AnAddThatFailsLeavesNothing) {
    TestMapper mapper(host);
    std::string spec = qcow();
    place.raw("garbage.qcow", pattern(4096, 3));
    place.qcow("orphan.qcow", size, place.path("gone.qcow"));
    const control::Json bad[] = {
        add_request("qcow:" + place.path("missing.qcow")),
        add_request("qcow:" + place.path("garbage.qcow")),
        add_request("qcow:" + place.path("orphan.qcow")),
        add_request("vhdx:" + place.path("a.qcow")),
        add_request("no colon"),
        add_request(spec, "x"),
        add_request(spec, "w", "bad/name"),
        {{"command", "add"}, {"spec", spec}},
    };
    for (const auto& request : bad) {
        auto reply = call(request);
        ASSERT_FALSE(reply) << request;
        EXPECT_FALSE(reply.error().message.empty());
        expect_nothing_left();
    }
    host.dm.fail_next_load({Code::io, "the table was refused"});
    auto reply = call(add_request(spec));
    ASSERT_FALSE(reply);
    EXPECT_NE(reply.error().message.find("the table was refused"), std::string::npos);
    expect_nothing_left();
    auto fine = call(add_request(spec));
    EXPECT_TRUE(fine) << fine.error().message;
}

TEST_F(MapperTest, AKernelThatRefusesLeavesNothing) {
    unsigned step = 0;
    KernelAccess access = access_to(host.kernel);
    auto attach = access.attach;
    auto hello = access.hello;
    access.hello = [&]() -> Result<dmu_hello> {
        if (step == 0) return Error{Code::not_found, "the module is not loaded"};
        return hello();
    };
    access.attach = [&](const std::string& key, bool create) -> Result<std::unique_ptr<Channel>> {
        if (step == 1) return Error{Code::io, "no channel today"};
        return attach(key, create);
    };
    std::string spec = qcow();
    TestMapper mapper(host, "dom-5", &access);
    for (const char* cause : {"the module is not loaded", "no channel today"}) {
        auto reply = call(add_request(spec));
        ASSERT_FALSE(reply);
        EXPECT_NE(reply.error().message.find(cause), std::string::npos) << reply.error().message;
        expect_nothing_left();
        ++step;
    }
    // A device of that name that is somebody else's.
    ASSERT_TRUE(host.dm.connect()->create(device, "OTHER", {8, "zero", "", false}));
    auto reply = call(add_request(spec));
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().code, Code::busy);
    EXPECT_EQ(host.dm.device(device).info.uuid, "OTHER");
    ASSERT_TRUE(host.dm.connect()->remove(device, false));
    expect_nothing_left();
}

TEST_F(MapperTest, AnOpenDeviceGoesWhenItIsClosed) {
    TestMapper mapper(host);
    ASSERT_TRUE(call(add_request(qcow())));
    host.dm.open(device, 1);
    auto removed = call(remove_request());
    ASSERT_TRUE(removed) << removed.error().message;
    EXPECT_EQ((*removed)["pending"], true);
    EXPECT_TRUE(host.dm.exists(device));
    auto again = call(add_request("qcow:" + place.path("a.qcow")));
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Code::busy);
    host.dm.open(device, -1);
    EXPECT_TRUE(eventually([&] { return !host.dm.exists(device) && place.states().empty(); }));
    expect_nothing_left();
}

TEST_F(MapperTest, AVanishedBackendIsARemoval) {
    TestMapper mapper(host);
    ASSERT_TRUE(call(add_request(qcow())));
    std::this_thread::sleep_for(50ms);
    EXPECT_TRUE(host.dm.exists(device));
    host.store.remove(user);
    EXPECT_TRUE(eventually([&] { return !host.dm.exists(device) && place.states().empty(); }));
    EXPECT_TRUE(call(remove_request())) << "the script may still come";
    expect_nothing_left();
}

TEST_F(MapperTest, ABackendThatIsGoneAtOnceIsNoticedToo) {
    TestMapper mapper(host);
    host.store.remove(user);
    ASSERT_TRUE(call(add_request(qcow())));
    EXPECT_TRUE(eventually([&] { return !host.dm.exists(device); }));
}

TEST_F(MapperTest, ASuccessorTakesOverWhatItFinds) {
    auto first = std::make_unique<TestMapper>(host);
    std::string spec = qcow();
    auto added = call(add_request(spec));
    ASSERT_TRUE(added) << added.error().message;
    host.dm.open(device, 1);
    for (unsigned i = 0; i < 100; ++i) {
        auto write = target(*added).write(i * 32, pattern(512, i));
        ASSERT_TRUE(write->wait());
    }
    first->kill();
    first.reset();
    EXPECT_TRUE(host.dm.exists(device));
    auto waiting = target(*added).write(7000, pattern(512, 7));
    EXPECT_FALSE(waiting->done());

    TestMapper second(host);
    ASSERT_TRUE(waiting->wait());
    EXPECT_EQ(waiting->error(), 0);
    auto again = call(add_request(spec));
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(*added, *again);
    host.dm.open(device, -1);
    ASSERT_TRUE(call(remove_request()));
    expect_nothing_left();
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

TEST_F(MapperTest, RestartCommitsAndLeavesAllToASuccessor) {
    TestMapper first(host);
    auto added = call(add_request(qcow()));
    ASSERT_TRUE(added) << added.error().message;
    host.dm.open(device, 1);
    for (unsigned i = 0; i < 100; ++i) ASSERT_TRUE(target(*added).write(i * 32, pattern(512, i))->wait());
    ASSERT_TRUE(call({{"command", "restart"}}));
    EXPECT_TRUE(eventually([&] { return first.finished(); }));
    first.kill();
    EXPECT_TRUE(host.dm.exists(device));
    EXPECT_TRUE(target(*added).log().empty()) << "committed";
    EXPECT_EQ(place.states(), std::vector<std::string>{device});
    auto waiting = target(*added).write(7000, pattern(512, 7));
    TestMapper second(host);
    ASSERT_TRUE(waiting->wait());
    EXPECT_EQ(waiting->error(), 0);
    host.dm.open(device, -1);
    ASSERT_TRUE(call(remove_request()));
    expect_nothing_left();
}

TEST_F(MapperTest, ASuccessorForgetsWhatIsGone) {
    control::DiskState state;
    state.instance = "dom-5";
    state.name = device;
    state.key = "1-2";
    state.uuid = "DMU-1-2";
    state.spec = qcow();
    state.writable = true;
    state.users = {user};
    ASSERT_TRUE(control::write_state(state));
    TestMapper mapper(host);
    EXPECT_TRUE(eventually([&] { return place.states().empty(); }));
    EXPECT_TRUE(call(add_request(state.spec)));
}

TEST_F(MapperTest, StopLeavesWhatIsInUseAndRemovesTheRest) {
    TestMapper mapper(host);
    host.store.set("backend/vbd/5/51728/frontend", "x");
    auto added = call(add_request(qcow()));
    ASSERT_TRUE(added);
    ASSERT_TRUE(call(add_request("qcow:" + place.qcow("b.qcow", size), "w", "dmu-5-51728", "backend/vbd/5/51728")));
    host.dm.open(device, 1);
    ASSERT_TRUE(target(*added).write(0, pattern(512, 1))->wait());
    mapper.stop();
    EXPECT_TRUE(mapper.finished());
    EXPECT_TRUE(host.dm.exists(device));
    EXPECT_TRUE(target(*added).log().empty()) << "committed";
    EXPECT_FALSE(host.dm.exists("dmu-5-51728"));
    EXPECT_EQ(place.states(), std::vector<std::string>{device});
    TestMapper second(host);
    EXPECT_TRUE(call(add_request("qcow:" + place.path("a.qcow"))));
}

TEST_F(MapperTest, EndsByItselfWhenTheLastDiskIsGone) {
    TestMapper mapper(host);
    ASSERT_TRUE(call(add_request(qcow())));
    ASSERT_TRUE(call(remove_request()));
    EXPECT_TRUE(eventually([&] { return mapper.finished(); }));
}

TEST_F(MapperTest, OnFullOfTheRequestGoesBeforeTheFile) {
    TestMapper mapper(host);
    std::ofstream(place.path("xen-dmu.conf")) << "on-full = wait\n";
    auto request = add_request(qcow());
    request["on_full"] = "error";
    ASSERT_TRUE(call(request));
    auto list = call({{"command", "list"}});
    EXPECT_EQ((*list)["disks"][0]["on_full"], "error");
}

TEST_F(MapperTest, OnFullMayStandInTheSpecification) {
    auto first = std::make_unique<TestMapper>(host);
    std::string spec = "qcow;on-full=error:" + place.qcow("a.qcow", size);
    ASSERT_TRUE(call(add_request(spec)));
    EXPECT_TRUE(call(add_request(spec))) << "idempotent";
    first->kill();
    TestMapper second(host);
    ASSERT_TRUE(eventually([&] {
        auto list = call({{"command", "list"}});
        return list && (*list)["disks"][0]["stage"] == "active";
    }));
    EXPECT_EQ((*call({{"command", "list"}}))["disks"][0]["on_full"], "error");
    EXPECT_FALSE(call(add_request("qcow;on-full=maybe:" + place.qcow("b.qcow", size), "w", "other", "x")));
    EXPECT_FALSE(call(add_request("qcow;lease-ahead=maybe:" + place.path("b.qcow"), "w", "other", "x")));
    EXPECT_TRUE(call(add_request("qcow;lease-ahead=yes:" + place.path("b.qcow"), "w", "other", "x")));
}

TEST_F(MapperTest, ABrokenConfigurationIsTheCause) {
    TestMapper mapper(host);
    std::ofstream(place.path("xen-dmu.conf")) << "on-full = perhaps\n";
    auto reply = call(add_request(qcow()));
    ASSERT_FALSE(reply);
    EXPECT_NE(reply.error().message.find("line 1"), std::string::npos);
    expect_nothing_left();
}

TEST_F(MapperTest, ManyDisksComeAndGoAtOnce) {
    TestMapper mapper(host);
    std::vector<std::thread> threads;
    std::atomic<unsigned> good = 0;
    for (unsigned i = 0; i < 6; ++i) {
        std::string number = std::to_string(51712 + 16 * i), path = "backend/vbd/5/" + number;
        host.store.set(path + "/frontend", "x");
        std::string spec = "qcow:" + place.qcow("d" + number, 1 << 20);
        threads.emplace_back([&good, spec, number, path] {
            for (unsigned turn = 0; turn < 3; ++turn) {
                if (call(add_request(spec, "w", "dmu-5-" + number, path)) && call(remove_request(path))) ++good;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(good, 18u);
    EXPECT_TRUE(place.states().empty());
}

TEST(VdevName, IsXens) {
    EXPECT_EQ(vdev_name(51712), "xvda");
    EXPECT_EQ(vdev_name(51713), "xvda1");
    EXPECT_EQ(vdev_name(51728), "xvdb");
    EXPECT_EQ(vdev_name((1u << 28) | (26u << 8)), "xvdaa");
    EXPECT_EQ(vdev_name(768), "768");
}

}  // namespace
}  // namespace dmu::test
