// SPDX-License-Identifier: GPL-2.0-or-later
// A disk's paths: reads, first writes, copy-on-write, flushes, commits.
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20;

TEST(Disk, ReadsZerosThenWhatWasWritten) {
    Place place;
    FakeKernel kernel;
    TestDisk disk(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.read(0, 64), Bytes(64 * 512));
    Bytes data = pattern(4096, 1);
    EXPECT_EQ(disk.write(13, data), 0);
    EXPECT_EQ(disk.read(13, 8), data);
    EXPECT_EQ(disk.flush(), 0);
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);

    TestDisk again(kernel, setup_for("qcow:" + place.path("a.qcow")));
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again.read(13, 8), data);
    EXPECT_EQ(again.read(0, 13), Bytes(13 * 512));
    EXPECT_TRUE(again.target().refusals().empty());
}

TEST(Disk, WritesRawInPlace) {
    Place place;
    FakeKernel kernel;
    Bytes before = pattern(1 << 20, 7);
    TestDisk disk(kernel, setup_for("raw:" + place.raw("a.raw", before)));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.read(0, 2048), before);
    EXPECT_EQ(disk.write(100, pattern(2048, 3)), 0);
    EXPECT_EQ(disk.read(100, 4), pattern(2048, 3));
    EXPECT_TRUE(disk.target().refusals().empty());
    EXPECT_TRUE(disk.close());
}

TEST(Disk, CopyOnWriteKeepsTheOtherBytesOfTheCluster) {
    Place place;
    FakeKernel kernel;
    Bytes base = pattern(size, 5);
    place.raw("base.raw", base);
    place.qcow("middle.qcow", size, place.path("base.raw"));
    TestDisk disk(kernel, setup_for("qcow;backing-format=raw:" + place.path("middle.qcow")));
    ASSERT_TRUE(disk) << disk.error().message;
    ASSERT_EQ(disk.facts().files.size(), 2u);
    EXPECT_EQ(disk.facts().files[1].destination, destination_number(1, 0));
    EXPECT_EQ(disk.write(17, pattern(512, 9)), 0);
    EXPECT_EQ(disk.flush(), 0);
    Bytes expected(base.begin(), base.begin() + 64 * 512);
    Bytes written = pattern(512, 9);
    std::copy(written.begin(), written.end(), expected.begin() + 17 * 512);
    EXPECT_EQ(disk.read(0, 64), expected);
    EXPECT_TRUE(disk.close());
    auto file = open_file(place.path("base.raw"), {});
    Bytes after(size);
    ASSERT_TRUE((*file)->read(0, after));
    EXPECT_EQ(after, base);
}

TEST(Disk, TheDevicesEndMayCutTheLastCluster) {
    Place place;
    FakeKernel kernel;
    constexpr std::uint64_t odd = size + 512;
    TestDisk disk(kernel, setup_for("qcow:" + place.qcow("odd.qcow", odd)));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.write(odd / 512 - 1, pattern(512, 2)), 0);
    EXPECT_EQ(disk.flush(), 0);
    EXPECT_EQ(disk.read(odd / 512 - 1, 1), pattern(512, 2));
    EXPECT_TRUE(disk.target().refusals().empty()) << disk.target().refusals().front();
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("odd.qcow").corruptions, 0u);
}

struct FaultableDisk {
    FaultableDisk() {
        access.wrap = [faults = faults](std::unique_ptr<BlockFile> file) {
            return std::make_unique<FaultableFile>(std::move(file), faults);
        };
        DiskSetup setup = setup_for("qcow:" + place.qcow("a.qcow", size));
        setup.config.commit_seconds = 3600;
        disk = std::make_unique<TestDisk>(access, kernel, setup);
    }
    Place place;
    FakeKernel kernel;
    std::shared_ptr<Faults> faults = std::make_shared<Faults>();
    KernelAccess access = access_to(kernel);
    std::unique_ptr<TestDisk> disk;
};

TEST(Disk, FlushesThatCameTogetherShareACommit) {
    FaultableDisk test;
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    EXPECT_EQ(test.disk->write(0, pattern(512, 1)), 0);
    EXPECT_EQ(test.disk->write(1024, pattern(512, 1)), 0);
    test.faults->hold_syncs = true;
    std::vector<FakeRequestPtr> flushes;
    for (unsigned i = 0; i < 8; ++i) flushes.push_back(test.disk->target().flush());
    ASSERT_TRUE(eventually([&] { return test.faults->syncs > 0; }));
    for (const auto& flush : flushes) EXPECT_FALSE(flush->done());
    test.faults->hold_syncs = false;
    for (const auto& flush : flushes) {
        ASSERT_TRUE(flush->wait());
        EXPECT_EQ(flush->error(), 0);
    }
    ASSERT_TRUE(eventually([&] { return test.disk->disk().figures().commits >= 1; }));
    EXPECT_LE(test.disk->disk().figures().commits, 2u);
    // Nothing is dirty: nobody is asked.
    auto before = test.disk->disk().figures().commits;
    EXPECT_EQ(test.disk->flush(), 0);
    EXPECT_EQ(test.disk->disk().figures().commits, before);
}

TEST(Disk, AFlushWhoseCommitFailsSaysSoAndTheCommitIsTriedAgain) {
    FaultableDisk test;
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    EXPECT_EQ(test.disk->write(0, pattern(512, 1)), 0);
    test.faults->broken_writes = true;
    EXPECT_EQ(test.disk->flush(), EIO);
    EXPECT_TRUE(test.disk->disk().alarms().is_raised("commit"));
    test.faults->broken_writes = false;
    ASSERT_TRUE(eventually([&] { return test.disk->target().log().empty(); }));
    EXPECT_TRUE(eventually([&] { return !test.disk->disk().alarms().is_raised("commit"); }));
    EXPECT_EQ(test.disk->flush(), 0);
}

TEST(Disk, AFailedFirstWriteIsAnErrorForItsRequestOnly) {
    FaultableDisk test;
    ASSERT_TRUE(*test.disk) << test.disk->error().message;
    test.disk->target().fail_places(1);
    EXPECT_EQ(test.disk->write(0, pattern(512, 1)), EIO);
    EXPECT_EQ(test.disk->write(0, pattern(512, 2)), 0);
    EXPECT_EQ(test.disk->flush(), 0);
    EXPECT_EQ(test.disk->read(0, 1), pattern(512, 2));
    EXPECT_TRUE(test.disk->close());
    EXPECT_EQ(test.place.check("a.qcow").corruptions, 0u);
}

TEST(Disk, CommitsWithoutAFlush) {
    Place place;
    FakeKernel kernel;
    TestDisk disk(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.write(0, pattern(512, 1)), 0);
    EXPECT_TRUE(eventually([&] { return disk.target().log().empty(); }));
    EXPECT_EQ(disk.target().state().committed, disk.target().state().sequence);
}

TEST(Disk, CommitsWhenAsked) {
    Place place;
    FakeKernel kernel;
    DiskSetup setup = setup_for("qcow:" + place.qcow("a.qcow", size));
    setup.config.commit_seconds = 3600;
    TestDisk disk(kernel, setup);
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.write(0, pattern(512, 1)), 0);
    EXPECT_TRUE(eventually([&] {
        std::promise<Status> done;
        disk.disk().commit([&](const Status& status) { done.set_value(status); });
        return static_cast<bool>(done.get_future().get()) && disk.target().log().empty();
    }));
}

TEST(Disk, ReadOnlyNeverWrites) {
    Place place;
    FakeKernel kernel;
    std::string path = place.qcow("a.qcow", size);
    std::filesystem::permissions(path, std::filesystem::perms::owner_read);
    TestDisk disk(kernel, setup_for("qcow:" + path, false));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_NE(disk.facts().table_parameters().find("read_only"), std::string::npos);
    EXPECT_NE(disk.facts().key.find("-dom-5-dmu-5-51712"), std::string::npos);
    EXPECT_EQ(disk.read(0, 8), Bytes(4096));
    EXPECT_EQ(disk.write(0, pattern(512, 1)), EROFS);
    EXPECT_TRUE(disk.close());
}

TEST(Disk, ManyRandomWritesReadBack) {
    Place place;
    FakeKernel kernel;
    TestDisk disk(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    Bytes model(size);
    unsigned seed = 12345;
    for (unsigned i = 0; i < 200; ++i) {
        seed = seed * 1103515245 + 12345;
        std::uint64_t sector = seed % (size / 512 - 40), length = 1 + seed / 65536 % 40;
        Bytes data = pattern(length * 512, i);
        ASSERT_EQ(disk.write(sector, data), 0);
        std::copy(data.begin(), data.end(), model.begin() + static_cast<long>(sector * 512));
        if (i % 20 == 0) {
            ASSERT_EQ(disk.flush(), 0);
        }
        if (i % 30 == 0) disk.target().shrink();
    }
    EXPECT_EQ(disk.read(0, size / 512), model);
    EXPECT_TRUE(disk.target().refusals().empty());
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

}  // namespace
}  // namespace dmu::test
