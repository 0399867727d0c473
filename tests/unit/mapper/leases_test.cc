// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper keeps leases ahead of the writer, and gets back what nobody took.
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 64 << 20;
constexpr std::uint64_t features = DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE | DMU_FEATURE_LEASES;

DiskSetup lazy(const std::string& spec) {
    DiskSetup setup = setup_for(spec);
    setup.config.lease_ahead = LeaseAhead::yes;
    setup.config.commit_seconds = 3600;
    return setup;
}

// One sector of each grain of 4 KiB.
void write_grains(TestDisk& disk, unsigned from, unsigned to) {
    for (unsigned i = from; i < to; ++i) ASSERT_EQ(disk.write(i * 8, pattern(512, i)), 0);
}

void expect_grains(TestDisk& disk, unsigned from, unsigned to) {
    for (unsigned i = from; i < to; ++i) {
        Bytes expected = pattern(512, i);
        expected.resize(1024);
        ASSERT_EQ(disk.read(i * 8, 2), expected) << "grain " << i;
    }
}

TEST(Leases, FirstWritesAskOnce) {
    Place place;
    FakeKernel kernel(features);
    TestDisk disk(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    write_grains(disk, 0, 2000);
    // The first finds no lease; later ones may outrun the mapper a few times.
    EXPECT_LT(disk.target().state().misses, 200u);
    expect_grains(disk, 0, 2000);
    EXPECT_EQ(disk.flush(), 0);
    EXPECT_TRUE(disk.target().refusals().empty());
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
    EXPECT_EQ(place.check("a.qcow").allocated, 2000u);

    TestDisk again(kernel, lazy("qcow:" + place.path("a.qcow")));
    ASSERT_TRUE(again) << again.error().message;
    expect_grains(again, 0, 2000);
}

TEST(Leases, OfAModuleWithoutThemNothingIsWanted) {
    Place place;
    FakeKernel kernel;
    TestDisk disk(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    write_grains(disk, 0, 20);
    EXPECT_EQ(disk.target().state().misses, 20u);
    EXPECT_TRUE(disk.target().refusals().empty());
}

TEST(Leases, CloseCutsOffWhatNobodyTook) {
    Place place;
    FakeKernel kernel(features);
    TestDisk disk(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    write_grains(disk, 0, 4);
    EXPECT_GT(std::filesystem::file_size(place.path("a.qcow")), 1u << 20);
    EXPECT_TRUE(disk.close());
    // Of the lease only its first grains are left, and before it what was kept for tables.
    EXPECT_LT(std::filesystem::file_size(place.path("a.qcow")), 300u << 10);
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

// The default: only where all of it comes back.
TEST(Leases, AreTakenByThemselvesOfQcow2Only) {
    for (const std::string format : {"qcow", "qcow2", "vmdk"}) {
        Place place;
        FakeKernel kernel(features);
        DiskSetup setup = lazy(format + ":" + place.image(format, "a", size));
        setup.config.lease_ahead = LeaseAhead::automatic;
        TestDisk disk(kernel, setup);
        ASSERT_TRUE(disk) << disk.error().message;
        for (unsigned i = 0; i < 100; ++i) ASSERT_EQ(disk.write(i * 128, pattern(512, i)), 0);
        EXPECT_EQ(disk.target().state().misses < 50, format == "qcow2") << format;
        EXPECT_TRUE(disk.close());
        EXPECT_EQ(place.check("a", format).leaks, 0u) << format;
    }
}

TEST(Leases, OfEveryFormatLeaveTheImageSound) {
    for (const std::string format : {"qcow2", "vmdk"}) {
        Place place;
        FakeKernel kernel(features);
        TestDisk disk(kernel, lazy(format + ":" + place.image(format, "a", size)));
        ASSERT_TRUE(disk) << disk.error().message;
        // One sector of each grain of 64 KiB.
        for (unsigned i = 0; i < 500; ++i) ASSERT_EQ(disk.write(i * 128, pattern(512, i)), 0);
        EXPECT_LT(disk.target().state().misses, 100u) << format;
        EXPECT_EQ(disk.flush(), 0);
        EXPECT_TRUE(disk.target().refusals().empty());
        EXPECT_TRUE(disk.close());
        const auto report = place.check("a", format);
        EXPECT_EQ(report.corruptions, 0u) << format;
        EXPECT_EQ(report.allocated, 500u) << format;
        if (format == "qcow2") {
            EXPECT_EQ(report.leaks, 0u);
        }
        TestDisk again(kernel, lazy(format + ":" + place.path("a")));
        ASSERT_TRUE(again) << again.error().message;
        for (unsigned i = 0; i < 500; ++i) ASSERT_EQ(again.read(i * 128, 1), pattern(512, i)) << format << " " << i;
    }
}

TEST(Leases, OfQcow2ASuccessorTakesTheRestBack) {
    Place place;
    FakeKernel kernel(features);
    TestDisk first(kernel, lazy("qcow2:" + place.image("qcow2", "a", size)));
    ASSERT_TRUE(first) << first.error().message;
    for (unsigned i = 0; i < 4; ++i) ASSERT_EQ(first.write(i * 128, pattern(512, i)), 0);
    DiskSetup setup = first.successor_setup();
    first.kill();
    // Nobody is there: these take the lease.
    for (unsigned i = 4; i < 8; ++i) ASSERT_EQ(first.write(i * 128, pattern(512, i)), 0);
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    for (unsigned i = 8; i < 200; ++i) ASSERT_EQ(second.write(i * 128, pattern(512, i)), 0);
    for (unsigned i = 0; i < 200; ++i) ASSERT_EQ(second.read(i * 128, 1), pattern(512, i));
    EXPECT_TRUE(second.close());
    const auto report = place.check("a", "qcow2");
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_EQ(report.allocated, 200u);
}

TEST(Leases, ReadingLeasesNothing) {
    Place place;
    FakeKernel kernel(features);
    TestDisk disk(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    const auto before = std::filesystem::file_size(place.path("a.qcow"));
    (void)disk.read(0, 8);
    EXPECT_EQ(std::filesystem::file_size(place.path("a.qcow")), before);
}

TEST(Leases, FirstWritesGoOnWithoutAMapperAndASuccessorTakesTheRestBack) {
    Place place;
    FakeKernel kernel(features);
    TestDisk first(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    write_grains(first, 0, 4);
    DiskSetup setup = first.successor_setup();
    first.kill();
    // Nobody is there: these take the lease.
    write_grains(first, 4, 50);

    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    write_grains(second, 50, 600);
    expect_grains(second, 0, 600);
    EXPECT_EQ(second.flush(), 0);
    EXPECT_TRUE(second.target().refusals().empty());
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
    EXPECT_EQ(place.check("a.qcow").allocated, 600u);
}

TEST(Leases, OfAPredecessorComeBackThoughNoneAreWanted) {
    Place place;
    FakeKernel kernel(features);
    TestDisk first(kernel, lazy("qcow2:" + place.image("qcow2", "a", size)));
    ASSERT_TRUE(first) << first.error().message;
    for (unsigned i = 0; i < 4; ++i) ASSERT_EQ(first.write(i * 128, pattern(512, i)), 0);
    DiskSetup setup = first.successor_setup();
    setup.config.lease_ahead = LeaseAhead::no;
    first.kill();
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    const auto misses = second.target().state().misses;
    ASSERT_EQ(second.write(100 * 128, pattern(512, 100)), 0);
    EXPECT_EQ(second.target().state().misses, misses + 1);
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("a", "qcow2").corruptions, 0u);
}

TEST(Leases, DiskFullStillWaits) {
    Place place;
    FakeKernel kernel(features);
    auto faults = std::make_shared<Faults>();
    KernelAccess access = access_to(kernel);
    access.wrap = [&](std::unique_ptr<BlockFile> file) {
        return std::make_unique<FaultableFile>(std::move(file), faults);
    };
    TestDisk disk(access, kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    faults->full = true;
    auto waiting = disk.target().write(0, pattern(512, 0));
    ASSERT_TRUE(eventually([&] { return disk.disk().figures().waiting == 1; }));
    faults->full = false;
    ASSERT_TRUE(waiting->wait());
    EXPECT_EQ(waiting->error(), 0);
    write_grains(disk, 1, 100);
    expect_grains(disk, 0, 100);
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

}  // namespace
}  // namespace dmu::test
