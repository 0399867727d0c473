// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/attach.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/tools/fake_ports.h"
#include "tools/lib/block_list.h"
#include "tools/lib/doctor.h"

namespace dmu {
namespace {

using control::Json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

class Attach : public ::testing::Test {
protected:
    Attach() { fake_.ensured_reply = &reply_; }

    FakePorts fake_;
    Result<Json> reply_ = Json{{"ok", true}, {"device", "/dev/mapper/a"}};
};

TEST_F(Attach, AsksAMapperOfItsOwn) {
    const auto path = attach_disk(fake_.ports, {.spec = "qcow:/vm/a.qcow", .name = "a", .on_full = "error"});
    ASSERT_TRUE(path) << path.error().message;
    EXPECT_EQ(*path, "/dev/mapper/a");
    EXPECT_EQ(fake_.calls[0].instance, "name-a");
    EXPECT_EQ(fake_.calls[0].request, (Json{{"command", "add"},
                                            {"spec", "qcow:/vm/a.qcow"},
                                            {"mode", "w"},
                                            {"name", "a"},
                                            {"user", "name-a"},
                                            {"on_full", "error"}}));
}

TEST_F(Attach, MakesPathsAbsolute) {
    ASSERT_TRUE(attach_disk(fake_.ports, {.spec = "raw:a b", .name = "a", .read_only = true}));
    EXPECT_EQ(fake_.calls[0].request["spec"], "raw:" + (std::filesystem::current_path() / "a b").string());
    EXPECT_EQ(fake_.calls[0].request["mode"], "r");
    EXPECT_FALSE(fake_.calls[0].request.contains("on_full"));
}

TEST_F(Attach, RefusesBadNames) {
    for (const char* name : {"", "a/b", "a b"})
        EXPECT_FALSE(attach_disk(fake_.ports, {.spec = "raw:/a", .name = name})) << name;
    EXPECT_FALSE(attach_disk(fake_.ports, {.spec = "/a", .name = "a"}));
    EXPECT_TRUE(fake_.calls.empty());
}

TEST_F(Attach, Detaches) {
    const auto missing = detach_disk(fake_.ports, "a");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, Code::not_found);
    EXPECT_FALSE(fake_.calls[0].ensured);

    control::DiskState state;
    state.instance = "name-a";
    fake_.states = {state};
    const auto now = detach_disk(fake_.ports, "a");
    ASSERT_TRUE(now);
    EXPECT_EQ(*now, Detached::now);
    EXPECT_TRUE(fake_.calls[1].ensured);
    reply_ = Json{{"ok", true}, {"pending", true}};
    const auto later = detach_disk(fake_.ports, "a");
    ASSERT_TRUE(later);
    EXPECT_EQ(*later, Detached::when_closed);
}

TEST_F(Attach, Commits) {
    fake_.store.set("/local/domain/5/name", "guest");
    const auto disk = [](const char* name) { return Json::array({{{"name", name}, {"key", name}}}); };
    fake_.replies.emplace("dom-5", Json{{"ok", true}, {"disks", disk("dmu-5-51712")}});
    fake_.replies.emplace("name-a", Json{{"ok", true}, {"disks", disk("a")}});
    EXPECT_EQ(*commit_disks(fake_.ports, std::nullopt), 2u);
    for (const char* which : {"guest", "5", "dmu-5-51712", "dom-5", "a"}) {
        const auto done = commit_disks(fake_.ports, which);
        ASSERT_TRUE(done) << which;
        EXPECT_EQ(*done, 1u) << which;
    }
    EXPECT_FALSE(commit_disks(fake_.ports, "b"));
}

TEST_F(Attach, RestartWaitsForASuccessorThatServesAll) {
    int lists = 0;
    const auto list = [](int pid, const char* stage) {
        return Json{
            {"ok", true}, {"pid", pid}, {"disks", Json::array({{{"name", "a"}, {"key", "a"}, {"stage", stage}}})}};
    };
    fake_.replies.emplace("name-a", list(7, "active"));
    fake_.ports.call = [&](const std::string&, const Json& request, unsigned) -> Result<Json> {
        if (request["command"] == "restart") return Json{{"ok", true}};
        switch (lists++) {
            case 0:  // the listing
            case 1:
            case 2:
                return list(7, "active");
            case 3:
                return Error{Code::not_found, "nobody there"};
            case 4:
                return list(8, "adopting");
            default:
                return list(8, "active");
        }
    };
    EXPECT_EQ(*restart_mappers(fake_.ports, "a"), 1u);
    EXPECT_EQ(lists, 6);
    EXPECT_EQ(restart_mappers(fake_.ports, "b").error().code, Code::not_found);
}

TEST_F(Attach, RestartSaysWhatToDoWithAnOldMapper) {
    const Json list{{"ok", true}, {"pid", 7}, {"disks", Json::array({{{"name", "a"}, {"key", "a"}}})}};
    fake_.replies.emplace("name-a", list);
    fake_.ports.call = [&](const std::string&, const Json& request, unsigned) -> Result<Json> {
        if (request["command"] == "restart") return Error{Code::unsupported, "unknown command 'restart'"};
        return list;
    };
    EXPECT_THAT(restart_mappers(fake_.ports, std::nullopt).error().message, HasSubstr("kill -9 7"));
}

TEST(BlockList, ShowsTheRealTarget) {
    FakeXenstore store;
    const auto xenstore = store.connect();
    const std::string frontend = "/local/domain/5/device/vbd/51712", backend = "/local/domain/0/backend/vbd/5/51712";
    store.set("/local/domain/5/name", "guest");
    store.set(frontend + "/backend", backend);
    store.set(frontend + "/backend-id", "0");
    store.set(frontend + "/state", "4");
    store.set(frontend + "/event-channel", "15");
    store.set(frontend + "/ring-ref", "8");
    store.set(backend + "/params", "qcow:/vm/a b.qcow");
    store.set(backend + "/script", "/etc/xen/scripts/block-dmu");
    store.set(backend + "/mode", "w");
    const std::string expected =
        "Vdev  BE  handle state evt-ch ring-ref BE-path  Mode Target\n"
        "51712 0   0      4     15     8        /local/domain/0/backend/vbd/5/51712  w dmu:qcow:/vm/a b.qcow\n";
    EXPECT_EQ(*block_list(*xenstore, {"guest"}), expected);
    EXPECT_EQ(*block_list(*xenstore, {"5"}), expected);
    EXPECT_EQ(block_list(*xenstore, {"other"}).error().code, Code::not_found);
    store.set(backend + "/script", "/etc/xen/scripts/block");
    EXPECT_THAT(*block_list(*xenstore, {"5"}), HasSubstr(" w qcow:/vm/a b.qcow\n"));
}

TEST(Doctor, SaysWhatIsMissing) {
    FakePorts fake;
    DoctorPlaces places;
    places.device = places.device_mapper = places.mapper = places.script = "/nowhere/at/all";
    places.capabilities = places.configuration = places.run_directory = "/nowhere/at/all";
    const auto findings = examine_host(fake.ports, ok(), places);
    const auto problem = [&](const char* text) { return Contains(Field(&Finding::what, HasSubstr(text))); };
    EXPECT_THAT(findings, problem("dm-userspace is not loaded"));
    EXPECT_THAT(findings, problem("mapper: /nowhere/at/all is missing"));
    EXPECT_THAT(findings, problem("this is no Xen host"));
    const std::string faulty = ::testing::TempDir() + "doctor" + std::to_string(getpid()) + ".conf";
    std::ofstream(faulty) << "on-full = perhaps\n";
    places.configuration = faulty;
    EXPECT_THAT(examine_host(fake.ports, ok(), places), problem("'perhaps'"));
    std::filesystem::remove(faulty);
    for (const auto& finding : findings) EXPECT_EQ(finding.good, finding.advice.empty()) << finding.what;
}

}  // namespace
}  // namespace dmu
