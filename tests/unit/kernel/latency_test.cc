// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

extern "C" {
#include "latency.h"
}

namespace {

TEST(Latency, NoneYet) {
    dmu_latency latency{};
    EXPECT_EQ(dmu_latency_percentile(&latency, 50), 0u);
}

// Of one value alone every percentile is its bucket's end.
TEST(Latency, AQuarterAtMostTooMuch) {
    std::uint64_t before = 0;
    for (std::uint64_t value = 0; value < 1 << 20; value += 1 + value / 50) {
        dmu_latency latency{};
        dmu_latency_add(&latency, value);
        for (const unsigned percent : {1u, 50u, 99u, 100u}) {
            const auto seen = dmu_latency_percentile(&latency, percent);
            EXPECT_GE(seen, value);
            EXPECT_LE(seen, value + value / 4);
        }
        EXPECT_GE(dmu_latency_percentile(&latency, 50), before);
        before = dmu_latency_percentile(&latency, 50);
    }
}

TEST(Latency, Percentiles) {
    dmu_latency latency{};
    for (int i = 0; i < 90; i++) dmu_latency_add(&latency, 2);
    for (int i = 0; i < 9; i++) dmu_latency_add(&latency, 1000);
    dmu_latency_add(&latency, ~std::uint64_t{0});
    EXPECT_EQ(dmu_latency_percentile(&latency, 50), 2u);
    EXPECT_EQ(dmu_latency_percentile(&latency, 90), 2u);
    EXPECT_EQ(dmu_latency_percentile(&latency, 91), 1023u);
    EXPECT_EQ(dmu_latency_percentile(&latency, 99), 1023u);
    EXPECT_GT(dmu_latency_percentile(&latency, 100), std::uint64_t{1} << 31);
}

TEST(Latency, OldOnesLoseWeight) {
    dmu_latency latency{};
    for (int i = 0; i < 1000000; i++) dmu_latency_add(&latency, 3);
    EXPECT_EQ(dmu_latency_percentile(&latency, 100), 3u);
    for (int i = 0; i < 200000; i++) dmu_latency_add(&latency, 100);
    EXPECT_GE(dmu_latency_percentile(&latency, 50), 100u);
    EXPECT_GE(dmu_latency_percentile(&latency, 10), 100u);
}

}  // namespace
