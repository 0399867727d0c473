// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/hotplug.h"

#include <gmock/gmock.h>

#include "tests/unit/tools/fake_ports.h"

namespace dmu {
namespace {

using control::Json;
using ::testing::HasSubstr;

class Hotplug : public ::testing::Test {
protected:
    Hotplug() {
        disk("5", "qcow:/vm/disk.qcow", "w");
        fake_.ensured_reply = &added_;
        fake_.replies.emplace("dom-5", Json{{"ok", true}});
    }

    void disk(const std::string& domain, const std::string& params, const std::string& mode) {
        backend_ = "backend/vbd/" + domain + "/51712";
        fake_.store.set(backend_ + "/params", params);
        fake_.store.set(backend_ + "/mode", mode);
        fake_.store.set(backend_ + "/frontend-id", domain);
    }
    std::string node(const std::string& name) { return fake_.store.get(backend_ + "/" + name); }

    FakePorts fake_;
    std::string backend_;
    Result<Json> added_ =
        Json{{"ok", true}, {"device", "/dev/mapper/dmu-5-51712"}, {"major", 253}, {"minor", 26}, {"key", "1-2"}};
};

TEST_F(Hotplug, AddPublishesTheDevice) {
    const auto status = hotplug_add(fake_.ports, backend_);
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(node("physical-device-path"), "/dev/mapper/dmu-5-51712");
    EXPECT_EQ(node("physical-device"), "fd:1a");
    EXPECT_EQ(node("hotplug-status"), "connected");
    EXPECT_EQ(node("hotplug-error"), "");
    ASSERT_EQ(fake_.calls.size(), 1u);
    EXPECT_EQ(fake_.calls[0].instance, "dom-5");
    EXPECT_EQ(fake_.calls[0].request, (Json{{"command", "add"},
                                            {"spec", "qcow:/vm/disk.qcow"},
                                            {"mode", "w"},
                                            {"name", "dmu-5-51712"},
                                            {"user", backend_}}));
}

TEST_F(Hotplug, AddTwiceIsAddOnce) {
    ASSERT_TRUE(hotplug_add(fake_.ports, backend_));
    EXPECT_TRUE(hotplug_add(fake_.ports, backend_));
    EXPECT_EQ(node("physical-device"), "fd:1a");
}

TEST_F(Hotplug, AddRefusesToReplaceAConnectedDevice) {
    fake_.store.set(backend_ + "/physical-device", "fd:1");
    const auto status = hotplug_add(fake_.ports, backend_);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::busy);
    EXPECT_EQ(node("physical-device"), "fd:1");
    // What was connected before is not undone.
    EXPECT_EQ(fake_.calls.size(), 1u);
}

TEST_F(Hotplug, TakesTheOldSpellingAndReadOnly) {
    disk("5", "dmu:qcow:/vm/a, b:c.qcow", "r");
    ASSERT_TRUE(hotplug_add(fake_.ports, backend_));
    EXPECT_EQ(fake_.calls[0].request["spec"], "qcow:/vm/a, b:c.qcow");
    EXPECT_EQ(fake_.calls[0].request["mode"], "r");
}

TEST_F(Hotplug, AStubdomainUsesItsTargetsMapper) {
    disk("6", "qcow:/vm/disk.qcow", "w");
    fake_.store.set("/local/domain/6/target", "5");
    ASSERT_TRUE(hotplug_add(fake_.ports, backend_));
    EXPECT_EQ(fake_.calls[0].instance, "dom-5");
    EXPECT_EQ(fake_.calls[0].request["user"], "backend/vbd/6/51712");
    EXPECT_EQ(fake_.calls[0].request["name"], "dmu-5-51712");
}

TEST_F(Hotplug, BootloadersAttachToDomain0) {
    disk("0", "qcow:/vm/disk.qcow", "r");
    ASSERT_TRUE(hotplug_add(fake_.ports, backend_));
    EXPECT_EQ(fake_.calls[0].instance, "dom-0");
}

TEST_F(Hotplug, AFailedAddLeavesNothing) {
    added_ = Error{Code::busy, "/vm/disk.qcow is attached elsewhere"};
    const auto status = hotplug_add(fake_.ports, backend_);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().message, "/vm/disk.qcow is attached elsewhere");
    EXPECT_FALSE(fake_.store.exists(backend_ + "/physical-device"));
    EXPECT_FALSE(fake_.store.exists(backend_ + "/physical-device-path"));
    // An answer that came too late is undone, without starting a mapper for it.
    ASSERT_EQ(fake_.calls.size(), 2u);
    EXPECT_EQ(fake_.calls[1].request["command"], "remove");
    EXPECT_FALSE(fake_.calls[1].ensured);
}

TEST_F(Hotplug, SaysWhatIsWrongWithTheDisk) {
    const std::pair<const char*, const char*> wrong[] = {
        {"", "no target"}, {"/vm/disk.qcow", "no format"}, {"qcow:disk.qcow", "relative"}, {"qcow:", "path is empty"}};
    for (const auto& [params, cause] : wrong) {
        disk("5", params, "w");
        const auto status = hotplug_add(fake_.ports, backend_);
        ASSERT_FALSE(status) << params;
        EXPECT_THAT(status.error().message, HasSubstr(cause));
    }
    disk("5", "qcow:/p", "w!");
    EXPECT_FALSE(hotplug_add(fake_.ports, backend_));
    EXPECT_FALSE(hotplug_add(fake_.ports, ""));
    EXPECT_FALSE(hotplug_add(fake_.ports, "../../etc"));
    EXPECT_TRUE(fake_.calls.empty());
}

TEST_F(Hotplug, ErrorsGoWhereXlPrintsThem) {
    const auto store = fake_.store.connect();
    ASSERT_TRUE(report_hotplug_error(*store, backend_, {Code::io, "first\nsecond " + std::string(5000, 'x')}));
    EXPECT_THAT(node("hotplug-error"), HasSubstr("first second xx"));
    EXPECT_LT(node("hotplug-error").size(), 2000u);
    EXPECT_EQ(node("hotplug-status"), "error");
    // A backend that is gone does not come back for it.
    ASSERT_TRUE(report_hotplug_error(*store, "backend/vbd/9/51712", {Code::io, "late"}));
    EXPECT_FALSE(fake_.store.exists("backend/vbd/9"));
}

TEST_F(Hotplug, RemoveAsksTheMapper) {
    ASSERT_TRUE(hotplug_remove(fake_.ports, backend_));
    ASSERT_EQ(fake_.calls.size(), 1u);
    EXPECT_EQ(fake_.calls[0].instance, "dom-5");
    EXPECT_FALSE(fake_.calls[0].ensured);
    EXPECT_EQ(fake_.calls[0].request, (Json{{"command", "remove"}, {"user", backend_}}));
}

TEST_F(Hotplug, RemoveFailsOnNothingThatIsMissing) {
    fake_.replies.clear();
    EXPECT_TRUE(hotplug_remove(fake_.ports, backend_));
    fake_.store.remove("backend");
    EXPECT_TRUE(hotplug_remove(fake_.ports, backend_));
    fake_.ports.xenstore = nullptr;
    EXPECT_TRUE(hotplug_remove(fake_.ports, backend_));
}

TEST_F(Hotplug, RemoveStartsASuccessorWhereThereIsSomethingToCommit) {
    control::DiskState state;
    state.instance = "dom-7";  // the stubdomain's target, whose nodes are gone
    state.users = {backend_};
    fake_.states = {state};
    ASSERT_TRUE(hotplug_remove(fake_.ports, backend_));
    ASSERT_EQ(fake_.calls.size(), 1u);
    EXPECT_EQ(fake_.calls[0].instance, "dom-7");
    EXPECT_TRUE(fake_.calls[0].ensured);
    added_ = Error{Code::io, "the disk is full"};
    EXPECT_FALSE(hotplug_remove(fake_.ports, backend_));
}

}  // namespace
}  // namespace dmu
