// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>

#include "formats/core/endian.h"
#include "formats/vmdk/sparse_extent.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint64_t entries_in_sector = sector_size / 4;  // of all kinds that are written
constexpr std::uint64_t directory_gap = 128;                  // entries between, that one write goes over

}  // namespace

// Tables that no reserve() planned: of a successor, and of zeroed grains.
Status SparseExtent::place_tables() {
    std::vector<std::uint64_t> missing;
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        if (table.offset == 0 || (has_redundant() && table.second_offset == 0)) missing.push_back(index);
    }
    if (missing.empty()) return ok();
    auto enough = tail_.ensure(tables_space(missing.size()));
    if (!enough) return enough;
    plan_tables(missing);
    for (const auto index : missing) {
        auto& table = *cache_.find(index);
        if (table.offset == 0) table.offset = planned_[index].first;
        if (table.second_offset == 0) table.second_offset = planned_[index].second;
    }
    return ok();
}

Status SparseExtent::write_table(const GrainTable& table, std::uint64_t offset, std::uint64_t first_sector,
                                 std::uint64_t sectors) {
    std::vector<std::byte> raw(sectors * sector_size);
    const auto first = first_sector * entries_in_sector;
    const auto count = std::min<std::uint64_t>(sectors * entries_in_sector, table.entries.size() - first);
    for (std::uint64_t i = 0; i < count; i++)
        store_le<std::uint32_t>(raw, i * 4, static_cast<std::uint32_t>(table.entries[first + i] & ~entry_fault));
    return file_.write(offset + first_sector * sector_size, raw);
}

Status SparseExtent::write_unclean(bool unclean) {
    std::array<std::byte, 4> raw{static_cast<std::byte>(unclean)};
    if (header_.kind == SparseKind::hosted) return file_.write(hosted_unclean_at, std::span(raw).first(1));
    return file_.write(cowd_unclean_at, raw);
}

// Another writer takes COWD's first free sector as it says, whatever the file's size.
Status SparseExtent::write_marks(bool& any) {
    if (!is_marked_) {
        marks_to_sync_ = true;
        auto done = write_unclean(true);
        if (!done) return done;
        is_marked_ = true;
    }
    const auto end = tail_.next() / sector_size;
    any = any || marks_to_sync_;
    if (header_.kind != SparseKind::cowd || free_sector_ >= end) return ok();
    any = marks_to_sync_ = true;
    return write_free_sector(end);
}

Status SparseExtent::write_free_sector(std::uint64_t end) {
    std::array<std::byte, 4> raw{};
    store_le<std::uint32_t>(raw, 0, static_cast<std::uint32_t>(std::min<std::uint64_t>(end, UINT32_MAX)));
    auto done = file_.write(cowd_free_at, raw);
    if (done) free_sector_ = end;
    return done;
}

Status SparseExtent::write_first(bool& any) {
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        const auto sectors = table.dirty_sectors.size();
        if (!table.complete) {
            any = true;
            auto done = write_table(table, table.offset, 0, sectors);
            if (!done) return done;
        }
        if (has_redundant() && !table.second_complete) {
            any = true;
            auto done = write_table(table, table.second_offset, 0, sectors);
            if (!done) return done;
        }
    }
    return write_marks(any);
}

Status SparseExtent::write_changed() {
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        const auto& dirty = table.dirty_sectors;
        for (std::size_t first = 0; first < dirty.size(); first++) {
            if (!dirty[first]) continue;
            std::size_t end = first + 1;
            while (end < dirty.size() && dirty[end]) end++;
            if (has_redundant()) {
                auto done = write_table(table, table.second_offset, first, end - first);
                if (!done) return done;
            }
            auto done = write_table(table, table.offset, first, end - first);
            if (!done) return done;
            first = end;
        }
    }
    return ok();
}

// Entries of one neighbourhood in one write; those between are written as they are.
Status SparseExtent::write_directory(std::vector<std::uint64_t>& directory, std::uint64_t sector,
                                     std::uint64_t GrainTable::*at) {
    std::vector<std::byte> raw;
    std::uint64_t first = 0;
    const auto flush = [&] { return raw.empty() ? ok() : file_.write(sector * sector_size + first * 4, raw); };
    for (const auto index : dirty_) {
        const auto place = cache_.find(index)->*at / sector_size;
        if (directory[index] == place) continue;
        if (raw.empty() || index - (first + raw.size() / 4) >= directory_gap) {
            auto done = flush();
            if (!done) return done;
            raw.clear();
            first = index;
        }
        for (auto i = first + raw.size() / 4; i <= index; i++) {
            const auto end = raw.size();
            raw.resize(end + 4);
            store_le<std::uint32_t>(raw, end, static_cast<std::uint32_t>(i == index ? place : directory[i]));
        }
    }
    return flush();
}

void SparseExtent::settle() {
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        directory_[index] = table.offset / sector_size;
        if (has_redundant()) redundant_[index] = table.second_offset / sector_size;
        planned_.erase(index);
        table.dirty_sectors.assign(table.dirty_sectors.size(), false);
        cache_.set_pinned(index, false);
    }
    dirty_.clear();
    drained_.insert(drained_.end(), freed_.begin(), freed_.end());
    freed_.clear();
    needs_sync_ = false;
}

Status SparseExtent::commit(DataState data) {
    if (!dirty()) return ok();
    auto done = place_tables();
    if (!done) return done;
    bool any = false;
    done = write_first(any);
    if (!done) return done;
    if (any || (!dirty_.empty() && data == DataState::written)) {
        done = file_.sync();
        if (!done) return done;
        marks_to_sync_ = false;
    }
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        if (!table.complete) table.dirty_sectors.assign(table.dirty_sectors.size(), false);
        table.complete = table.second_complete = true;
    }
    done = write_changed();
    if (done && has_redundant()) done = write_directory(redundant_, header_.redundant, &GrainTable::second_offset);
    if (done) done = write_directory(directory_, header_.directory, &GrainTable::offset);
    if (done) done = file_.sync();
    if (done) settle();
    return done;
}

// COWD's first free sector may have gone ahead over what was cut off since.
Status SparseExtent::cut_tail() {
    if (!corrupt_) put_back_tail();
    auto done = tail_.give_back();
    const auto end = tail_.next() / sector_size;
    if (!done || header_.kind != SparseKind::cowd || free_sector_ <= end) return done;
    return write_free_sector(end);
}

Status SparseExtent::close() {
    if (!setup_.writable) return ok();
    auto done = commit(DataState::written);
    if (done) done = cut_tail();
    if (!done || !is_marked_ || header_.unclean) return done;
    done = write_unclean(false);
    if (done) done = file_.sync();
    if (done) is_marked_ = false;
    return done;
}

}  // namespace dmu::vmdk
