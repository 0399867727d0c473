// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/references.h"

#include <algorithm>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/bitmaps.h"
#include "formats/qcow2/encryption.h"

namespace dmu::qcow2 {

namespace {

constexpr std::size_t message_limit = 100;

std::string place(const std::string& who, std::uint64_t offset) {
    return who + " at byte " + std::to_string(offset);
}

}  // namespace

void References::fault(const std::string& what) {
    faults_++;
    if (messages_.size() < message_limit) messages_.push_back(what);
}

std::uint64_t References::file_clusters() const {
    return align_up(file_bytes_, header_.cluster_bytes()) >> header_.cluster_bits;
}

std::uint64_t References::count(std::uint64_t cluster) const {
    const auto page = pages_.find(cluster / page_clusters);
    return page == pages_.end() ? 0 : page->second->counts[cluster % page_clusters];
}

// One user more of every cluster there. Only what may be shared is of one kind twice.
void References::take(std::uint64_t offset, std::uint64_t bytes, Kind kind, const std::string& who) {
    if (bytes == 0) return;
    if (kind != Kind::compressed && offset % header_.cluster_bytes() != 0)
        return fault(place(who, offset) + " is not aligned to clusters");
    const auto limit = file_clusters() << header_.cluster_bits;
    if (offset >= limit || (kind != Kind::compressed && bytes > limit - offset))
        return fault(place(who, offset) + " ends past the end of the file");
    const auto last = std::min((offset + bytes - 1) >> header_.cluster_bits, file_clusters() - 1);
    for (auto c = offset >> header_.cluster_bits; c <= last; c++) {
        auto& page = pages_[c / page_clusters];
        if (!page) page = std::make_unique<Page>();
        auto& had = page->kinds[c % page_clusters];
        if (had != Kind::none && (had != kind || kind == Kind::fixed))
            fault(place(who, offset) + " lies over something else");
        had = kind;
        page->counts[c % page_clusters]++;
        end_ = std::max(end_, c + 1);
    }
}

Result<std::vector<std::uint64_t>> References::read_words(std::uint64_t offset, std::uint64_t count) {
    std::vector<std::byte> raw(count * 8);
    auto done = file_.read(offset, raw);
    if (!done) return done.error();
    std::vector<std::uint64_t> words(count);
    for (std::size_t i = 0; i < count; i++) words[i] = load_be<std::uint64_t>(raw, i * 8);
    return words;
}

void References::take_entry(const Entry& entry, std::uint64_t guest, bool active) {
    const auto who = "the cluster of guest byte " + std::to_string(guest);
    const auto kind = kind_of(header_, entry);
    if (active && guest < header_.size && kind != ClusterKind::unallocated && kind != ClusterKind::zero)
        guest_clusters_++;
    if (entry.compressed()) {
        if (header_.has_data_file()) return fault(who + " is compressed, in an external data file");
        const auto packed = compressed_place(header_, entry.word);
        return take(packed.offset, packed.bytes, Kind::compressed, who);
    }
    if (header_.version == 2 && (entry.word & zero_flag) != 0)
        return fault(who + " is a zero cluster, which version 2 does not have");
    if (header_.extended_l2() && (entry.bitmap & entry.bitmap >> subclusters & all_allocated_bitmap) != 0)
        fault(who + " has subclusters that are both allocated and zero");
    if (!entry.has_place(header_)) {
        if (header_.extended_l2() && (entry.bitmap & all_allocated_bitmap) != 0)
            fault(who + " has allocated subclusters, but no place");
        return;
    }
    if (!header_.has_data_file()) return take(entry.offset(), header_.cluster_bytes(), Kind::data, who);
    if (entry.offset() != guest) fault(who + " lies elsewhere in the data file than on the disk");
}

Status References::walk_l2(std::uint64_t offset, std::uint64_t guest, bool active) {
    const auto words = read_words(offset, header_.cluster_bytes() / 8);
    if (!words) return words.error();
    const std::size_t step = header_.extended_l2() ? 2 : 1;
    for (std::size_t i = 0; i < words->size(); i += step)
        take_entry({(*words)[i], step == 2 ? (*words)[i + 1] : 0}, guest + ((i / step) << header_.cluster_bits),
                   active);
    return ok();
}

Status References::walk_l1(std::uint64_t offset, std::uint64_t entries, bool active, const std::string& who) {
    if (entries == 0) return ok();
    const auto before = faults_;
    take(offset, entries * 8, Kind::fixed, who);
    if (faults_ != before) return ok();
    const auto l1 = read_words(offset, entries);
    if (!l1) return l1.error();
    for (std::size_t i = 0; i < l1->size(); i++) {
        const auto table = (*l1)[i] & offset_mask;
        if (table == 0) continue;
        const auto faults = faults_;
        take(table, header_.cluster_bytes(), Kind::table, "L2 table " + std::to_string(i) + " of " + who);
        if (faults_ != faults) continue;
        auto done = walk_l2(table, std::uint64_t{i} << header_.l2_shift(), active);
        if (!done) return done;
    }
    return ok();
}

Status References::walk_bitmaps() {
    const auto extension = bitmaps_of(header_, file_.name());
    const auto bitmaps = read_bitmaps(file_, header_);
    if (!bitmaps) {
        if (bitmaps.error().code != Code::corrupt) return bitmaps.error();
        fault(bitmaps.error().message);
        return ok();
    }
    if (*extension)
        take((*extension)->directory_offset, (*extension)->directory_bytes, Kind::fixed, "the directory of bitmaps");
    for (const auto& bitmap : *bitmaps) {
        const auto who = "bitmap '" + bitmap.name + "'";
        const auto before = faults_;
        take(bitmap.table_offset, std::uint64_t{bitmap.table_entries} * 8, Kind::fixed, "the table of " + who);
        if (faults_ != before) continue;
        const auto table = read_words(bitmap.table_offset, bitmap.table_entries);
        if (!table) return table.error();
        for (const auto word : *table)
            if ((word & offset_mask) != 0) take(word & offset_mask, header_.cluster_bytes(), Kind::fixed, who);
    }
    return ok();
}

Status References::walk() {
    take(0, header_.cluster_bytes(), Kind::fixed, "the header");
    auto done = walk_l1(header_.l1_offset, header_.l1_entries, true, "the L1 table");
    if (!done) return done;
    const auto snapshots = read_snapshots(file_, header_, file_bytes_);
    if (!snapshots) {
        if (snapshots.error().code != Code::corrupt) return snapshots.error();
        fault(snapshots.error().message);
    } else {
        take(header_.snapshots_offset, snapshots->bytes, Kind::fixed, "the snapshot table");
        for (const auto& entry : snapshots->entries) {
            done = walk_l1(entry.l1_offset, entry.l1_entries, false, "the L1 table of snapshot " + entry.what.id);
            if (!done) return done;
        }
    }
    const auto crypto = crypto_of(header_, file_bytes_, file_.name());
    if (!crypto)
        fault(crypto.error().message);
    else if (*crypto)
        take((*crypto)->offset, (*crypto)->bytes, Kind::fixed, "the LUKS header");
    return walk_bitmaps();
}

Status References::walk_refcounts(std::vector<std::uint64_t>& table) {
    take(header_.refcount_table_offset, header_.refcount_table_bytes(), Kind::fixed, "the refcount table");
    auto words = read_words(header_.refcount_table_offset, header_.refcount_table_bytes() / 8);
    if (!words) return words.error();
    table = std::move(*words);
    for (std::size_t i = 0; i < table.size(); i++) {
        if (table[i] == 0) continue;
        const auto before = faults_;
        take(table[i], header_.cluster_bytes(), Kind::fixed, "refcount block " + std::to_string(i));
        if (faults_ != before) table[i] = 0;
    }
    return ok();
}

Status References::visit_active(const Visit& visit) {
    const auto l1 = read_words(header_.l1_offset, header_.l1_entries);
    if (!l1) return l1.error();
    for (std::size_t i = 0; i < l1->size(); i++) {
        const auto table = (*l1)[i] & offset_mask;
        if (table == 0 || table % header_.cluster_bytes() != 0 || table >> header_.cluster_bits >= file_clusters())
            continue;
        auto done = visit(header_.l1_offset + i * 8, (*l1)[i], count(table >> header_.cluster_bits));
        const auto words = read_words(table, header_.cluster_bytes() / 8);
        if (!words) return words.error();
        const std::size_t step = header_.extended_l2() ? 2 : 1;
        for (std::size_t k = 0; done && k < words->size(); k += step) {
            const Entry entry{(*words)[k], 0};
            if (entry.compressed() || entry.offset() == 0 || header_.has_data_file()) continue;
            done = visit(table + k * 8, entry.word, count(entry.offset() >> header_.cluster_bits));
        }
        if (!done) return done;
    }
    return ok();
}

}  // namespace dmu::qcow2
