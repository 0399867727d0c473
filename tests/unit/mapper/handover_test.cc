// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper dies, a successor carries on.
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20;

DiskSetup lazy(const std::string& spec) {
    DiskSetup setup = setup_for(spec);
    setup.config.commit_seconds = 3600;
    return setup;
}

TEST(Handover, UncommittedChangesSurviveTheKill) {
    Place place;
    FakeKernel kernel;
    TestDisk first(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    for (unsigned i = 0; i < 100; ++i) ASSERT_EQ(first.write(i * 32, pattern(512, i)), 0);
    EXPECT_GE(first.target().log().size(), 100u);
    DiskSetup setup = first.successor_setup();
    first.kill();
    EXPECT_FALSE(first.target().attached());

    auto waiting = first.target().write(6000, pattern(512, 200));
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_GE(second.disk().figures().handed_over, 100u);
    ASSERT_TRUE(waiting->wait());
    EXPECT_EQ(waiting->error(), 0);
    for (unsigned i = 0; i < 100; ++i) EXPECT_EQ(second.read(i * 32, 1), pattern(512, i));
    EXPECT_EQ(second.flush(), 0);
    EXPECT_TRUE(second.target().refusals().empty());
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);

    TestDisk third(kernel, lazy("qcow:" + place.path("a.qcow")));
    ASSERT_TRUE(third) << third.error().message;
    for (unsigned i = 0; i < 100; ++i) EXPECT_EQ(third.read(i * 32, 1), pattern(512, i));
    EXPECT_EQ(third.read(6000, 1), pattern(512, 200));
}

TEST(Handover, AFirstWriteUnderWayIsNotGivenOutAgain) {
    Place place;
    FakeKernel kernel;
    TestDisk first(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    first.target().hold_places(true);
    auto held = first.target().write(0, pattern(4096, 1));
    ASSERT_TRUE(eventually([&] { return first.target().state().misses > 0 && first.disk().figures().allocated > 0; }));
    DiskSetup setup = first.successor_setup();
    first.kill();
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    second.target().hold_places(false);
    EXPECT_EQ(second.write(2048, pattern(4096, 2)), 0);
    ASSERT_TRUE(held->wait());
    EXPECT_EQ(held->error(), 0);
    EXPECT_EQ(second.read(0, 8), pattern(4096, 1));
    EXPECT_EQ(second.read(2048, 8), pattern(4096, 2));
    EXPECT_TRUE(second.close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

TEST(Handover, TheLockIsNeverLetGo) {
    Place place;
    FakeKernel kernel;
    TestDisk first(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    DiskSetup setup = first.successor_setup();
    first.kill();
    TestDisk thief(kernel, setup_for("qcow:" + place.path("a.qcow"), false, "dmu-6-51712"));
    ASSERT_FALSE(thief);
    EXPECT_EQ(thief.error().code, Code::busy);
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    TestDisk late(kernel, setup_for("qcow:" + place.path("a.qcow"), false, "dmu-6-51712"));
    EXPECT_FALSE(late);
}

TEST(Handover, ARenamedImageIsStillTheRightOne) {
    Place place;
    FakeKernel kernel;
    Bytes base = pattern(size, 4);
    place.raw("base.raw", base);
    DiskSetup fresh = lazy("qcow;backing-format=raw:" + place.qcow("a.qcow", size, place.path("base.raw")));
    TestDisk first(kernel, fresh);
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_EQ(first.write(8, pattern(512, 1)), 0);
    DiskSetup setup = first.successor_setup();
    first.kill();
    std::filesystem::rename(place.path("a.qcow"), place.path("b.qcow"));
    std::filesystem::rename(place.path("base.raw"), place.path("elsewhere.raw"));
    place.qcow("a.qcow", size);
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_EQ(second.read(8, 1), pattern(512, 1));
    EXPECT_EQ(second.read(4096, 8), Bytes(base.begin() + 4096 * 512, base.begin() + 4104 * 512));
    EXPECT_EQ(second.flush(), 0);
}

TEST(Handover, AFlushThatWaitedIsAnswered) {
    Place place;
    FakeKernel kernel;
    TestDisk first(kernel, lazy("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_EQ(first.write(8, pattern(512, 1)), 0);
    DiskSetup setup = first.successor_setup();
    first.kill();
    auto flush = first.target().flush();
    EXPECT_FALSE(flush->done());
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    ASSERT_TRUE(flush->wait());
    EXPECT_EQ(flush->error(), 0);
    EXPECT_TRUE(second.target().log().empty());
}

TEST(Handover, WithoutTheKeyThereIsNothingToTakeOver) {
    Place place;
    FakeKernel kernel;
    DiskSetup setup = lazy("qcow:" + place.qcow("a.qcow", size));
    setup.successor = true;
    setup.key = "12-34";
    TestDisk disk(kernel, setup);
    ASSERT_FALSE(disk);
    EXPECT_EQ(disk.error().code, Code::not_found);
}

TEST(Handover, TenKillsUnderWrites) {
    Place place;
    FakeKernel kernel;
    auto disk = std::make_unique<TestDisk>(kernel, lazy("qcow:" + place.qcow("a.qcow", 16 << 20)));
    ASSERT_TRUE(*disk) << disk->error().message;
    FakeTarget& target = disk->target();
    unsigned number = 0;
    for (unsigned life = 0; life < 10; ++life) {
        std::vector<FakeRequestPtr> under_way;
        for (unsigned i = 0; i < 150; ++i, ++number)
            under_way.push_back(target.write(number * 16, pattern(512, number)));
        DiskSetup setup = disk->successor_setup();
        disk->kill();
        disk = std::make_unique<TestDisk>(kernel, setup);
        ASSERT_TRUE(*disk) << disk->error().message;
        for (auto& request : under_way) {
            ASSERT_TRUE(request->wait());
            EXPECT_EQ(request->error(), 0);
        }
    }
    for (unsigned i = 0; i < number; ++i) ASSERT_EQ(disk->read(i * 16, 1), pattern(512, i)) << i;
    EXPECT_TRUE(target.refusals().empty()) << target.refusals().front();
    EXPECT_TRUE(disk->close());
    EXPECT_EQ(place.check("a.qcow").corruptions, 0u);
}

}  // namespace
}  // namespace dmu::test
