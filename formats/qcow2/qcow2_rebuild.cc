// SPDX-License-Identifier: GPL-2.0-or-later
// The refcounts of a dirty image, made anew while it is in use; what there is to it stands
// in rebuild.h.
#include <algorithm>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/bitmaps.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t slice_bytes = 1 << 20;
constexpr std::uint64_t l1_piece = 1024;  // entries of a snapshot's L1 table read at a time

}  // namespace

void Qcow2Image::begin_rebuild() {
    rebuild_ = std::make_unique<Rebuild>(header_, allocator_.end(), l1_.size());
    rebuild_->at = refcounts_.block_of(allocator_.end());
    allocator_.set_rebuild(rebuild_.get());
}

Status Qcow2Image::work() {
    for (std::uint64_t bytes = 0; has_work() && bytes < slice_bytes;) {
        auto done = rebuild_step(bytes);
        if (!done) return done;
    }
    return ok();
}

// Goes on where it is only when all of a step was done.
Status Qcow2Image::rebuild_step(std::uint64_t& bytes) {
    using Stage = Rebuild::Stage;
    bytes += cluster_bytes();
    Status done;
    switch (rebuild_->stage) {
        case Stage::beyond:
            return forget_beyond();
        case Stage::fixed:
            return count_fixed();
        case Stage::tables:
            while (rebuild_->at < l1_.size() && !has_table(rebuild_->at)) rebuild_->at++;
            if (rebuild_->at < l1_.size()) {
                done = count_table(rebuild_->at, bytes);
                if (done) rebuild_->at++;
                return done;
            }
            rebuild_->stage = Stage::snapshots;
            rebuild_->at = rebuild_->snapshot = 0;
            return ok();
        case Stage::snapshots:
            if (rebuild_->snapshot < snapshots_.entries.size()) return count_snapshot(bytes);
            return begin_bitmaps();
        case Stage::bitmaps:
            if (rebuild_->at < rebuild_->bitmaps.size()) return count_bitmap(bytes);
            rebuild_->bitmaps.clear();
            rebuild_->stage = Stage::write;
            return ok();
        case Stage::write:
            return write_window(bytes);
        case Stage::done:
            return end_rebuild();
    }
    return ok();
}

// Refcounts of clusters past the file's end, a block at a time: nobody's.
Status Qcow2Image::forget_beyond() {
    auto& index = rebuild_->at;
    while (index < refcounts_.table().size() && !refcounts_.has_block(index)) index++;
    if (index >= refcounts_.table().size()) {
        rebuild_->stage = Rebuild::Stage::fixed;
        return ok();
    }
    const auto block = refcounts_.block(index);
    if (!block) return block.error();
    const auto per_block = header_.block_clusters();
    bool changed = false;
    for (auto c = std::max(allocator_.end(), index * per_block); c < (index + 1) * per_block; c++) {
        if (load_refcount(**block, header_.refcount_order, c % per_block) == 0) continue;
        store_refcount(**block, header_.refcount_order, c % per_block, 0);
        changed = true;
    }
    if (changed) {
        refcounts_.changed(index);
        auto done = refcounts_.make_durable();
        if (!done) return done;
    }
    index++;
    return ok();
}

// --------------------------------------------------------------- counting ---

Status Qcow2Image::count_cluster(std::uint64_t cluster) {
    if (rebuild_->count(cluster)) return ok();
    return corrupt("cluster " + std::to_string(cluster) + " has more users than refcounts of " +
                   std::to_string(header_.refcount_bits()) + " bits can count");
}

Status Qcow2Image::count_fixed() {
    rebuild_->begin_window();
    for (const auto& [first, end] : metadata_.fixed.ranges())
        for (auto c = std::max(first, rebuild_->window_first()); c < std::min(end, rebuild_->window_end()); c++) {
            auto done = count_cluster(c);
            if (!done) return done;
        }
    for (const auto offset : refcounts_.table()) {
        if (offset == 0) continue;
        auto done = count_cluster(offset >> header_.cluster_bits);
        if (!done) return done;
    }
    rebuild_->stage = Rebuild::Stage::tables;
    rebuild_->at = 0;
    return ok();
}

// Of an L2 table; limit: where what the entry points at must end, in clusters.
Status Qcow2Image::count_entry(const Entry& entry, std::uint64_t limit, const std::string& who) {
    if (header_.has_data_file() || (!entry.compressed() && entry.offset() == 0)) return ok();
    auto first = entry.offset() >> header_.cluster_bits, last = first;
    if (entry.compressed()) {
        const auto place = compressed_place(header_, entry.word);
        first = place.offset >> header_.cluster_bits;
        // Its last sectors may lie past the file's end: they are zeros, and nobody's.
        last = std::min((place.offset + place.bytes - 1) >> header_.cluster_bits, limit - 1);
    } else if (entry.offset() % cluster_bytes() != 0) {
        return corrupt(who + " is not aligned to clusters");
    }
    if (first >= limit) return corrupt(who + " lies past the end of the file");
    for (auto c = first; c <= last; c++) {
        auto done = count_cluster(c);
        if (!done) return done;
    }
    return ok();
}

// As the table is in memory, where it is: a change counts from when it was applied.
Status Qcow2Image::count_table(std::uint64_t index, std::uint64_t& bytes) {
    auto done = ok();
    if (const auto offset = l1_[index] & offset_mask; offset != 0) done = count_cluster(offset >> header_.cluster_bits);
    if (!done || !rebuild_->may_touch(index)) return done;
    std::vector<std::uint64_t> words;
    if (const auto* table = cache_.find(index)) {
        words = table->words;
    } else {
        auto read = read_l1_table(l1_[index] & offset_mask, cluster_bytes() / 8);
        if (!read) return read.error();
        words = std::move(*read);
        bytes += cluster_bytes();
    }
    const bool known = rebuild_->is_known(index);
    std::uint64_t lowest = UINT64_MAX, highest = 0;
    const std::size_t step = header_.extended_l2() ? 2 : 1;
    for (std::size_t i = 0; i < words.size(); i += step) {
        const Entry entry{words[i], step == 2 ? words[i + 1] : 0};
        if (entry.word == 0 && entry.bitmap == 0) continue;
        const auto guest = (std::uint64_t{index} << header_.l2_shift()) + ((i / step) << header_.cluster_bits);
        const auto who = [&] { return "the cluster of guest byte " + std::to_string(guest); };
        if (!known) {
            if (const auto fault = fault_of(entry, guest); !fault.empty())
                return corrupt(who() + " " + std::string(fault));
            const auto place = entry.compressed() ? compressed_place(header_, entry.word)
                                                  : CompressedPlace{entry.offset(), cluster_bytes()};
            if (place.offset != 0 && rebuild_->is_old(place.offset >> header_.cluster_bits)) {
                lowest = std::min(lowest, place.offset >> header_.cluster_bits);
                highest = std::max(highest, (place.offset + place.bytes - 1) >> header_.cluster_bits);
            }
        }
        // Nothing but what is looked at makes a name for itself: there are many.
        done = count_entry(entry, allocator_.end(), "");
        if (!done) return done;
    }
    rebuild_->seen(index, lowest, highest);
    return ok();
}

Status Qcow2Image::count_snapshot(std::uint64_t& bytes) {
    const auto& snapshot = snapshots_.entries[rebuild_->snapshot];
    if (rebuild_->at >= snapshot.l1_entries) {
        rebuild_->snapshot++;
        rebuild_->at = 0;
        return ok();
    }
    const auto within = rebuild_->at % l1_piece;
    if (within == 0) {
        auto piece = read_l1_table(snapshot.l1_offset + rebuild_->at * 8,
                                   std::min(l1_piece, snapshot.l1_entries - rebuild_->at));
        if (!piece) return piece.error();
        rebuild_->l1 = std::move(*piece);
    }
    const auto offset = rebuild_->l1[within] & offset_mask;
    const auto who = "table " + std::to_string(rebuild_->at) + " of snapshot " + snapshot.what.id;
    if (offset != 0) {
        auto done = count_entry({offset, 0}, rebuild_->old_clusters(), "L2 " + who);
        if (!done) return done;
        const auto words = read_l1_table(offset, cluster_bytes() / 8);
        if (!words) return words.error();
        bytes += cluster_bytes();
        const auto inside = "a cluster of L2 " + who;
        for (std::size_t i = 0; i < words->size(); i += header_.extended_l2() ? 2 : 1) {
            done = count_entry({(*words)[i], 0}, rebuild_->old_clusters(), inside);
            if (!done) return done;
        }
    }
    rebuild_->at++;
    return ok();
}

Status Qcow2Image::begin_bitmaps() {
    auto bitmaps = read_bitmaps(*file_, header_);
    if (!bitmaps) return bitmaps.error().code == Code::corrupt ? Status(corrupt("its bitmaps")) : bitmaps.error();
    rebuild_->bitmaps = std::move(*bitmaps);
    rebuild_->stage = Rebuild::Stage::bitmaps;
    rebuild_->at = 0;
    return ok();
}

Status Qcow2Image::count_bitmap(std::uint64_t& bytes) {
    const auto& bitmap = rebuild_->bitmaps[rebuild_->at];
    const auto who = "the table of bitmap '" + bitmap.name + "'";
    const auto end = align_up(bitmap.table_offset + std::uint64_t{bitmap.table_entries} * 8, cluster_bytes());
    auto done = ok();
    for (auto at = bitmap.table_offset; done && at < end; at += cluster_bytes())
        done = count_entry({at, 0}, rebuild_->old_clusters(), who);
    if (!done) return done;
    const auto words = read_l1_table(bitmap.table_offset, bitmap.table_entries);
    if (!words) return words.error();
    bytes += words->size() * 8;
    const auto inside = "a cluster of " + who;
    for (const auto word : *words) {
        done = count_entry({word & offset_mask, 0}, rebuild_->old_clusters(), inside);
        if (!done) return done;
    }
    rebuild_->at++;
    return ok();
}

// ---------------------------------------------------------------- writing ---

// Blocks that the table does not have, where they have something to say.
Status Qcow2Image::place_blocks(std::uint64_t first, std::uint64_t end) {
    for (auto index = first; index < end; index++) {
        if (refcounts_.has_block(index) || !rebuild_->has_users(index)) continue;
        const auto run = allocator_.take(1, 1);
        if (!run) return run.error();
        // Space is past the file's end, so the table reaches this far by now; taking it may even
        // have made this block.
        if (refcounts_.has_block(index)) {
            allocator_.put_back(*run);
            continue;
        }
        refcounts_.add_block(index, run->first << header_.cluster_bits);
        metadata_.add_table(run->first);
        allocator_.used(run->first, 1);
    }
    return ok();
}

Status Qcow2Image::write_window(std::uint64_t& bytes) {
    const auto first = refcounts_.block_of(rebuild_->window_first());
    const auto end = refcounts_.block_of(rebuild_->window_end() - 1) + 1;
    auto done = place_blocks(first, end);
    if (!done) return done;
    for (auto index = first; index < end; index++) {
        if (!refcounts_.has_block(index)) continue;
        const auto block = refcounts_.block(index);
        if (!block) return block.error();
        auto raw = **block;
        std::uint64_t cluster = 0;
        if (!rebuild_->fill(index, raw, successor_, cluster))
            return corrupt("cluster " + std::to_string(cluster) + " has more users than its refcounts can count");
        bytes += raw.size();
        if (raw == **block) continue;
        **block = std::move(raw);
        refcounts_.changed(index);
    }
    done = refcounts_.make_durable();
    if (done) rebuild_->end_window();
    return done;
}

// All of them are on disk; the mark goes last.
Status Qcow2Image::end_rebuild() {
    auto done = refcounts_.make_durable();
    if (!done) return done;
    header_.incompatible &= ~incompatible_dirty;
    done = write_header();
    if (done) done = file_->sync();
    if (!done) {
        header_.incompatible |= incompatible_dirty;
        return done;
    }
    allocator_.set_rebuild(nullptr);
    rebuild_.reset();
    return ok();
}

}  // namespace dmu::qcow2
