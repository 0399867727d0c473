// SPDX-License-Identifier: GPL-2.0-or-later
// An image that its last writer left dirty is a guest's disk at once; the mapper makes its
// refcounts while it serves.
#include <algorithm>
#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 64 << 20, cluster = 65536;

std::uint64_t load(const std::string& bytes, std::uint64_t at) {
    std::uint64_t word = 0;
    for (std::uint64_t i = 0; i < 8; ++i) word = word << 8 | static_cast<unsigned char>(bytes[at + i]);
    return word;
}

std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

bool is_dirty(const std::string& path) {
    return (load(content(path), 72) & 1) != 0;
}

void mark_dirty(const std::string& path) {
    auto bytes = content(path);
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(79).put(static_cast<char>(bytes[79] | 1));
}

enum class Blocks { empty, missing };

// The mark, and no refcounts.
void make_dirty(const std::string& path, Blocks blocks) {
    mark_dirty(path);
    auto bytes = content(path);
    const auto table = load(bytes, 48);
    for (std::uint64_t at = table; at < table + cluster; at += 8) {
        const auto block = load(bytes, at);
        if (block == 0) continue;
        if (blocks == Blocks::empty)
            std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(block), cluster, '\0');
        else
            std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), 8, '\0');
    }
    std::ofstream(path, std::ios::binary) << bytes;
}

// With something written on it, by the mapper.
std::string dirty_image(const Place& place, FakeKernel& kernel, Blocks blocks = Blocks::empty) {
    const auto path = place.image("qcow2", "a.qcow2", size);
    {
        TestDisk disk(kernel, setup_for("qcow2:" + path));
        EXPECT_TRUE(disk) << disk.error().message;
        for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(disk.write(i * 256, pattern(512, i)), 0);
        EXPECT_TRUE(disk.close());
    }
    make_dirty(path, blocks);
    return path;
}

TEST(Dirty, RefcountsAreMadeWhileItIsUsed) {
    Place place;
    FakeKernel kernel;
    const auto path = dirty_image(place, kernel);
    TestDisk disk(kernel, setup_for("qcow2:" + path));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.write(20000, pattern(512, 100)), 0);
    EXPECT_EQ(disk.read(256, 1), pattern(512, 1));
    EXPECT_TRUE(eventually([&] { return !is_dirty(path); }));
    EXPECT_EQ(disk.write(40000, pattern(512, 101)), 0);
    EXPECT_FALSE(disk.disk().alarms().is_raised("work"));
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow2", "qcow2").corruptions, 0u);
    EXPECT_EQ(place.check("a.qcow2", "qcow2").leaks, 0u);
    TestDisk again(kernel, setup_for("qcow2:" + path, false));
    ASSERT_TRUE(again) << again.error().message;
    for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(again.read(i * 256, 1), pattern(512, i));
    EXPECT_EQ(again.read(20000, 1), pattern(512, 100));
    EXPECT_EQ(again.read(40000, 1), pattern(512, 101));
}

// It can't be done now; the guest's disk works, an alarm says why, and it is done later.
TEST(Dirty, WhereItFailsItIsTriedAgain) {
    Place place;
    FakeKernel kernel;
    const auto path = dirty_image(place, kernel);
    auto faults = std::make_shared<Faults>();
    auto access = access_to(kernel);
    access.wrap = [faults](std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        return std::make_unique<FaultableFile>(std::move(file), faults);
    };
    faults->broken_writes = true;
    TestDisk disk(access, kernel, setup_for("qcow2:" + path));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.read(256, 1), pattern(512, 1));
    EXPECT_TRUE(eventually([&] { return disk.disk().alarms().is_raised("work"); }));
    EXPECT_EQ(disk.write(256, pattern(512, 7)), 0) << "it has its place";
    EXPECT_TRUE(is_dirty(path));
    faults->broken_writes = false;
    EXPECT_TRUE(eventually([&] { return !is_dirty(path); }));
    EXPECT_TRUE(eventually([&] { return !disk.disk().alarms().is_raised("work"); }));
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a.qcow2", "qcow2").corruptions, 0u);
}

// Nothing can be allocated, or written, for as long as they live; the next one goes on from there.
void fails_to_the_end(std::atomic<bool> Faults::*fault, const std::string& why) {
    Place place;
    FakeKernel kernel;
    const auto path = dirty_image(place, kernel, Blocks::missing);
    auto faults = std::make_shared<Faults>();
    auto access = access_to(kernel);
    access.wrap = [faults](std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        return std::make_unique<FaultableFile>(std::move(file), faults);
    };
    (*faults).*fault = true;
    std::unique_ptr<TestDisk> disk;
    for (const bool again : {false, true}) {
        disk = std::make_unique<TestDisk>(access, kernel, setup_for("qcow2:" + path));
        ASSERT_TRUE(*disk) << disk->error().message;
        ASSERT_TRUE(eventually([&] { return disk->disk().alarms().is_raised("work"); }));
        const auto alarms = disk->disk().alarms().list();
        EXPECT_TRUE(std::any_of(alarms.begin(), alarms.end(), [&](const std::string& alarm) {
            return alarm.starts_with("work: ") && alarm.find(why) != std::string::npos;
        })) << why;
        for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(disk->read(i * 256, 1), pattern(512, again ? i + 40 : i));
        for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(disk->write(i * 256, pattern(512, i + 40)), 0) << "it has a place";
        EXPECT_EQ(disk->flush(), 0);
        if (!again) (void)disk->close();
        EXPECT_TRUE(is_dirty(path));
    }
    // What the kernel hands over is whole.
    const auto next = disk->successor_setup();
    disk->kill();
    disk = std::make_unique<TestDisk>(kernel, next);
    ASSERT_TRUE(*disk) << disk->error().message;
    EXPECT_TRUE(eventually([&] { return !is_dirty(path); }));
    EXPECT_EQ(disk->write(20000, pattern(512, 100)), 0);
    EXPECT_TRUE(disk->close());
    EXPECT_EQ(place.check("a.qcow2", "qcow2").corruptions, 0u);
    EXPECT_EQ(place.check("a.qcow2", "qcow2").leaks, 0u);
    TestDisk reader(kernel, setup_for("qcow2:" + path, false));
    ASSERT_TRUE(reader) << reader.error().message;
    for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(reader.read(i * 256, 1), pattern(512, i + 40));
    EXPECT_EQ(reader.read(20000, 1), pattern(512, 100));
}

TEST(Dirty, AFullFileSystemToTheEnd) {
    fails_to_the_end(&Faults::full, "the file system is full");
}

TEST(Dirty, ABrokenDiskToTheEnd) {
    fails_to_the_end(&Faults::broken_writes, "the disk is broken");
}

// Killed at any point of it: what was given to the kernel is never given out again.
TEST(Dirty, KillsWhileItIsMade) {
    Place place;
    FakeKernel kernel;
    const auto path = dirty_image(place, kernel);
    auto setup = setup_for("qcow2:" + path);
    setup.config.commit_seconds = 3600;
    auto disk = std::make_unique<TestDisk>(kernel, setup);
    ASSERT_TRUE(*disk) << disk->error().message;
    unsigned written = 0;
    for (unsigned life = 0; life < 8; ++life) {
        for (unsigned i = 0; i < 10; ++i, ++written)
            ASSERT_EQ(disk->write(20000 + written * 128, pattern(512, written)), 0);
        const auto next = disk->successor_setup();
        disk->kill();
        // As if it had not been done yet.
        mark_dirty(path);
        disk = std::make_unique<TestDisk>(kernel, next);
        ASSERT_TRUE(*disk) << disk->error().message;
    }
    for (unsigned i = 0; i < written; ++i) EXPECT_EQ(disk->read(20000 + i * 128, 1), pattern(512, i)) << i;
    EXPECT_EQ(disk->flush(), 0);
    EXPECT_TRUE(eventually([&] { return !is_dirty(path); }));
    EXPECT_TRUE(disk->target().refusals().empty());
    EXPECT_TRUE(disk->close());
    EXPECT_EQ(place.check("a.qcow2", "qcow2").corruptions, 0u);
    TestDisk again(kernel, setup_for("qcow2:" + path, false));
    ASSERT_TRUE(again) << again.error().message;
    for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(again.read(i * 256, 1), pattern(512, i));
}

}  // namespace
}  // namespace dmu::test
