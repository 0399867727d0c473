// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's extent map against a plain array that means the same.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "map_model.h"

namespace dmu {
namespace {

using Map = MapTest;

TEST_F(Map, KnowsNothingAtFirst) {
    EXPECT_EQ(at(0), DMU_VALUE_NONE);
    EXPECT_EQ(at(~0ull - 1), DMU_VALUE_NONE);
    EXPECT_EQ(map_.extents, 0u);
}

TEST_F(Map, NeighboursMerge) {
    for (u64 i = 0; i < 1000; i++)
        ASSERT_EQ(dmu_map_assign(&map_, i * 8, i * 8 + 8, dmu_value(1, true, 5000 + i * 8), GFP_KERNEL), 0);
    EXPECT_EQ(map_.extents, 1u);
    u64 run = 0;
    EXPECT_EQ(dmu_map_look_up(&map_, 100, &run), dmu_value(1, true, 5100));
    EXPECT_EQ(run, 7900u);
}

TEST_F(Map, FillNeverReplaces) {
    ASSERT_EQ(dmu_map_assign(&map_, 10, 20, dmu_value(1, true, 700), GFP_KERNEL), 0);
    ASSERT_EQ(dmu_map_fill(&map_, 0, 100, dmu_value(2, false, 0), GFP_KERNEL), 0);
    EXPECT_EQ(at(9), dmu_value(2, false, 0));
    EXPECT_EQ(at(10), dmu_value(1, true, 700));
    EXPECT_EQ(at(19), dmu_value(1, true, 709));
    EXPECT_EQ(at(20), dmu_value(2, false, 0));
}

TEST_F(Map, AnswersLikeAnArray) {
    const unsigned seed = map_seed();
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937 random(seed);
    constexpr u64 size = 20000;
    std::vector<u64> model(size, DMU_VALUE_NONE);
    for (int round = 0; round < 20000; round++) {
        const u64 span = random() % 100 < 3 ? size : 40;
        const u64 start = random() % size;
        const u64 end = std::min<u64>(size, start + 1 + random() % span);
        const unsigned kind = random() % 10;
        u64 value = DMU_VALUE_NONE;
        if (kind < 5)
            value = dmu_value(1 + random() % 3, true, (random() % 64) * 1024 + start);
        else if (kind < 8)
            value = dmu_value(4, false, 0);
        const bool fill = kind == 9 || kind == 7;
        if (fill && value == DMU_VALUE_NONE) value = dmu_value(5, false, 0);
        ASSERT_EQ(fill ? dmu_map_fill(&map_, start, end, value, GFP_KERNEL)
                       : dmu_map_assign(&map_, start, end, value, GFP_KERNEL),
                  0);
        set(model, start, end, value, fill);
        if (round % 500 == 0) expect_like(model);
    }
    expect_like(model);
    ASSERT_EQ(dmu_map_assign(&map_, 0, ~0ull, DMU_VALUE_NONE, GFP_KERNEL), 0);
    EXPECT_EQ(map_.extents, 0u);
    EXPECT_LT(map_.nodes, 4u) << "emptied leaves join";
}

TEST_F(Map, CostsLittlePerExtent) {
    // A megaextent in random order, none of which merge.
    constexpr u64 count = 1 << 18;
    std::vector<u64> order(count);
    for (u64 i = 0; i < count; i++) order[i] = i;
    std::mt19937 random(1);
    std::shuffle(order.begin(), order.end(), random);
    ASSERT_EQ(dmu_map_assign(&map_, 0, count * 128, dmu_value(2, false, 0), GFP_KERNEL), 0);
    for (u64 i : order)
        ASSERT_EQ(dmu_map_assign(&map_, i * 128, i * 128 + 128, dmu_value(1, true, (count - i) * 128), GFP_KERNEL), 0);
    EXPECT_EQ(map_.extents, count);
    EXPECT_LE(static_cast<double>(dmu_map_bytes(&map_)) / count, 26.0);
}

TEST_F(Map, FailedAllocationLeavesItWhole) {
    constexpr u64 size = 4000;
    std::vector<u64> model(size, DMU_VALUE_NONE);
    std::mt19937 random(7);
    for (int round = 0; round < 20000; round++) {
        const u64 start = random() % size, end = std::min<u64>(size, start + 1 + random() % 5);
        const u64 value = dmu_value(1 + random() % 2, random() % 2, (random() % 2) * 4096);
        dmu_map_test_fail_after = random() % 4 ? -1 : random() % 4;
        const int error = dmu_map_assign(&map_, start, end, value, GFP_KERNEL);
        dmu_map_test_fail_after = -1;
        if (error) {
            ASSERT_EQ(dmu_map_assign(&map_, start, end, value, GFP_KERNEL), 0);
        }
        set(model, start, end, value, false);
        if (round % 1000 == 0) expect_like(model);
    }
    expect_like(model);
}

}  // namespace
}  // namespace dmu
