// SPDX-License-Identifier: GPL-2.0-or-later
// Writing what apply() recorded; the order is explained in qcow_image.h.
#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow/qcow_image.h"

namespace dmu::qcow {

namespace {

constexpr std::uint64_t l1_gap = 64;  // entries: cheaper written over than left out

}  // namespace

// Tables that reserve() did not plan: of changes that a predecessor's places are in.
Status QcowImage::place_tables() {
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        if (table.offset != 0) continue;
        auto enough = tail_.ensure(header_.l2_space());
        if (!enough) return enough;
        table.offset = tail_.take(header_.l2_space());
        planned_[index] = table.offset;
        remember_table(table.offset);
    }
    return ok();
}

Status QcowImage::write_table(const L2Table& table, std::uint64_t first_sector, std::uint64_t sectors) {
    std::vector<std::byte> raw(sectors * sector_size);
    for (std::uint64_t i = 0; i < sectors * sector_entries; i++)
        store_be<std::uint64_t>(raw, i * 8, table.entries[first_sector * sector_entries + i]);
    return file_->write(table.offset + first_sector * sector_size, raw);
}

Status QcowImage::write_new_tables(bool& any) {
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        if (table.complete) continue;
        any = true;
        auto done = write_table(table, 0, table.dirty_sectors.size());
        if (!done) return done;
    }
    return ok();
}

Status QcowImage::write_changed_sectors() {
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        const auto& dirty = table.dirty_sectors;
        for (std::size_t first = 0; first < dirty.size(); first++) {
            if (!dirty[first]) continue;
            std::size_t end = first + 1;
            while (end < dirty.size() && dirty[end]) end++;
            auto done = write_table(table, first, end - first);
            if (!done) return done;
            first = end;
        }
    }
    return ok();
}

// Entries of one neighbourhood in one write; those between are written as they are.
Status QcowImage::write_l1_entries() {
    std::vector<std::byte> raw;
    std::uint64_t first = 0;
    const auto flush = [&] { return raw.empty() ? ok() : file_->write(header_.l1_offset + first * 8, raw); };
    for (const auto index : dirty_) {
        if (l1_[index] != 0) continue;
        if (raw.empty() || index - (first + raw.size() / 8) >= l1_gap) {
            auto done = flush();
            if (!done) return done;
            raw.clear();
            first = index;
        }
        for (auto i = first + raw.size() / 8; i <= index; i++) {
            const auto at = raw.size();
            raw.resize(at + 8);
            store_be<std::uint64_t>(raw, at, i == index ? cache_.find(index)->offset : l1_[i]);
        }
    }
    return flush();
}

void QcowImage::settle() {
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        l1_[index] = table.offset;
        planned_.erase(index);
        table.dirty_sectors.assign(table.dirty_sectors.size(), false);
        cache_.set_pinned(index, false);
    }
    dirty_.clear();
    needs_sync_ = false;
}

Status QcowImage::commit(DataState data) {
    if (!dirty()) return ok();
    auto done = place_tables();
    if (!done) return done;
    bool any_new = false;
    done = write_new_tables(any_new);
    if (!done) return done;
    if (!dirty_.empty() && (any_new || data == DataState::written)) {
        done = file_->sync();
        if (!done) return done;
    }
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        if (table.complete) continue;
        table.complete = true;
        table.dirty_sectors.assign(table.dirty_sectors.size(), false);
    }
    done = write_changed_sectors();
    if (done) done = write_l1_entries();
    if (done) done = file_->sync();
    if (done) settle();
    return done;
}

Status QcowImage::close() {
    if (!writable_) return ok();
    auto done = commit(DataState::written);
    if (!done) return done;
    if (!corrupt_) put_back_tail();
    return tail_.give_back();
}

}  // namespace dmu::qcow
