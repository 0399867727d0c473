// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel that forgets what it was told: it may where the module offers to, and is told again.
#include <random>

#include "tests/unit/formats/support.h"
#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t size = 4 << 20;
constexpr std::uint64_t grains = size / 4096;
constexpr std::uint64_t tables = size / (2 << 20);
constexpr std::uint64_t old_features = DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE;

DiskSetup with_budget(const std::string& spec, unsigned mib) {
    DiskSetup setup = setup_for(spec);
    setup.config.map_mib = mib;
    return setup;
}

// From the last grain to the first, so that no two are one extent; all of it committed.
void fill_backwards(TestDisk& disk) {
    for (std::uint64_t i = grains; i-- > 0;) ASSERT_EQ(disk.write(i * 8, pattern(4096, static_cast<unsigned>(i))), 0);
    ASSERT_EQ(disk.flush(), 0);
    ASSERT_TRUE(eventually([&] { return disk.target().log().empty(); }));
    ASSERT_GE(disk.target().map().size(), grains);
}

void expect_grain(TestDisk& disk, std::uint64_t grain) {
    ASSERT_EQ(disk.read(grain * 8, 8), pattern(4096, static_cast<unsigned>(grain))) << "grain " << grain;
}

TEST(Forget, TheTableSaysSoWhereTheModuleOffersIt) {
    Place place;
    const std::string spec = "qcow:" + place.qcow("a.qcow", size);
    FakeKernel kernel;
    for (const unsigned mib : {64u, 0u, 65536u}) {
        TestDisk disk(kernel, with_budget(spec, mib));
        ASSERT_TRUE(disk) << disk.error().message;
        EXPECT_EQ(disk.facts().map_memory, mib * 1024);
        EXPECT_NE((disk.facts().table_parameters() + " ").find(" map_memory " + std::to_string(mib * 1024) + " "),
                  std::string::npos)
            << disk.facts().table_parameters();
        EXPECT_EQ(disk.target().state().map_limit, std::uint64_t{mib} << 20);
        EXPECT_TRUE(disk.close());
    }
    FakeKernel old(old_features);
    TestDisk disk(old, with_budget(spec, 1));
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_EQ(disk.facts().table_parameters().find("map_memory"), std::string::npos);
    EXPECT_EQ(disk.write(8, pattern(4096, 1)), 0);
    EXPECT_EQ(disk.read(8, 8), pattern(4096, 1));
    EXPECT_TRUE(disk.target().refusals().empty());
    EXPECT_TRUE(disk.close());
}

TEST(Forget, TheWordsOfATableAreCounted) {
    DiskFacts facts;
    facts.key = "k";
    facts.grain = 8;
    EXPECT_EQ(facts.table_parameters(), "k 4 grain 8 logical 512");
    facts.map_memory = 1024;
    facts.read_only = true;
    EXPECT_EQ(facts.table_parameters(), "k 7 grain 8 logical 512 map_memory 1024 read_only");
    facts.read_only = false;
    facts.discard = 8;
    EXPECT_EQ(facts.table_parameters(), "k 9 grain 8 logical 512 discard 8 write_zeroes map_memory 1024");
}

TEST(Forget, OneMissBringsBackATable) {
    Place place;
    FakeKernel kernel;
    TestDisk disk(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(disk) << disk.error().message;
    fill_backwards(disk);
    // Every other grain; then all of them.
    for (const std::uint64_t step : {2, 1}) {
        for (std::uint64_t i = 0; i < grains; i += step) disk.target().shrink(i * 8, 8);
        ASSERT_LE(disk.target().map().size(), grains - grains / step + 1);
        const auto before = disk.target().state().misses;
        for (std::uint64_t i = 0; i < grains; ++i) expect_grain(disk, i);
        EXPECT_EQ(disk.target().state().misses - before, tables) << "step " << step;
    }
    // A write tells as much: what it missed on is not what the map says needs a place.
    disk.target().shrink();
    ASSERT_TRUE(disk.target().map().empty());
    const auto before = disk.target().state();
    ASSERT_EQ(disk.write(0, pattern(4096, 0)), 0);
    for (std::uint64_t i = 0; i < grains; ++i) expect_grain(disk, i);
    EXPECT_EQ(disk.target().state().misses - before.misses, tables);
    EXPECT_EQ(disk.target().state().sequence, before.sequence) << "it was written in place";
    EXPECT_TRUE(disk.target().refusals().empty());
}

// What the kernel must hold is also what it must not be asked for.
TEST(Forget, ASuccessorIsAskedAsItsPredecessorWas) {
    Place place;
    FakeKernel kernel;
    TestDisk first(kernel, setup_for("qcow:" + place.qcow("a.qcow", size)));
    ASSERT_TRUE(first) << first.error().message;
    fill_backwards(first);
    const DiskSetup setup = first.successor_setup();
    first.kill();
    kernel.target(setup.key).shrink();
    EXPECT_GE(kernel.target(setup.key).map().size(), grains) << "nobody could be asked";
    TestDisk second(kernel, setup);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_EQ(second.facts().map_memory, 64u * 1024);
    second.target().shrink();
    EXPECT_TRUE(second.target().map().empty());
    for (std::uint64_t i = 0; i < grains; ++i) expect_grain(second, i);
    EXPECT_TRUE(second.target().refusals().empty());
}

// Writes, discards, flushes, with leases or without, while ever other ranges are forgotten.
void run_random(const std::string& format, std::uint64_t features) {
    const std::uint64_t seed = test_seed();
    SCOPED_TRACE(format + " features " + std::to_string(features) + " DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    Place place;
    FakeKernel kernel(features);
    DiskSetup setup = setup_for(format + ":" + place.image(format, "a", size));
    setup.config.lease_ahead = LeaseAhead::yes;
    TestDisk disk(kernel, setup);
    ASSERT_TRUE(disk) << disk.error().message;
    const std::uint64_t sectors = disk.facts().sectors;
    Bytes model(size);
    for (unsigned i = 0; i < 300; ++i) {
        const std::uint64_t start = random() % (sectors - 600), length = 1 + random() % (i % 4 == 0 ? 600 : 16);
        const auto at = static_cast<std::ptrdiff_t>(start * 512), to = static_cast<std::ptrdiff_t>(length * 512);
        switch (random() % 8) {
            case 0: {
                auto zeroes = disk.target().write_zeroes(start, length);
                ASSERT_TRUE(zeroes->wait());
                ASSERT_EQ(zeroes->error(), 0);
                std::fill_n(model.begin() + at, to, std::byte{});
                break;
            }
            case 1:
                ASSERT_EQ(disk.flush(), 0);
                break;
            case 2:
                ASSERT_EQ(disk.read(start, length), Bytes(model.begin() + at, model.begin() + at + to)) << i;
                break;
            default: {
                const Bytes data = pattern(length * 512, i);
                ASSERT_EQ(disk.write(start, data), 0);
                std::copy(data.begin(), data.end(), model.begin() + at);
            }
        }
        disk.target().shrink(random() % sectors, random() % 4 == 0 ? sectors : 1 + random() % 1000);
    }
    EXPECT_EQ(disk.read(0, sectors), model);
    EXPECT_TRUE(disk.target().refusals().empty()) << disk.target().refusals().front();
    EXPECT_GT(disk.target().state().forgotten, 0u);
    EXPECT_TRUE(disk.close());
    EXPECT_EQ(place.check("a", format).corruptions, 0u);
}

TEST(ForgetRandom, ReadsBackWhatWasWritten) {
    for (const std::string format : {"qcow", "qcow2", "vmdk"}) {
        run_random(format, old_features | DMU_FEATURE_FORGET);
        run_random(format, old_features | DMU_FEATURE_FORGET | DMU_FEATURE_LEASES);
    }
}

}  // namespace
}  // namespace dmu::test
