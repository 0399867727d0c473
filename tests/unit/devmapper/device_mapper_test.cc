// SPDX-License-Identifier: GPL-2.0-or-later
// What can be said without making devices: names, words of failures, the log, the fake.
#include "xen-backend/devmapper/device_mapper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/fakes/fake_device_mapper.h"
#include "xen-backend/devmapper/kernel_log.h"

namespace dmu {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

TEST(DmName, Checked) {
    for (const char* good : {"dmu-5-51712", "a", "vm_1.disk", "x#+-.:=@_y"}) EXPECT_TRUE(check_dm_name(good)) << good;
    for (const std::string& bad : {std::string(), std::string("a/b"), std::string("a b"), std::string("ä"),
                                   std::string("control"), std::string(".."), std::string(128, 'x')})
        EXPECT_EQ(check_dm_name(bad).error().code, Code::invalid) << bad;
}

TEST(DeviceMapper, WithoutDeviceMapperItSaysSo) {
    const auto dm = open_device_mapper();
    if (dm->list()) GTEST_SKIP() << "this machine has device-mapper";
    const auto made = dm->create("dmu-unit-test", "DMU-unit-test", {.sectors = 8, .target = "zero", .parameters = ""});
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().message, HasSubstr("cannot create device-mapper device 'dmu-unit-test'"));
    if (geteuid() != 0) {
        EXPECT_EQ(made.error().code, Code::denied);
    } else {
        EXPECT_EQ(made.error().code, Code::not_found);
        EXPECT_THAT(made.error().message, HasSubstr("modprobe dm-mod"));
    }
}

TEST(KernelLog, TakesTheLinesOfDeviceMapper) {
    EXPECT_EQ(device_mapper_line("3,100,2000,-;device-mapper: table: 253:0: userspace: bad key\n SUBSYSTEM=x\n"),
              "device-mapper: table: 253:0: userspace: bad key");
    EXPECT_EQ(device_mapper_line("3,100,2000,-;usb 1-1: new device\n"), "");
    EXPECT_EQ(device_mapper_line("garbage"), "");
    EXPECT_NO_FATAL_FAILURE(KernelLog().since());
}

TEST(FakeDeviceMapper, LifeOfADevice) {
    FakeDmKernel kernel;
    std::uint64_t table = 99;
    kernel.on_table = [&](const std::string&, const DmTable& active) { table = active.sectors; };
    const auto dm = kernel.connect();
    const auto made = dm->create("d", "DMU-k", {.sectors = 8, .target = "userspace", .parameters = "k 0"});
    ASSERT_TRUE(made);
    EXPECT_EQ(made->path, "/dev/mapper/d");
    EXPECT_EQ(table, 8u);
    EXPECT_EQ(dm->create("d", "x", {.sectors = 8, .target = "zero", .parameters = ""}).error().code, Code::busy);
    EXPECT_EQ(dm->create("e", "DMU-k", {.sectors = 8, .target = "zero", .parameters = ""}).error().code, Code::busy);
    ASSERT_TRUE(dm->reload("d", {.sectors = 16, .target = "userspace", .parameters = "k 0"}));
    ASSERT_TRUE(dm->suspend("d", true));
    EXPECT_EQ(table, 8u);
    ASSERT_TRUE(dm->resume("d"));
    EXPECT_EQ(table, 16u);
    EXPECT_THAT(*dm->list(), SizeIs(1));
    EXPECT_THAT(*dm->list("LVM-"), SizeIs(0));
    EXPECT_EQ(dm->info_by_uuid("DMU-k")->name, "d");
    kernel.open("d", 1);
    EXPECT_EQ(dm->remove("d", true).error().code, Code::busy);
    ASSERT_TRUE(dm->remove_deferred("d"));
    EXPECT_TRUE(kernel.exists("d"));
    kernel.open("d", -1);
    EXPECT_FALSE(kernel.exists("d"));
    EXPECT_EQ(table, 0u);
    EXPECT_EQ(dm->info("d").error().code, Code::not_found);
}

TEST(FakeDeviceMapper, FailedLoadLeavesNothing) {
    FakeDmKernel kernel;
    const auto dm = kernel.connect();
    kernel.fail_next_load({Code::not_found, "no target type"});
    EXPECT_EQ(dm->create("d", "u", {.sectors = 8, .target = "userspace", .parameters = ""}).error().code,
              Code::not_found);
    EXPECT_FALSE(kernel.exists("d"));
    EXPECT_TRUE(dm->create("d", "u", {.sectors = 8, .target = "userspace", .parameters = ""}));
}

}  // namespace
}  // namespace dmu
