// SPDX-License-Identifier: GPL-2.0-or-later
// Large qcow2 images with every L2 table filled, made up as they are read: opening them
// reads header, L1 and refcount table and nothing else, and little stays in memory.
#include <malloc.h>

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 65536, table_entries = cluster / 8, block_counts = cluster / 2;
constexpr std::uint64_t copied = std::uint64_t{1} << 63;
constexpr std::uint64_t memory_limit = 16 << 20;

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

// Header, L1, refcount table, refcount blocks, L2 tables, data: in clusters.
struct Layout {
    explicit Layout(std::uint64_t bytes) : data_count(bytes / cluster), tables_count(data_count / table_entries) {
        refcounts_at = l1_at + ceil_div(tables_count * 8, cluster);
        for (blocks_count = 1; blocks_count * block_counts < end(); blocks_count++) {
        }
    }
    std::uint64_t blocks_at() const { return refcounts_at + refcounts_count(); }
    std::uint64_t refcounts_count() const { return ceil_div(blocks_count * 8, cluster); }
    std::uint64_t tables_at() const { return blocks_at() + blocks_count; }
    std::uint64_t data_at() const { return tables_at() + tables_count; }
    std::uint64_t end() const { return data_at() + data_count; }

    const std::uint64_t data_count, tables_count;
    const std::uint64_t l1_at = 1;
    std::uint64_t refcounts_at = 0, blocks_count = 0;
    bool dirty = false;  // and every refcount 0
};

// A cluster of such an image, from the specification.
Bytes cluster_of(const Layout& at, std::uint64_t number) {
    Bytes raw(cluster);
    const auto fill = [&](std::uint64_t first, std::uint64_t most, std::uint64_t to, std::uint64_t flag) {
        for (std::uint64_t i = 0; i < table_entries && first + i < most; i++)
            store_be<std::uint64_t>(raw, i * 8, (to + first + i) * cluster | flag);
    };
    if (number == 0) {
        const std::pair<std::size_t, std::uint32_t> words[] = {{0, 0x514649fb},
                                                               {4, 3},
                                                               {20, 16},
                                                               {36, static_cast<std::uint32_t>(at.tables_count)},
                                                               {56, static_cast<std::uint32_t>(at.refcounts_count())},
                                                               {96, 4},
                                                               {100, 104}};
        for (const auto& [offset, value] : words) store_be<std::uint32_t>(raw, offset, value);
        store_be<std::uint64_t>(raw, 24, at.data_count * cluster);
        store_be<std::uint64_t>(raw, 40, at.l1_at * cluster);
        store_be<std::uint64_t>(raw, 48, at.refcounts_at * cluster);
        store_be<std::uint64_t>(raw, 72, at.dirty ? 1 : 0);
    } else if (number < at.refcounts_at) {
        fill((number - at.l1_at) * table_entries, at.tables_count, at.tables_at(), copied);
    } else if (number < at.blocks_at()) {
        fill((number - at.refcounts_at) * table_entries, at.blocks_count, at.blocks_at(), 0);
    } else if (number < at.tables_at()) {
        const auto first = (number - at.blocks_at()) * block_counts;
        for (std::uint64_t i = 0; !at.dirty && i < block_counts && first + i < at.end(); i++)
            store_be<std::uint16_t>(raw, i * 2, 1);
    } else if (number < at.data_at()) {
        fill((number - at.tables_at()) * table_entries, at.data_count, at.data_at(), copied);
    }
    return raw;
}

// What was read of it, by cluster; written clusters are kept.
struct Watched {
    std::map<std::uint64_t, std::uint64_t> bytes_read;
    std::map<std::uint64_t, Bytes> written;
    std::uint64_t size = 0;
};

class MadeUpFile final : public BlockFile {
public:
    MadeUpFile(const Layout& layout, Watched& watched) : layout_(layout), watched_(watched) {
        if (watched_.size == 0) watched_.size = layout.end() * cluster;
    }
    const std::string& name() const override { return name_; }
    Result<std::uint64_t> size() const override { return watched_.size; }
    Status read(std::uint64_t offset, std::span<std::byte> into) override {
        each(offset, into.size(), [&](std::uint64_t number, std::uint64_t skip, std::uint64_t at, std::uint64_t bytes) {
            watched_.bytes_read[number] += bytes;
            const auto found = watched_.written.find(number);
            const auto raw = found == watched_.written.end() ? cluster_of(layout_, number) : found->second;
            std::copy_n(raw.begin() + static_cast<std::ptrdiff_t>(skip), bytes,
                        into.begin() + static_cast<std::ptrdiff_t>(at));
        });
        return ok();
    }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override {
        each(offset, from.size(), [&](std::uint64_t number, std::uint64_t skip, std::uint64_t at, std::uint64_t bytes) {
            auto& raw = watched_.written.try_emplace(number, cluster_of(layout_, number)).first->second;
            std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(at), bytes,
                        raw.begin() + static_cast<std::ptrdiff_t>(skip));
        });
        watched_.size = std::max(watched_.size, offset + from.size());
        return ok();
    }
    Status sync() override { return ok(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        watched_.size = std::max(watched_.size, offset + length);
        return true;
    }
    Status truncate(std::uint64_t size) override {
        watched_.size = size;
        return ok();
    }
    bool read_only() const override { return false; }
    int descriptor() const override { return -1; }
    std::uint32_t direct_alignment() const override { return 512; }

private:
    template <typename F>
    static void each(std::uint64_t offset, std::uint64_t length, F&& do_one) {
        for (std::uint64_t done = 0; done < length;) {
            const auto skip = (offset + done) % cluster, bytes = std::min(cluster - skip, length - done);
            do_one((offset + done) / cluster, skip, done, bytes);
            done += bytes;
        }
    }
    const std::string name_ = "made up";
    const Layout layout_;
    Watched& watched_;
};

// Of the allocator; 0 under a sanitizer, which has its own.
std::uint64_t memory_in_use() {
    const auto info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
}

class Qcow2Scale : public ::testing::TestWithParam<std::uint64_t> {
protected:
    std::unique_ptr<Image> open(bool writable) {
        auto image = find_format("qcow2")->open(std::make_unique<MadeUpFile>(layout_, watched_), {writable, {}});
        EXPECT_OK(image);
        return image ? std::move(*image) : nullptr;
    }
    Layout layout_{GetParam() << 40};
    Watched watched_;
};
INSTANTIATE_TEST_SUITE_P(Size, Qcow2Scale, ::testing::Values(1, 16),
                         [](const auto& info) { return std::to_string(info.param) + "TiB"; });

TEST_P(Qcow2Scale, OpeningReadsHeaderL1AndRefcountTableOnly) {
    for (const bool writable : {false, true}) {
        watched_.bytes_read.clear();
        const auto before = memory_in_use();
        const auto image = open(writable);
        ASSERT_TRUE(image);
        EXPECT_LE(memory_in_use() - before, memory_limit);
        EXPECT_EQ(image->info().virtual_size, GetParam() << 40);
        std::uint64_t bytes = 0;
        for (const auto& [number, read] : watched_.bytes_read) {
            EXPECT_LT(number, layout_.blocks_at());
            bytes += read;
        }
        // The header's first bytes are read twice.
        EXPECT_LE(bytes, layout_.blocks_at() * cluster + 4096);
        EXPECT_TRUE(watched_.written.empty());
    }
}

// It is used at once, from past its end; the refcounts follow, in little memory.
TEST_P(Qcow2Scale, ADirtyOneToo) {
    layout_.dirty = true;
    const auto before = memory_in_use();
    auto image = open(true);
    ASSERT_TRUE(image);
    EXPECT_LE(memory_in_use() - before, memory_limit);
    for (const auto& [number, read] : watched_.bytes_read) EXPECT_LT(number, layout_.blocks_at()) << read;
    EXPECT_TRUE(watched_.written.empty());
    ASSERT_TRUE(image->has_work());
    const auto guest = layout_.data_count / 3;
    for (int i = 0; i < 3; i++) {
        ASSERT_OK(image->apply(Change{ChangeKind::zero, {guest * cluster}, cluster, 0, {}}));
        const auto place = image->reserve({{guest * cluster}, cluster});
        ASSERT_OK(place);
        EXPECT_GE(place->host.bytes, layout_.end() * cluster);
        ASSERT_OK(image->apply(Change{ChangeKind::data, {guest * cluster}, cluster, 0, place->host}));
        ASSERT_OK(image->commit(DataState::durable));
        // Of 16 TiB only a piece: it is 128 windows.
        const auto all = layout_.tables_count + layout_.blocks_count;
        const auto worked = std::min<std::uint64_t>(all, 1000) / 3;
        for (std::uint64_t k = 0; k < worked && image->has_work(); k++) ASSERT_OK(image->work());
        image->recycle();
        watched_.bytes_read.clear();
        // The file keeps what was written: not the image's memory.
        const auto kept = watched_.written.size() * (cluster + 128);
        EXPECT_LE(memory_in_use() - before, 2 * memory_limit + kept);
    }
    if (GetParam() != 1) {
        EXPECT_TRUE(image->has_work());
        return;
    }
    while (image->has_work()) ASSERT_OK(image->work());
    ASSERT_OK(image->close());
    MadeUpFile file(layout_, watched_);
    Bytes raw(cluster);
    ASSERT_OK(file.read(0, raw));
    EXPECT_EQ(load_be<std::uint64_t>(raw, 72), 0u);
    // Every old cluster has its refcount; that of the discarded one is 0.
    for (std::uint64_t i = 0; i < layout_.blocks_count; i++) {
        ASSERT_OK(file.read((layout_.blocks_at() + i) * cluster, raw));
        for (std::uint64_t k = 0; k < block_counts && i * block_counts + k < layout_.end(); k++) {
            const auto number = i * block_counts + k;
            ASSERT_EQ(load_be<std::uint16_t>(raw, k * 2), number == layout_.data_at() + guest ? 0 : 1) << number;
        }
    }
}

TEST_P(Qcow2Scale, UseOfAllOfItStaysInBounds) {
    const auto seed = test_seed();
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    auto image = open(true);
    ASSERT_TRUE(image);
    const auto before = memory_in_use();
    for (int i = 0; i < 1000; i++) {
        const auto guest = random() % layout_.data_count;
        const auto extents = image->look_up({{guest * cluster}, cluster});
        ASSERT_OK(extents);
        EXPECT_EQ(extents->front().host.bytes, (layout_.data_at() + guest) * cluster);
        // All that its table says, in one answer.
        EXPECT_GE(extents->front().length, (table_entries - guest % table_entries) * cluster);
    }
    EXPECT_LE(memory_in_use() - before, memory_limit);
    // A first write after a discard, past the file's end.
    const auto guest = random() % layout_.data_count;
    ASSERT_OK(image->apply(Change{ChangeKind::zero, {guest * cluster}, cluster, 0, {}}));
    ASSERT_OK(image->commit(DataState::durable));
    const auto place = image->reserve({{guest * cluster}, cluster});
    ASSERT_OK(place);
    EXPECT_GE(place->host.bytes, layout_.end() * cluster);
    ASSERT_OK(image->apply(Change{ChangeKind::data, {guest * cluster}, cluster, 0, place->host}));
    ASSERT_OK(image->commit(DataState::durable));
    ASSERT_OK(image->close());
    // Of the metadata only what changed was written: an L2 table, some refcount blocks.
    EXPECT_LE(watched_.written.size(), 20u);
    const auto again = open(false);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->look_up({{guest * cluster}, cluster})->front().host.bytes, place->host.bytes);
}

}  // namespace
}  // namespace dmu
