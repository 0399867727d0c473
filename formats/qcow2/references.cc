// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/references.h"

#include <algorithm>
#include <iterator>
#include <set>

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

void References::visit_used(const std::function<void(std::uint64_t cluster)>& visit) const {
    std::vector<std::uint64_t> numbers;
    for (const auto& [number, page] : pages_) numbers.push_back(number);
    std::sort(numbers.begin(), numbers.end());
    for (const auto number : numbers)
        for (std::uint64_t i = 0; i < page_clusters; i++)
            if (pages_.at(number)->counts[i] != 0) visit(number * page_clusters + i);
}

bool References::take_cluster(std::uint64_t cluster, Kind kind, std::uint32_t users) {
    auto& page = pages_[cluster / page_clusters];
    if (!page) page = std::make_unique<Page>();
    auto& had = page->kinds[cluster % page_clusters];
    const bool fits = had == Kind::none || had == kind;
    had = kind;
    auto& count = page->counts[cluster % page_clusters];
    count += std::min(users, UINT32_MAX - count);
    end_ = std::max(end_, cluster + 1);
    return fits;
}

// What is fixed already is passed over as a whole: it may be large, and named many times.
bool References::take_fixed(std::uint64_t first, std::uint64_t end) {
    bool fits = !fixed_.touches(first, end - first);
    for (auto c = first; c < end;) {
        const auto next = fixed_.ranges().upper_bound(c);
        if (next != fixed_.ranges().begin() && std::prev(next)->second > c) {
            c = std::prev(next)->second;
            continue;
        }
        const auto stop = next == fixed_.ranges().end() ? end : std::min(end, next->first);
        for (; c < stop; c++) fits = take_cluster(c, Kind::fixed, 1) && fits;
    }
    fixed_.add(first, end - first);
    return fits;
}

// More users of every cluster there. Only what may be shared is of one kind twice.
void References::take(std::uint64_t offset, std::uint64_t bytes, Kind kind, const std::string& who,
                      std::uint32_t users) {
    if (bytes == 0) return;
    if (kind != Kind::compressed && offset % header_.cluster_bytes() != 0)
        return fault(place(who, offset) + " is not aligned to clusters");
    const auto limit = file_clusters() << header_.cluster_bits;
    if (offset >= limit || (kind != Kind::compressed && bytes > limit - offset))
        return fault(place(who, offset) + " ends past the end of the file");
    const auto first = offset >> header_.cluster_bits;
    const auto end = std::min((offset + bytes - 1) >> header_.cluster_bits, file_clusters() - 1) + 1;
    bool fits = true;
    if (kind == Kind::fixed)
        fits = take_fixed(first, end);
    else
        for (auto c = first; c < end; c++) fits = take_cluster(c, kind, users) && fits;
    if (!fits) fault(place(who, offset) + " lies over something else");
}

Result<std::vector<std::uint64_t>> References::read_words(std::uint64_t offset, std::uint64_t count) {
    std::vector<std::byte> raw(count * 8);
    auto done = file_.read(offset, raw);
    if (!done) return done.error();
    std::vector<std::uint64_t> words(count);
    for (std::size_t i = 0; i < count; i++) words[i] = load_be<std::uint64_t>(raw, i * 8);
    return words;
}

void References::take_entry(const Entry& entry, const Table& table, std::uint64_t guest) {
    const auto who = "the cluster of guest byte " + std::to_string(guest);
    const auto kind = kind_of(header_, entry);
    if (table.active && guest < header_.size && kind != ClusterKind::unallocated && kind != ClusterKind::zero)
        guest_clusters_++;
    if (entry.compressed()) {
        if (header_.has_data_file()) return fault(who + " is compressed, in an external data file");
        const auto packed = compressed_place(header_, entry.word);
        return take(packed.offset, packed.bytes, Kind::compressed, who, table.users);
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
    if (!header_.has_data_file()) return take(entry.offset(), header_.cluster_bytes(), Kind::data, who, table.users);
    if (entry.offset() != guest) fault(who + " lies elsewhere in the data file than on the disk");
}

Status References::walk_tables() {
    for (const auto& [offset, table] : tables_) {
        const auto words = read_words(offset, header_.cluster_bytes() / 8);
        if (!words) return words.error();
        const std::size_t step = header_.extended_l2() ? 2 : 1;
        for (std::size_t i = 0; i < words->size(); i += step)
            take_entry({(*words)[i], step == 2 ? (*words)[i + 1] : 0}, table,
                       table.guest + ((i / step) << header_.cluster_bits));
    }
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
        const auto name = "L2 table " + std::to_string(i) + " of " + who;
        take(table, header_.cluster_bytes(), Kind::table, name);
        if (faults_ != faults) continue;
        auto& seen = tables_.try_emplace(table, Table{std::uint64_t{i} << header_.l2_shift(), active, 0}).first->second;
        // Only snapshots share tables.
        if (seen.users++ != 0 && active) fault(place(name, table) + " is another one, too");
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
    done = walk_tables();
    if (!done) return done;
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
    std::set<std::uint64_t> seen;
    for (std::size_t i = 0; i < l1->size(); i++) {
        const auto table = (*l1)[i] & offset_mask;
        if (table == 0 || table % header_.cluster_bytes() != 0 || table >> header_.cluster_bits >= file_clusters())
            continue;
        auto done = visit(header_.l1_offset + i * 8, (*l1)[i], count(table >> header_.cluster_bits));
        if (!done) return done;
        if (!seen.insert(table).second) continue;
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
