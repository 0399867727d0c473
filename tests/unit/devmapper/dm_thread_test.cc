// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/devmapper/dm_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace dmu {
namespace {

TEST(DmThread, RunsInOrderOnOneOtherThread) {
    std::vector<int> order;
    DmThread thread;
    std::vector<std::future<std::thread::id>> answers;
    for (int i = 0; i < 100; ++i)
        answers.push_back(thread.run([&order, i] {
            order.push_back(i);
            return std::this_thread::get_id();
        }));
    const auto first = answers.front().get();
    EXPECT_NE(first, std::this_thread::get_id());
    for (std::size_t i = 1; i < answers.size(); ++i) EXPECT_EQ(answers[i].get(), first);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(DmThread, FinishesWhatIsQueued) {
    int done = 0;
    {
        DmThread thread;
        for (int i = 0; i < 10; ++i) thread.post([&done] { ++done; });
    }
    EXPECT_EQ(done, 10);
}

TEST(DmThread, KnowsItself) {
    DmThread thread;
    EXPECT_FALSE(thread.is_current());
    EXPECT_TRUE(thread.run([&thread] { return thread.is_current(); }).get());
}

TEST(DmThread, CarriesMoveOnlyWork) {
    DmThread thread;
    auto value = std::make_unique<int>(7);
    EXPECT_EQ(thread.run([value = std::move(value)] { return *value; }).get(), 7);
}

}  // namespace
}  // namespace dmu
