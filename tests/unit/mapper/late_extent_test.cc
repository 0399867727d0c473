// SPDX-License-Identifier: GPL-2.0-or-later
// A file that the image makes for a first write is a new destination, locked, written
// down, and found again by a successor.
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20, extent_sectors = 2048;

// Four extents of 1 MiB, of which one is there.
std::string make(const Place& place) {
    return "vmdk:" + place.image("vmdk", "d.vmdk", size,
                                 {{"subformat", "twoGbMaxExtentSparse"},
                                  {"extent_size", std::to_string(extent_sectors * 512)},
                                  {"lazy_extents", "on"}});
}

bool is_there(const Place& place, int number) {
    return std::filesystem::exists(place.path("d-s00" + std::to_string(number) + ".vmdk"));
}

TEST(LateExtent, ComesWithTheFirstWrite) {
    Place place;
    const auto spec = make(place);
    FakeKernel kernel;
    TestDisk disk(kernel, setup_for(spec));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.read(2 * extent_sectors, 4), Bytes(4 * 512));
    EXPECT_FALSE(is_there(place, 3));
    ASSERT_EQ(disk.write(2 * extent_sectors + 5, pattern(1024, 1)), 0);
    EXPECT_TRUE(is_there(place, 3));
    EXPECT_FALSE(is_there(place, 2));
    EXPECT_EQ(disk.read(2 * extent_sectors + 5, 2), pattern(1024, 1));
    // Over the border between two that are not there.
    ASSERT_EQ(disk.write(2 * extent_sectors - 1, pattern(1024, 2)), 0);
    EXPECT_TRUE(is_there(place, 2));
    EXPECT_EQ(disk.flush(), 0);
    EXPECT_TRUE(disk.target().refusals().empty());
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("d.vmdk", "vmdk").corruptions, 0u);

    TestDisk again(kernel, setup_for(spec));
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again.read(2 * extent_sectors - 1, 2), pattern(1024, 2));
    EXPECT_EQ(again.read(2 * extent_sectors + 5, 2), pattern(1024, 1));
}

TEST(LateExtent, IsLockedAsTheOthersAre) {
    Place place;
    const auto spec = make(place);
    FakeKernel kernel, other;
    TestDisk disk(kernel, setup_for(spec));
    ASSERT_TRUE(disk) << disk.error().message;
    ASSERT_EQ(disk.write(extent_sectors, pattern(512, 1)), 0);
    TestDisk alone(other, setup_for("raw:" + place.path("d-s002.vmdk")));
    ASSERT_FALSE(alone);
    EXPECT_EQ(alone.error().code, Code::busy) << alone.error().message;
}

// The predecessor died before it wrote the file down: the kernel knows it.
TEST(LateExtent, SuccessorFindsWhatNobodyWroteDown) {
    Place place;
    const auto spec = make(place);
    FakeKernel kernel;
    TestDisk first(kernel, setup_for(spec));
    ASSERT_TRUE(first) << first.error().message;
    DiskSetup setup = first.successor_setup();
    ASSERT_EQ(first.write(3 * extent_sectors, pattern(512, 1)), 0);
    ASSERT_EQ(first.write(extent_sectors, pattern(512, 2)), 0);
    first.kill();
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_EQ(second.read(3 * extent_sectors, 1), pattern(512, 1));
    EXPECT_EQ(second.read(extent_sectors, 1), pattern(512, 2));
    ASSERT_EQ(second.write(2 * extent_sectors, pattern(512, 3)), 0);
    EXPECT_EQ(second.flush(), 0);
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("d.vmdk", "vmdk").corruptions, 0u);
}

// It died between the two: the file is there, the kernel does not have it.
TEST(LateExtent, SuccessorHandsOverWhatTheKernelDoesNotKnow) {
    Place place;
    const auto spec = make(place);
    FakeKernel kernel, elsewhere;
    TestDisk first(kernel, setup_for(spec));
    ASSERT_TRUE(first) << first.error().message;
    DiskSetup setup = first.successor_setup();
    first.kill();
    // As the image would have left it.
    std::filesystem::create_directory(place.path("copy"));
    for (const char* name : {"d.vmdk", "d-s001.vmdk"})
        std::filesystem::copy_file(place.path(name), place.path(std::string("copy/") + name));
    TestDisk copy(elsewhere, setup_for("vmdk:" + place.path("copy/d.vmdk")));
    ASSERT_TRUE(copy) << copy.error().message;
    ASSERT_EQ(copy.write(extent_sectors, Bytes(512)), 0);
    ASSERT_TRUE(copy.close());
    std::filesystem::copy_file(place.path("copy/d-s002.vmdk"), place.path("d-s002.vmdk"));

    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    ASSERT_EQ(second.write(extent_sectors + 300, pattern(512, 3)), 0);
    EXPECT_EQ(second.read(extent_sectors + 300, 1), pattern(512, 3));
    EXPECT_TRUE(second.target().refusals().empty());
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("d.vmdk", "vmdk").corruptions, 0u);
}

TEST(LateExtent, IsWrittenDown) {
    Place place;
    TestHost host;
    host.store.set("backend/vbd/5/51712/frontend", "/local/domain/5/device/vbd/51712");
    const auto spec = make(place);
    TestMapper mapper(host);
    auto added = control::call("dom-5", add_request(spec), 20);
    ASSERT_TRUE(added) << added.error().message;
    auto write = host.kernel.target((*added)["key"].get<std::string>()).write(extent_sectors, pattern(512, 1));
    ASSERT_TRUE(write->wait());
    EXPECT_EQ(write->error(), 0);
    EXPECT_TRUE(eventually([&] {
        const auto states = control::all_states();
        return states.size() == 1 && states[0].files.size() == 3 && states[0].files[2].path.ends_with("d-s002.vmdk") &&
               states[0].files[2].destination == destination_number(0, 2);
    }));
    auto removed = control::call("dom-5", remove_request(), 20);
    EXPECT_TRUE(removed) << (removed ? "" : removed.error().message);
}

// It was made once: that it is missing is no reason to take it for zeros.
TEST(LateExtent, LostOnesAreMissed) {
    Place place;
    const auto spec = make(place);
    FakeKernel kernel;
    {
        TestDisk disk(kernel, setup_for(spec));
        ASSERT_TRUE(disk) << disk.error().message;
        ASSERT_EQ(disk.write(extent_sectors, pattern(512, 1)), 0);
        EXPECT_TRUE(disk.close());
    }
    std::filesystem::remove(place.path("d-s002.vmdk"));
    TestDisk disk(kernel, setup_for(spec));
    ASSERT_FALSE(disk);
    EXPECT_NE(disk.error().message.find("d-s002.vmdk"), std::string::npos) << disk.error().message;
}

}  // namespace
}  // namespace dmu::test
