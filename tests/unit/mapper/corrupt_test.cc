// SPDX-License-Identifier: GPL-2.0-or-later
// Metadata that contradicts itself is found while the guest runs.
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20;

// Points the L2 entry of the first cluster that has one past the file's end. qcow v1: the
// L1 table's offset is at byte 40, the backing name between header and it.
void damage_first_entry(const std::string& path) {
    int file = open(path.c_str(), O_RDWR);
    ASSERT_GE(file, 0);
    std::uint64_t l1_offset = 0, l2_offset = 0;
    ASSERT_EQ(pread(file, &l1_offset, 8, 40), 8);
    ASSERT_EQ(pread(file, &l2_offset, 8, static_cast<off_t>(__builtin_bswap64(l1_offset))), 8);
    std::uint64_t bad = __builtin_bswap64(1ull << 40);
    ASSERT_NE(l2_offset, 0u);
    ASSERT_EQ(pwrite(file, &bad, 8, static_cast<off_t>(__builtin_bswap64(l2_offset))), 8);
    close(file);
}

TEST(Corrupt, TheGrainEndsInErrorsTheRestGoesOnNothingIsAllocated) {
    Place place;
    FakeKernel kernel;
    {
        TestDisk disk(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
        ASSERT_TRUE(disk) << disk.error().message;
        ASSERT_EQ(disk.write(0, pattern(512, 1)), 0);
        ASSERT_EQ(disk.write(64, pattern(512, 2)), 0);
        ASSERT_TRUE(disk.close());
    }
    damage_first_entry(place.path("a.qcow"));
    TestDisk disk(kernel, setup_for("qcow:" + place.path("a.qcow")));
    ASSERT_TRUE(disk) << disk.error().message;
    auto bad = disk.target().read(0, 1);
    ASSERT_TRUE(bad->wait());
    EXPECT_EQ(bad->error(), EIO);
    EXPECT_TRUE(disk.disk().alarms().is_raised("corrupt"));
    EXPECT_EQ(disk.read(64, 1), pattern(512, 2));
    EXPECT_EQ(disk.write(64, pattern(512, 3)), 0) << "what has its place can be written";
    EXPECT_EQ(disk.read(64, 1), pattern(512, 3));
    EXPECT_EQ(disk.write(1024, pattern(512, 4)), EIO);
    EXPECT_EQ(disk.write(0, pattern(512, 4)), EIO);
    EXPECT_TRUE(disk.target().refusals().empty()) << disk.target().refusals().front();
}

TEST(Corrupt, ABadHeaderIsRefusedWithTheCause) {
    Place place;
    FakeKernel kernel;
    place.raw("bad.qcow", pattern(8192, 1));
    TestDisk disk(kernel, setup_for("qcow:" + place.path("bad.qcow")));
    ASSERT_FALSE(disk);
    EXPECT_NE(disk.error().message.find("bad.qcow"), std::string::npos);
}

}  // namespace
}  // namespace dmu::test
