// SPDX-License-Identifier: GPL-2.0-or-later
// What the kernel's extent map forgets, whole grains of it, against an array.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "map_model.h"

namespace dmu {
namespace {

constexpr u64 leaf_entries = 126;

class MapForget : public MapTest {
protected:
    // One call. What it left of [start, done) is in the model after it; the rest may not have changed.
    void forget(std::vector<u64>& model, u64 start, u64 end, u64 grain, u64* done) {
        const u64 nodes = map_.nodes;
        ASSERT_EQ(dmu_map_forget(&map_, start, end, grain, done, GFP_KERNEL), 0);
        ASSERT_GT(*done, start);
        ASSERT_LE(*done, end);
        ASSERT_TRUE(*done == end || *done % grain == 0) << "from " << start << " to " << *done;
        // A hole within an extent of a full leaf: it is cut, and maybe each above it.
        ASSERT_LE(map_.nodes, nodes + 4);
        const std::vector<u64> now = contents(model.size());
        const u64 stop = std::min<u64>(*done, model.size());
        for (u64 at = start; at < stop; at += grain) {
            const u64 last = std::min<u64>(at + grain, stop);
            bool kept = true, gone = true;
            for (u64 s = at; s < last; s++) {
                kept = kept && now[s] == model[s];
                gone = gone && now[s] == DMU_VALUE_NONE;
            }
            ASSERT_TRUE(kept || gone) << "half of the grain at " << at;
            std::copy(now.begin() + at, now.begin() + last, model.begin() + at);
        }
        ASSERT_EQ(now, model) << "elsewhere than from " << start << " to " << *done;
        ASSERT_EQ(map_.extents, known_extents());
    }
    // All of it once. A grain stays only where it lies across parents of leaves, or too many leaves.
    void pass(std::vector<u64>& model, u64 grain) {
        const u64 end = ~0ull & ~(grain - 1), nodes = map_.nodes;
        for (u64 at = 0; at < end;) ASSERT_NO_FATAL_FAILURE(forget(model, at, end, grain, &at));
        u64 left = 0;
        for (u64 at = 0; at < model.size(); at += grain) {
            const auto first = model.begin() + at, last = model.begin() + std::min<u64>(at + grain, model.size());
            left += std::any_of(first, last, [](u64 value) { return value != DMU_VALUE_NONE; });
        }
        ASSERT_LT(left, nodes);
    }
    // From start on neighbours that do not merge.
    void alternate(u64 start, u64 count, u64 each) {
        for (u64 i = 0; i < count; i++)
            ASSERT_EQ(dmu_map_assign(&map_, start + i * each, start + (i + 1) * each, dmu_value(1 + i % 2, false, 0),
                                     GFP_KERNEL),
                      0);
    }
};

class MapForgetRandom : public MapForget {
protected:
    void set_any(std::vector<u64>& model) {
        const u64 span = random_() % 100 < 3 ? model.size() : 40;
        const u64 start = random_() % model.size();
        const u64 end = std::min<u64>(model.size(), start + 1 + random_() % span);
        u64 value = dmu_value(4 + random_() % 2, false, 0);
        if (random_() % 2) value = dmu_value(1 + random_() % 3, true, (random_() % 64) * 1024 + start);
        const bool fill = random_() % 4 == 0;
        ASSERT_EQ(fill ? dmu_map_fill(&map_, start, end, value, GFP_KERNEL)
                       : dmu_map_assign(&map_, start, end, value, GFP_KERNEL),
                  0);
        set(model, start, end, value, fill);
    }
    // As small extents as there can be, and many.
    void set_densely(std::vector<u64>& model) {
        const u64 count = 1 + random_() % 400, start = random_() % (model.size() - count);
        ASSERT_NO_FATAL_FAILURE(alternate(start, count, 1));
        for (u64 i = 0; i < count; i++) model[start + i] = dmu_value(1 + i % 2, false, 0);
    }
    void change(std::vector<u64>& model) {
        for (u64 i = random_() % 40; i > 0; i--) ASSERT_NO_FATAL_FAILURE(set_any(model));
        if (random_() % 4 == 0) {
            ASSERT_NO_FATAL_FAILURE(set_densely(model));
        }
    }
    // Anywhere, to anywhere, sometimes as far as there is anything to name.
    void any_range(const std::vector<u64>& model, u64 grain, u64* start, u64* end) {
        *start = random_() % model.size() / grain * grain;
        const u64 n = random_() % 10;
        *end = *start + grain * (1 + random_() % (n < 3 ? 3 : model.size() / grain));
        if (n == 9) *end = ~0ull & ~(grain - 1);
        if (n == 8) *end -= random_() % grain;
    }
    void like_an_array(u64 grain) {
        constexpr u64 size = 20000;
        std::vector<u64> model(size, DMU_VALUE_NONE);
        for (int round = 0; round < 200; round++) {
            ASSERT_NO_FATAL_FAILURE(change(model));
            u64 start, end;
            any_range(model, grain, &start, &end);
            for (u64 calls = random_() % 6; calls > 0 && start < end; calls--)
                ASSERT_NO_FATAL_FAILURE(forget(model, start, end, grain, &start));
            if (round % 50 == 49) {
                ASSERT_NO_FATAL_FAILURE(pass(model, grain));
            }
        }
        // In some passes all goes, also grains of more extents than a leaf has.
        ASSERT_NO_FATAL_FAILURE(alternate(0, size, 1));
        model = contents(size);
        for (int passes = 0; passes < 4 && map_.extents; passes++) ASSERT_NO_FATAL_FAILURE(pass(model, grain));
        // But what lies across two parents, each of them with several leaves of that grain.
        const u64 parents = 4, kept = grain > leaf_entries ? (parents - 1) * grain : 0;
        EXPECT_LE(map_.extents, kept);
        EXPECT_LE(map_.nodes, 3 + parents + kept / (leaf_entries / 2));
    }
    unsigned seed_ = map_seed();
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    std::mt19937 random_{seed_};
};

TEST_F(MapForgetRandom, SectorsAreLikeAnArray) {
    like_an_array(1);
}
TEST_F(MapForgetRandom, PagesAreLikeAnArray) {
    like_an_array(8);
}
TEST_F(MapForgetRandom, ClustersAreLikeAnArray) {
    like_an_array(128);
}
TEST_F(MapForgetRandom, LargeClustersAreLikeAnArray) {
    like_an_array(1024);
}

TEST_F(MapForgetRandom, FailedAllocationChangesNothing) {
    constexpr u64 size = 20000;
    std::vector<u64> model(size, DMU_VALUE_NONE);
    unsigned failed = 0;
    for (int round = 0; round < 1000; round++) {
        ASSERT_NO_FATAL_FAILURE(change(model));
        const u64 grain = u64{1} << random_() % 8;
        u64 start, end, done = 0;
        any_range(model, grain, &start, &end);
        const u64 extents = map_.extents, nodes = map_.nodes;
        dmu_map_test_fail_after = random_() % 4;
        const int error = dmu_map_forget(&map_, start, end, grain, &done, GFP_KERNEL);
        dmu_map_test_fail_after = -1;
        if (!error) {
            model = contents(size);
            continue;
        }
        failed++;
        ASSERT_EQ(error, -ENOMEM);
        ASSERT_EQ(map_.extents, extents);
        ASSERT_EQ(map_.nodes, nodes);
        ASSERT_NO_FATAL_FAILURE(expect_like(model));
        ASSERT_NO_FATAL_FAILURE(forget(model, start, end, grain, &start));
    }
    EXPECT_GT(failed, 100u);
}

TEST_F(MapForget, NothingIsKnownNothingIsForgotten) {
    std::vector<u64> model(100, DMU_VALUE_NONE);
    u64 done = 0;
    forget(model, 0, ~0ull & ~7ull, 8, &done);
    EXPECT_EQ(done, ~0ull & ~7ull) << "at once";
    forget(model, 16, 24, 8, &done);
    EXPECT_EQ(done, 24u);
    EXPECT_EQ(map_.nodes, 1u);
}

TEST_F(MapForget, SingleLeaf) {
    ASSERT_NO_FATAL_FAILURE(alternate(0, 100, 1));
    std::vector<u64> model = contents(200);
    u64 done = 0;
    ASSERT_NO_FATAL_FAILURE(forget(model, 8, 16, 8, &done));
    EXPECT_EQ(done, 16u);
    EXPECT_EQ(map_.extents, 92u);
    EXPECT_NE(at(7), DMU_VALUE_NONE);
    EXPECT_EQ(at(8), DMU_VALUE_NONE);
    EXPECT_EQ(at(15), DMU_VALUE_NONE);
    EXPECT_NE(at(16), DMU_VALUE_NONE);
    // What is not known is passed over in whole grains, and no farther.
    ASSERT_NO_FATAL_FAILURE(forget(model, 8, 96, 4, &done));
    EXPECT_EQ(done, 16u);
    ASSERT_NO_FATAL_FAILURE(pass(model, 128));
    EXPECT_EQ(map_.extents, 0u);
    EXPECT_EQ(map_.nodes, 1u);
}

TEST_F(MapForget, EndOfWhatCanBeNamed) {
    constexpr u64 last = ~0ull & ~127ull;
    ASSERT_EQ(dmu_map_assign(&map_, 0, ~0ull, dmu_value(1, false, 0), GFP_KERNEL), 0);
    u64 done = 0;
    ASSERT_EQ(dmu_map_forget(&map_, last - 128, last, 128, &done, GFP_KERNEL), 0);
    EXPECT_EQ(done, last);
    EXPECT_EQ(at(last - 1), DMU_VALUE_NONE);
    EXPECT_NE(at(last - 129), DMU_VALUE_NONE);
    EXPECT_NE(at(last), DMU_VALUE_NONE) << "not a whole grain";
    ASSERT_EQ(dmu_map_forget(&map_, 0, last, 128, &done, GFP_KERNEL), 0);
    EXPECT_EQ(done, last);
    EXPECT_EQ(at(0), DMU_VALUE_NONE);
    EXPECT_EQ(map_.extents, 1u);
    EXPECT_EQ(known_extents(), 1u);
}

TEST_F(MapForget, HoleInOneGiantExtent) {
    ASSERT_EQ(dmu_map_assign(&map_, 0, 1ull << 40, dmu_value(1, true, 5), GFP_KERNEL), 0);
    u64 done = 0;
    ASSERT_EQ(dmu_map_forget(&map_, 1 << 20, (1 << 20) + 64, 64, &done, GFP_KERNEL), 0);
    EXPECT_EQ(done, (1u << 20) + 64u);
    EXPECT_EQ(at((1 << 20) - 1), dmu_value(1, true, 4 + (1 << 20)));
    EXPECT_EQ(at(1 << 20), DMU_VALUE_NONE);
    EXPECT_EQ(at((1 << 20) + 63), DMU_VALUE_NONE);
    EXPECT_EQ(at((1 << 20) + 64), dmu_value(1, true, 69 + (1 << 20)));
    EXPECT_EQ(map_.extents, 2u) << "a rest on both sides";
    EXPECT_EQ(map_.nodes, 1u);
}

TEST_F(MapForget, HoleInAGiantExtentOfAFullLeaf) {
    ASSERT_NO_FATAL_FAILURE(alternate(0, leaf_entries - 1, 1));
    ASSERT_EQ(dmu_map_assign(&map_, leaf_entries - 1, ~0ull, dmu_value(3, true, 7), GFP_KERNEL), 0);
    ASSERT_EQ(map_.nodes, 1u);
    ASSERT_EQ(map_.extents, leaf_entries);
    std::vector<u64> model = contents(4096);
    u64 done = 0;
    // One that turns out too small, then two leaves and what is above them. With less memory: nothing.
    for (long nodes = 0; nodes < 4; nodes++) {
        dmu_map_test_fail_after = nodes;
        ASSERT_EQ(dmu_map_forget(&map_, 1024, 2048, 128, &done, GFP_KERNEL), -ENOMEM);
        ASSERT_EQ(map_.nodes, 1u);
        ASSERT_EQ(map_.extents, leaf_entries);
        ASSERT_NO_FATAL_FAILURE(expect_like(model));
    }
    dmu_map_test_fail_after = 4;
    ASSERT_NO_FATAL_FAILURE(forget(model, 1024, 2048, 128, &done));
    dmu_map_test_fail_after = -1;
    EXPECT_EQ(done, 2048u);
    EXPECT_EQ(map_.nodes, 3u);
    EXPECT_EQ(at(1023), dmu_value(3, true, 7 + 1023 - (leaf_entries - 1)));
    EXPECT_EQ(at(1024), DMU_VALUE_NONE);
    EXPECT_EQ(at(2047), DMU_VALUE_NONE);
    EXPECT_EQ(at(2048), dmu_value(3, true, 7 + 2048 - (leaf_entries - 1)));
}

TEST_F(MapForget, HoleAcrossFullLeaves) {
    ASSERT_NO_FATAL_FAILURE(alternate(0, leaf_entries - 2, 2));
    ASSERT_EQ(dmu_map_assign(&map_, 248, 10000, dmu_value(3, true, 7), GFP_KERNEL), 0);
    ASSERT_EQ(dmu_map_assign(&map_, 10000, 20000, dmu_value(4, true, 9), GFP_KERNEL), 0);
    ASSERT_NO_FATAL_FAILURE(alternate(20000, leaf_entries - 2, 2));
    ASSERT_EQ(dmu_map_assign(&map_, 1, 2, dmu_value(5, false, 0), GFP_KERNEL), 0);
    ASSERT_EQ(map_.nodes, 3u);
    ASSERT_EQ(map_.extents, 2 * leaf_entries - 1) << "and what is not known behind them";
    std::vector<u64> model = contents(21000);
    u64 done = 0;
    // Neither has room for what is not known between them. It is made at once, or not at all.
    for (long nodes = 0; nodes < 4; nodes++) {
        dmu_map_test_fail_after = nodes;
        ASSERT_EQ(dmu_map_forget(&map_, 9000, 11000, 8, &done, GFP_KERNEL), -ENOMEM);
        ASSERT_EQ(map_.nodes, 3u);
        ASSERT_EQ(map_.extents, 2 * leaf_entries - 1);
        ASSERT_NO_FATAL_FAILURE(expect_like(model));
    }
    dmu_map_test_fail_after = 4;
    ASSERT_NO_FATAL_FAILURE(forget(model, 9000, 11000, 8, &done));
    dmu_map_test_fail_after = -1;
    EXPECT_EQ(done, 11000u);
    EXPECT_EQ(map_.nodes, 4u);
    EXPECT_EQ(at(8999), dmu_value(3, true, 7 + 8999 - 248));
    EXPECT_EQ(at(9000), DMU_VALUE_NONE);
    EXPECT_EQ(at(10999), DMU_VALUE_NONE);
    EXPECT_EQ(at(11000), dmu_value(4, true, 1009));
}

// Some leaves at a time, however much there is; and nothing is left of a tree that had levels.
TEST_F(MapForget, LeavesGoTogether) {
    constexpr u64 count = 1 << 18;
    ASSERT_NO_FATAL_FAILURE(alternate(0, count, 8));
    const u64 nodes = map_.nodes;
    ASSERT_GT(nodes, leaf_entries * 4) << "levels";
    u64 calls = 0;
    for (u64 at = 0; at < count * 8; calls++) {
        const u64 start = at, before = map_.nodes;
        ASSERT_EQ(dmu_map_forget(&map_, start, count * 8, 8, &at, GFP_KERNEL), 0);
        ASSERT_GT(at, start);
        ASSERT_LE(at - start, DMU_MAP_FORGET_LEAVES * leaf_entries * 8);
        ASSERT_LE(before - map_.nodes, DMU_MAP_FORGET_LEAVES + 2u);
    }
    EXPECT_LT(calls, nodes / DMU_MAP_FORGET_LEAVES * 2);
    EXPECT_EQ(map_.extents, 0u);
    EXPECT_EQ(known_extents(), 0u);
    // Of each node of a level one leaf is left, until the hand comes again.
    EXPECT_LE(map_.nodes, nodes / (leaf_entries / 2) + 2);
    for (u64 at = 0; at < count * 8;) ASSERT_EQ(dmu_map_forget(&map_, at, count * 8, 8, &at, GFP_KERNEL), 0);
    EXPECT_LE(map_.nodes, 3u);
}

}  // namespace
}  // namespace dmu
