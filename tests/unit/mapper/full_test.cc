// SPDX-License-Identifier: GPL-2.0-or-later
// The file system under the image is full.
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

struct FullDisk {
    explicit FullDisk(OnFull policy) {
        access.wrap = [faults = faults](std::unique_ptr<BlockFile> file) {
            return std::make_unique<FaultableFile>(std::move(file), faults);
        };
        DiskSetup setup = setup_for("qcow:" + place.qcow("a.qcow", 1 << 20));
        setup.config.on_full = policy;
        disk = std::make_unique<TestDisk>(access, kernel, setup);
        faults->full = true;
    }
    Place place;
    FakeKernel kernel;
    std::shared_ptr<Faults> faults = std::make_shared<Faults>();
    KernelAccess access = access_to(kernel);
    std::unique_ptr<TestDisk> disk;
};

TEST(Full, TheGuestWaitsAndGoesOnWhenSpaceIsBack) {
    FullDisk test(OnFull::wait);
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    auto write = test.disk->target().write(0, pattern(4096, 1));
    auto other = test.disk->target().write(1024, pattern(512, 2));
    ASSERT_TRUE(eventually([&] { return test.disk->disk().figures().waiting == 2; }));
    EXPECT_FALSE(write->done());
    EXPECT_TRUE(test.disk->disk().alarms().is_raised("full"));
    EXPECT_EQ(test.disk->read(64, 8), Bytes(4096)) << "reads go on";
    test.faults->full = false;
    ASSERT_TRUE(write->wait());
    ASSERT_TRUE(other->wait());
    EXPECT_EQ(write->error(), 0);
    EXPECT_EQ(other->error(), 0);
    EXPECT_EQ(test.disk->read(0, 8), pattern(4096, 1));
    EXPECT_TRUE(eventually([&] { return !test.disk->disk().alarms().is_raised("full"); }));
}

TEST(Full, TheGuestGetsAnErrorWhereItIsToldSo) {
    FullDisk test(OnFull::error);
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    EXPECT_EQ(test.disk->write(0, pattern(4096, 1)), ENOSPC);
    EXPECT_TRUE(test.disk->disk().alarms().is_raised("full"));
    test.faults->full = false;
    EXPECT_EQ(test.disk->write(0, pattern(4096, 1)), 0);
    EXPECT_FALSE(test.disk->disk().alarms().is_raised("full"));
}

TEST(Full, NobodyWaitsForSpaceOnceTheDeviceGoes) {
    FullDisk test(OnFull::wait);
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    auto write = test.disk->target().write(0, pattern(4096, 1));
    ASSERT_TRUE(eventually([&] { return test.disk->disk().figures().waiting == 1; }));
    test.disk->disk().take_down();
    ASSERT_TRUE(write->wait());
    EXPECT_EQ(write->error(), ENOSPC);
}

}  // namespace
}  // namespace dmu::test
