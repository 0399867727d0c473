// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/table_cache.h"
#include "formats/core/tail_allocator.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

TEST(TableCache, ForgetsTheLeastRecentlyUsed) {
    TableCache<int> cache(2);
    cache.insert(1, 10);
    cache.insert(2, 20);
    EXPECT_EQ(*cache.find(1), 10);
    cache.insert(3, 30);
    EXPECT_EQ(cache.find(2), nullptr);
    EXPECT_EQ(*cache.find(1), 10);
    EXPECT_EQ(*cache.find(3), 30);
}

TEST(TableCache, PinnedStaysWhateverTheLimit) {
    TableCache<int> cache(1);
    for (int i = 0; i < 10; i++) {
        cache.insert(static_cast<std::uint64_t>(i), i);
        cache.set_pinned(static_cast<std::uint64_t>(i), true);
    }
    EXPECT_EQ(cache.size(), 10u);
    for (int i = 0; i < 10; i++) cache.set_pinned(static_cast<std::uint64_t>(i), false);
    EXPECT_EQ(cache.size(), 1u);
    EXPECT_EQ(*cache.find(9), 9);
}

TEST(TailAllocator, ReservesAheadAndGivesBack) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes.resize(4096);
    MemoryFile file(store, "m");
    TailAllocator tail(file, 4096, 4096);
    ASSERT_OK(tail.ensure(8192));
    EXPECT_EQ(store->bytes.size(), 4096u + (1 << 20));
    EXPECT_EQ(tail.take(8192), 4096u);
    EXPECT_EQ(tail.next(), 12288u);
    EXPECT_TRUE(tail.reads_as_zero());
    ASSERT_OK(tail.give_back());
    EXPECT_EQ(store->bytes.size(), 12288u);
}

TEST(TailAllocator, TakesWhatLittleIsLeft) {
    auto store = std::make_shared<MemoryStore>();
    store->capacity = 10 * 512;
    MemoryFile file(store, "m");
    TailAllocator tail(file, 512, 0);
    for (std::uint64_t i = 0; i < 10; i++) {
        ASSERT_OK(tail.ensure(512));
        EXPECT_EQ(tail.take(512), i * 512);
    }
    EXPECT_TRUE(fails_with(tail.ensure(512), Code::no_space, ""));
    EXPECT_EQ(tail.next(), 5120u);
    store->capacity = 1 << 24;
    ASSERT_OK(tail.ensure(512));
}

TEST(TailAllocator, AnotherOnesEndIsNotCut) {
    auto store = std::make_shared<MemoryStore>();
    MemoryFile file(store, "m");
    TailAllocator tail(file, 512, 0);
    ASSERT_OK(tail.ensure(512));
    store->bytes.resize(store->bytes.size() + 512);
    const auto size = store->bytes.size();
    ASSERT_OK(tail.give_back());
    EXPECT_EQ(store->bytes.size(), size);
}

TEST(TailAllocator, GarbageIsSaid) {
    auto store = std::make_shared<MemoryStore>();
    store->zeroing = false;
    MemoryFile file(store, "m");
    TailAllocator tail(file, 512, 0);
    ASSERT_OK(tail.ensure(512));
    EXPECT_FALSE(tail.reads_as_zero());
}

TEST(Registry, NamesExactly) {
    ASSERT_NE(find_format("qcow"), nullptr);
    ASSERT_NE(find_format("raw"), nullptr);
    EXPECT_EQ(find_format("Qcow"), nullptr);
    EXPECT_EQ(find_format(""), nullptr);
    EXPECT_EQ(format_names(), "qcow, qcow2, raw, vmdk");
}

}  // namespace
}  // namespace dmu
