// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/listing.h"

#include <gmock/gmock.h>

#include "tests/unit/tools/fake_ports.h"
#include "tools/lib/gc.h"

namespace dmu {
namespace {

using control::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Json facts(const std::string& name, const std::string& key, const Json& users) {
    return {{"name", name},
            {"uuid", "DMU-" + key},
            {"key", key},
            {"format", "qcow"},
            {"image", "/vm/a.qcow"},
            {"mode", "w"},
            {"users", users},
            {"virtual_size", 10ull << 30},
            {"allocated", 3 << 20},
            {"hits", 123456},
            {"misses", 12},
            {"pending", 0},
            {"spec", "qcow:/vm/a.qcow"},
            {"alarms", Json::array()}};
}

class Lists : public ::testing::Test {
protected:
    void device(const std::string& name, const std::string& key) {
        ASSERT_TRUE(
            fake_.ports.devices->create(name, "DMU-" + key, {.sectors = 8, .target = "userspace", .parameters = key}));
    }
    void mapper(const std::string& instance, const Json& disks) {
        fake_.replies.insert_or_assign(instance, Json{{"ok", true}, {"pid", 77}, {"disks", disks}});
        fake_.pids[instance] = 77;
    }
    void state(const std::string& instance, const std::string& name, const std::string& key) {
        control::DiskState one;
        one.instance = instance;
        one.name = name;
        one.key = key;
        one.uuid = "DMU-" + key;
        one.spec = "qcow:/vm/a.qcow";
        fake_.states.push_back(one);
    }
    std::vector<StaleKind> stale() {
        std::vector<StaleKind> kinds;
        for (const auto& item : collect_listing(fake_.ports).stale) kinds.push_back(item.kind);
        return kinds;
    }

    FakePorts fake_;
};

TEST_F(Lists, NothingIsAHeader) {
    const auto listing = collect_listing(fake_.ports);
    EXPECT_EQ(listing_table(listing),
              "Domain  ID  Vdev  Device  Mapper  Format  Mode  Size  Alloc  Hits  Misses  Pend  Image\n");
    EXPECT_EQ(stale_text(listing), "");
    EXPECT_EQ(listing_long(listing), "");
    EXPECT_EQ(listing_json(listing),
              (Json{{"disks", Json::array()}, {"stale", Json::array()}, {"notes", Json::array()}}));
}

TEST_F(Lists, JoinsDomainAndDisk) {
    fake_.store.set("/local/domain/5/name", "guest");
    fake_.store.set("backend/vbd/5/51728/params", "qcow:/vm/a.qcow");
    device("dmu-5-51728", "1-2");
    state("dom-5", "dmu-5-51728", "1-2");
    auto one = facts("dmu-5-51728", "1-2", {"backend/vbd/5/51728"});
    one["miss_us"] = {{"p50", 63}, {"p99", 1023}};
    mapper("dom-5", Json::array({one}));
    const auto listing = collect_listing(fake_.ports);
    EXPECT_EQ(listing_table(listing),
              "Domain  ID  Vdev  Device       Mapper  Format  Mode  Size  Alloc  Hits  Misses  Pend  Image\n"
              "guest    5  xvdb  dmu-5-51728      77  qcow    w      10G     3M  123k      12     0  /vm/a.qcow\n");
    EXPECT_TRUE(listing.stale.empty()) << stale_text(listing);
    const Json json = listing_json(listing);
    EXPECT_EQ(json["disks"][0]["domain"], 5);
    EXPECT_EQ(json["disks"][0]["domain_name"], "guest");
    EXPECT_EQ(json["disks"][0]["vdev"], "xvdb");
    EXPECT_EQ(json["disks"][0]["mapper_pid"], 77);
    EXPECT_EQ(json["disks"][0]["hits"], 123456);
    EXPECT_THAT(listing_long(listing), HasSubstr("  domain           guest (5)\n"));
    EXPECT_THAT(listing_long(listing), HasSubstr("  miss_us          p50 63, p99 1023\n"));
}

TEST_F(Lists, WorksWithoutXen) {
    fake_.ports.xenstore = nullptr;
    device("a", "1-2");
    state("name-a", "a", "1-2");
    Json one = facts("a", "1-2", {"name-a"});
    one["alarms"] = {"no space left"};
    one["image"] = "/vm/\x1b[2J";
    mapper("name-a", Json::array({one}));
    const auto listing = collect_listing(fake_.ports);
    EXPECT_TRUE(listing.stale.empty()) << stale_text(listing);
    const auto table = listing_table(listing);
    EXPECT_THAT(table, HasSubstr("\n-        -  -     a "));
    EXPECT_THAT(table, HasSubstr("alarm: a: no space left\n"));
    EXPECT_THAT(table, Not(HasSubstr("\x1b")));
    EXPECT_EQ(listing_json(listing)["disks"][0]["domain"], Json());
}

TEST_F(Lists, FindsWhatIsStale) {
    device("dmu-5-51712", "1-2");
    state("dom-5", "dmu-5-51712", "1-2");
    EXPECT_THAT(stale(), ElementsAre(StaleKind::state));
    // One is just starting, or being supervised.
    fake_.pids["dom-5"] = 9;
    EXPECT_THAT(stale(), ElementsAre());
    fake_.pids.clear();

    state("dom-6", "dmu-6-51712", "1-3");
    EXPECT_THAT(stale(), ElementsAre(StaleKind::state, StaleKind::lost_state));

    fake_.states.clear();
    EXPECT_THAT(stale(), ElementsAre(StaleKind::device));
    fake_.state_problems = {"/run/xen-dmu/disks/x.json: broken"};
    EXPECT_THAT(stale(), ElementsAre(StaleKind::file, StaleKind::device));
}

TEST_F(Lists, NamesASilentMapper) {
    device("dmu-5-51712", "1-2");
    state("dom-5", "dmu-5-51712", "1-2");
    fake_.replies.insert_or_assign("dom-5", Error{Code::io, "no answer"});
    fake_.pids["dom-5"] = 9;
    EXPECT_THAT(stale(), ElementsAre(StaleKind::mapper));
    EXPECT_THAT(stale_text(collect_listing(fake_.ports)), HasSubstr("dom-5 (pid 9) does not answer: no answer"));
}

TEST_F(Lists, NoticesAVanishedBackend) {
    device("dmu-5-51712", "1-2");
    state("dom-5", "dmu-5-51712", "1-2");
    mapper("dom-5", Json::array({facts("dmu-5-51712", "1-2", {"backend/vbd/5/51712"})}));
    EXPECT_THAT(stale(), ElementsAre(StaleKind::user));
}

TEST_F(Lists, GcCollects) {
    device("dmu-5-51712", "1-2");
    device("orphan", "1-9");
    device("busy", "1-8");
    fake_.kernel.open("busy", 1);
    state("dom-5", "dmu-5-51712", "1-2");
    const Result<Json> pong = Json{{"ok", true}};
    fake_.ensured_reply = &pong;

    const auto planned = collect_garbage(fake_.ports, true);
    EXPECT_EQ(planned.size(), 3u);
    EXPECT_TRUE(fake_.kernel.exists("orphan"));

    fake_.calls.clear();
    unsigned failed = 0;
    for (const auto& step : collect_garbage(fake_.ports, false)) failed += !step.status;
    EXPECT_EQ(failed, 1u);
    EXPECT_FALSE(fake_.kernel.exists("orphan"));
    EXPECT_TRUE(fake_.kernel.exists("busy"));
    EXPECT_TRUE(fake_.kernel.exists("dmu-5-51712"));
    ASSERT_FALSE(fake_.calls.empty());
    EXPECT_EQ(fake_.calls[0].instance, "dom-5");
    EXPECT_EQ(fake_.calls[0].request["command"], "ping");
}

TEST_F(Lists, GcDetachesVanishedBackends) {
    device("dmu-5-51712", "1-2");
    state("dom-5", "dmu-5-51712", "1-2");
    mapper("dom-5", Json::array({facts("dmu-5-51712", "1-2", {"backend/vbd/5/51712"})}));
    const auto steps = collect_garbage(fake_.ports, false);
    ASSERT_EQ(steps.size(), 1u);
    EXPECT_TRUE(steps[0].status);
    EXPECT_EQ(fake_.calls.back().request, (Json{{"command", "remove"}, {"user", "backend/vbd/5/51712"}}));
}

}  // namespace
}  // namespace dmu
