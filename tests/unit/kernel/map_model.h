// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's extent map, and a plain array that means the same.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <vector>

extern "C" {
#include "map.h"
extern long dmu_map_test_fail_after;
}

namespace dmu {

class MapTest : public ::testing::Test {
protected:
    void SetUp() override {
        dmu_map_test_fail_after = -1;
        ASSERT_EQ(dmu_map_init(&map_), 0);
    }
    void TearDown() override {
        dmu_map_test_fail_after = -1;
        dmu_map_destroy(&map_);
        EXPECT_EQ(map_.nodes, 0u);
    }
    u64 at(u64 sector) {
        u64 run = 0;
        return dmu_map_look_up(&map_, sector, &run);
    }
    // Every sector, and every run that is claimed.
    void expect_like(const std::vector<u64>& model) {
        for (u64 sector = 0; sector < model.size();) {
            u64 run = 0;
            u64 value = dmu_map_look_up(&map_, sector, &run);
            ASSERT_GT(run, 0u);
            for (u64 i = 0; i < run && sector + i < model.size(); i++)
                ASSERT_EQ(dmu_value_after(value, i), model[sector + i]) << "sector " << sector + i;
            sector += run;
        }
    }
    // What it says of each of so many sectors.
    std::vector<u64> contents(u64 size) {
        std::vector<u64> all;
        while (all.size() < size) {
            u64 run = 0;
            const u64 value = dmu_map_look_up(&map_, all.size(), &run);
            for (u64 i = 0; i < run && all.size() < size; i++) all.push_back(dmu_value_after(value, i));
        }
        return all;
    }
    // Found by walking, not by counting along.
    u64 known_extents() {
        u64 known = 0;
        for (u64 sector = 0, run = 0; sector != ~0ull; sector += run)
            known += dmu_map_look_up(&map_, sector, &run) != DMU_VALUE_NONE;
        return known;
    }
    dmu_map map_{};
};

// DMU_TEST_SEED repeats what a failure has printed.
inline unsigned map_seed() {
    const char* text = std::getenv("DMU_TEST_SEED");
    return text ? static_cast<unsigned>(std::strtoull(text, nullptr, 0)) : std::random_device{}();
}

inline void set(std::vector<u64>& model, u64 start, u64 end, u64 value, bool only_unknown) {
    for (u64 s = start; s < end; s++)
        if (!only_unknown || model[s] == DMU_VALUE_NONE) model[s] = dmu_value_after(value, s - start);
}

}  // namespace dmu
