// SPDX-License-Identifier: GPL-2.0-or-later
// Making durable what was applied; the order is in qcow2_image.h.
#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t l1_gap = 64;  // L1 entries further apart go into writes of their own

}  // namespace

Status Qcow2Image::place_tables() {
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        if (table.offset != 0) continue;
        if (planned_.count(index) == 0) {
            const auto run = allocator_.take(1, 1);
            if (run) {
                planned_[index] = run->first << header_.cluster_bits;
                metadata_.add_table(run->first);
            } else if (!use_spare(index)) {
                return run.error();
            }
        }
        table.offset = planned_[index];
    }
    return ok();
}

Status Qcow2Image::write_table(const L2Table& table, std::uint64_t first_sector, std::uint64_t sectors) {
    std::vector<std::byte> raw(sectors * sector_size);
    for (std::uint64_t i = 0; i < sectors * sector_words; i++)
        store_be<std::uint64_t>(raw, i * 8, table.words[first_sector * sector_words + i]);
    return file_->write(table.offset + first_sector * sector_size, raw);
}

Status Qcow2Image::write_new_tables(bool& any) {
    for (const auto index : dirty_) {
        const auto& table = *cache_.find(index);
        if (table.complete) continue;
        any = true;
        auto done = write_table(table, 0, table.dirty_sectors.size());
        if (!done) return done;
    }
    return ok();
}

Status Qcow2Image::write_changed_sectors() {
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
Status Qcow2Image::write_l1_entries() {
    std::vector<std::byte> raw;
    std::uint64_t first = 0;
    const auto flush = [&] { return raw.empty() ? ok() : file_->write(header_.l1_offset + first * 8, raw); };
    for (const auto index : dirty_) {
        const auto offset = cache_.find(index)->offset;
        if ((l1_[index] & offset_mask) == offset) continue;
        if (raw.empty() || index - (first + raw.size() / 8) >= l1_gap) {
            auto done = flush();
            if (!done) return done;
            raw.clear();
            first = index;
        }
        for (auto i = first + raw.size() / 8; i <= index; i++) {
            const auto at = raw.size();
            raw.resize(at + 8);
            store_be<std::uint64_t>(raw, at, i == index ? offset | copied_flag : l1_[i]);
        }
    }
    return flush();
}

void Qcow2Image::settle() {
    for (const auto index : dirty_) {
        auto& table = *cache_.find(index);
        const auto old = l1_[index] & offset_mask;
        if (old != table.offset) {
            // The copy of a shared table: the original has one user less.
            if (old != 0) {
                allocator_.freed(old >> header_.cluster_bits, index);
                metadata_.remove_table(old >> header_.cluster_bits);
            }
            l1_[index] = table.offset | copied_flag;
            allocator_.used(table.offset >> header_.cluster_bits, 1);
            planned_.erase(index);
        }
        table.dirty_sectors.assign(table.dirty_sectors.size(), false);
        cache_.set_pinned(index, false);
    }
    dirty_.clear();
    needs_sync_ = false;
    counts_first_ = false;
    allocator_.settled();
}

Status Qcow2Image::sync_files() {
    if (data_file_) {
        auto done = data_file_->sync();
        if (!done) return done;
    }
    return file_->sync();
}

// Makes a changed header durable. On an error it is the old one again, on the disk too: what
// is acknowledged from now on must lie where the next opener looks.
Status Qcow2Image::replace_header(Header old) {
    auto done = write_header();
    if (done) done = file_->sync();
    if (done) return done;
    old.refcount_table_offset = header_.refcount_table_offset;
    old.refcount_table_clusters = header_.refcount_table_clusters;
    old.incompatible = header_.incompatible;
    header_ = std::move(old);
    unsure_ = needs_sync_ = true;
    (void)settle_header();
    return done;
}

Status Qcow2Image::settle_header() {
    if (!unsure_) return ok();
    auto done = write_header();
    if (done) done = file_->sync();
    if (done) unsure_ = false;
    return done;
}

Status Qcow2Image::commit(DataState data) {
    if (!dirty()) return ok();
    auto done = settle_header();
    if (done) done = place_tables();
    if (done) done = allocator_.lower();
    if (!done) return done;
    bool any_new = false;
    done = write_new_tables(any_new);
    if (done && counts_first_) done = refcounts_.make_durable();
    if (!done) return done;
    if (!dirty_.empty() && (any_new || data == DataState::written)) {
        done = data == DataState::written ? sync_files() : file_->sync();
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
    // Of what an earlier commit freed.
    if (done && refcounts_.changed()) done = refcounts_.write();
    if (done) done = data == DataState::written && dirty_.empty() ? sync_files() : file_->sync();
    if (done) settle();
    return done;
}

Status Qcow2Image::close() {
    if (!writable_) return ok();
    auto done = commit(DataState::written);
    if (!done) return done;
    allocator_.recycle();
    compressed_at_ = compressed_end_ = 0;
    for (const auto& [index, offset] : planned_) metadata_.remove_table(offset >> header_.cluster_bits);
    planned_.clear();
    put_back_spares(0);
    leased_.clear();
    return allocator_.give_back();
}

}  // namespace dmu::qcow2
