// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/locks.h"

#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

struct OpenFile {
    explicit OpenFile(const std::string& path) : number(open(path.c_str(), O_RDWR | O_CLOEXEC)) {}
    ~OpenFile() { close(number); }
    int number;
};

TEST(Locks, ReadersShareWritersDoNot) {
    Place place;
    std::string path = place.raw("a", pattern(512, 1));
    OpenFile a(path), b(path), c(path);
    EXPECT_TRUE(lock_image(a.number, LockMode::shared, path));
    EXPECT_TRUE(lock_image(b.number, LockMode::shared, path));
    Status refused = lock_image(c.number, LockMode::exclusive, path);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::busy);
    EXPECT_NE(refused.error().message.find("in use (locked) by another program or domain"), std::string::npos);
    unlock_image(a.number);
    unlock_image(b.number);
    EXPECT_TRUE(lock_image(c.number, LockMode::exclusive, path));
    EXPECT_FALSE(lock_image(a.number, LockMode::shared, path));
    EXPECT_FALSE(lock_image(b.number, LockMode::exclusive, path));
    EXPECT_TRUE(lock_image(c.number, LockMode::exclusive, path)) << "again on the same description";
}

TEST(Locks, ARefusedLockLeavesNothing) {
    Place place;
    std::string path = place.raw("a", pattern(512, 1));
    OpenFile a(path), b(path), c(path);
    ASSERT_TRUE(lock_image(a.number, LockMode::shared, path));
    ASSERT_FALSE(lock_image(b.number, LockMode::exclusive, path));
    EXPECT_TRUE(lock_image(c.number, LockMode::shared, path));
}

TEST(Locks, ACopyOfTheDescriptorKeepsThem) {
    Place place;
    std::string path = place.raw("a", pattern(512, 1));
    OpenFile other(path);
    int copy = -1;
    {
        OpenFile a(path);
        ASSERT_TRUE(lock_image(a.number, LockMode::exclusive, path));
        copy = dup(a.number);
    }
    EXPECT_FALSE(lock_image(other.number, LockMode::shared, path));
    close(copy);
    EXPECT_TRUE(lock_image(other.number, LockMode::shared, path));
}

// What qemu does for an image that it writes, and for one it reads.
TEST(Locks, TheBytesAreQemus) {
    Place place;
    std::string path = place.raw("a", pattern(512, 1));
    OpenFile ours(path), theirs(path);
    ASSERT_TRUE(lock_image(ours.number, LockMode::exclusive, path));
    auto held = [&](off_t byte) {
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        lock.l_start = byte;
        lock.l_len = 1;
        EXPECT_EQ(fcntl(theirs.number, F_OFD_GETLK, &lock), 0);
        return lock.l_type != F_UNLCK;
    };
    for (off_t byte : {100, 101, 103, 201, 203}) EXPECT_TRUE(held(byte)) << byte;
    for (off_t byte : {99, 102, 104, 200, 202, 204}) EXPECT_FALSE(held(byte)) << byte;
}

TEST(Locks, TwoDisksOfOneImageConflict) {
    Place place;
    FakeKernel kernel;
    std::string image = place.qcow("a.qcow", 1 << 20);
    TestDisk writer(kernel, setup_for("qcow:" + image));
    ASSERT_TRUE(writer);
    TestDisk second(kernel, setup_for("qcow:" + image, true, "dmu-6-51712"));
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Code::busy);
    TestDisk overlay(kernel, setup_for("qcow:" + place.qcow("b.qcow", 1 << 20, image), true, "dmu-7-51712"));
    ASSERT_FALSE(overlay) << "its backing file is being written";
    EXPECT_EQ(overlay.error().code, Code::busy);
    EXPECT_TRUE(writer.close());
    TestDisk one(kernel, setup_for("qcow:" + place.path("b.qcow"), true, "dmu-7-51712"));
    EXPECT_TRUE(one) << one.error().message;
    TestDisk two(kernel, setup_for("qcow:" + place.qcow("c.qcow", 1 << 20, image), true, "dmu-8-51712"));
    EXPECT_TRUE(two) << two.error().message;
    TestDisk base(kernel, setup_for("qcow:" + image, true, "dmu-9-51712"));
    EXPECT_FALSE(base) << "overlays stand on it";
}

}  // namespace
}  // namespace dmu::test
