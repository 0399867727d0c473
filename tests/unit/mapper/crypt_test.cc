// SPDX-License-Identifier: GPL-2.0-or-later
// The devices of an encrypted image: their tables, the order in which they come and go.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/mapper/support.h"
#include "xen-backend/mapper/crypt_stack.h"

namespace dmu::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t size = 8 << 20;
const std::string passphrase = "a passphrase of the test";

// The crypt device's node: an open file that stands for it.
Result<int> stand_in_node(const std::string&, bool) {
    const int file = memfd_create("crypt", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, size) != 0) return system_error("making a file in memory");
    return file;
}

class Crypt : public ::testing::Test {
protected:
    void SetUp() override {
        std::ofstream(place_.path("key")) << passphrase;
        host_.store.set("backend/vbd/5/51712/frontend", "/local/domain/5/device/vbd/51712");
    }

    KernelAccess access() {
        KernelAccess access = access_to(host_.kernel);
        access.open_device = stand_in_node;
        return access;
    }
    std::string make(const std::string& format, const std::string& encryption, const std::string& name = "disk") {
        std::ofstream(place_.path(name)).close();
        auto file = open_file(place_.path(name), {.writable = true});
        EXPECT_TRUE(file);
        CreateOptions options;
        options.virtual_size = size;
        options.options = {{"key-file", place_.path("key")}};
        if (!encryption.empty()) options.options.emplace_back("encryption", encryption);
        if (encryption == "luks") options.options.emplace_back("iter_time", "1");
        const Status made = find_format(format)->create(**file, options);
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return format + ";key-file=" + place_.path("key") + ":" + place_.path(name);
    }
    control::Json add(const std::string& spec) {
        auto reply = control::call("dom-5", add_request(spec));
        return reply ? *reply : control::error_reply(reply.error());
    }
    std::string key() const { return host_.dm.device("dmu-5-51712").info.uuid.substr(4); }

    Place place_;
    TestHost host_;
};

TEST_F(Crypt, ComesFromTheBaseUpAndGoesFromTheTopDown) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    const auto added = add(make("qcow2", "luks"));
    ASSERT_TRUE(added.at("ok").get<bool>()) << added;
    EXPECT_THAT(host_.dm.history(), ElementsAre("+dmu-5-51712+base-0.0", "+dmu-5-51712+crypt-0.0", "+dmu-5-51712"));
    ASSERT_TRUE(control::call("dom-5", remove_request()));
    EXPECT_THAT(host_.dm.history(), ElementsAre("+dmu-5-51712+base-0.0", "+dmu-5-51712+crypt-0.0", "+dmu-5-51712",
                                                "-dmu-5-51712", "-dmu-5-51712+crypt-0.0", "-dmu-5-51712+base-0.0"));
    EXPECT_TRUE(place_.states().empty());
}

TEST_F(Crypt, TablesOfLuks) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    ASSERT_TRUE(add(make("qcow2", "luks")).at("ok").get<bool>());
    const auto base = host_.dm.device("dmu-5-51712+base-0.0"), crypt = host_.dm.device("dmu-5-51712+crypt-0.0");
    EXPECT_EQ(base.info.uuid, "DMU-" + key() + "+base-0.0");
    EXPECT_EQ(base.active.target, "userspace");
    EXPECT_EQ(base.active.parameters, key() + "+base-0.0 2 logical 512");
    EXPECT_EQ(base.active.sectors, base_sectors);
    EXPECT_EQ(crypt.info.uuid, "DMU-" + key() + "+crypt-0.0");
    EXPECT_EQ(crypt.active.target, "crypt");
    EXPECT_EQ(crypt.active.sectors, base_sectors);
    EXPECT_EQ(crypt.active.parameters,
              "aes-xts-plain64 :64:logon:dmu:dmu-5-51712+crypt-0.0 0 253:" + std::to_string(base.info.minor) + " 0");
    EXPECT_EQ(crypt.secret_description, "dmu:dmu-5-51712+crypt-0.0");
    EXPECT_EQ(crypt.secret.size(), 64u);
}

TEST_F(Crypt, TablesOfLegacyAes) {
    for (const std::string format : {"qcow2", "qcow"}) {
        KernelAccess kernel = access();
        TestMapper mapper(host_, "dom-5", &kernel);
        const auto added = add(make(format, format == "qcow" ? "" : "aes", format));
        ASSERT_TRUE(added.at("ok").get<bool>()) << added;
        const auto base = host_.dm.device("dmu-5-51712+base-0.0"), crypt = host_.dm.device("dmu-5-51712+crypt-0.0");
        EXPECT_EQ(base.active.sectors, size / 512);
        EXPECT_THAT(crypt.active.parameters, HasSubstr("aes-cbc-plain64 :16:logon:"));
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(crypt.secret.data()), crypt.secret.size()),
                  passphrase.substr(0, 16));
        EXPECT_THAT(host_.dm.device("dmu-5-51712").active.parameters, Not(HasSubstr("discard")));
        ASSERT_TRUE(control::call("dom-5", remove_request()));
    }
}

TEST_F(Crypt, ADeviceThatCantBeMadeLeavesNothing) {
    KernelAccess kernel = access();
    TestMapper mapper(host_, "dom-5", &kernel);
    const auto spec = make("qcow2", "luks");
    host_.dm.fail_next_load({Code::invalid, "no such cipher"});
    const auto added = add(spec);
    EXPECT_FALSE(added.at("ok").get<bool>());
    EXPECT_THAT(added.at("error").get<std::string>(), HasSubstr("no such cipher"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+base-0.0"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+crypt-0.0"));
    EXPECT_TRUE(place_.states().empty());
    EXPECT_TRUE(add(spec).at("ok").get<bool>());
}

TEST_F(Crypt, TheStateSaysWhatASuccessorHasToFind) {
    KernelAccess kernel = access();
    const auto spec = make("qcow2", "luks");
    {
        TestMapper mapper(host_, "dom-5", &kernel);
        ASSERT_TRUE(add(spec).at("ok").get<bool>());
    }
    const auto states = control::all_states();
    ASSERT_EQ(states.size(), 1u);
    ASSERT_EQ(states[0].files.size(), 1u);
    EXPECT_TRUE(states[0].files[0].encrypted);
    TestMapper successor(host_, "dom-5", &kernel);
    EXPECT_TRUE(eventually([] {
        auto list = control::call("dom-5", {{"command", "list"}});
        return list && list->at("disks").at(0).at("stage") == "active" &&
               list->at("disks").at(0).at("encryption") == "luks";
    }));
    ASSERT_TRUE(control::call("dom-5", remove_request()));
    EXPECT_TRUE(eventually([&] { return !host_.dm.exists("dmu-5-51712+base-0.0"); }));
}

TEST_F(Crypt, WhatAKilledMapperWasMakingGoesWithItsSuccessor) {
    KernelAccess kernel = access();
    control::DiskState state;
    state.instance = "dom-5";
    state.name = "dmu-5-51712";
    state.key = "fd00-1";
    state.uuid = "DMU-fd00-1";
    state.spec = make("qcow2", "luks");
    state.writable = true;
    state.on_full = "wait";
    state.files = {{0, 0, place_.path("disk"), 0, false, true}};
    ASSERT_TRUE(control::write_state(state));
    auto devices = host_.dm.connect();
    for (const auto& device : control::crypt_devices(state))
        ASSERT_TRUE(devices->create(device.name, device.uuid, {8, "zero", "x", false}));
    TestMapper successor(host_, "dom-5", &kernel);
    EXPECT_TRUE(eventually([&] { return place_.states().empty(); }));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+base-0.0"));
    EXPECT_FALSE(host_.dm.exists("dmu-5-51712+crypt-0.0"));
}

}  // namespace
}  // namespace dmu::test
