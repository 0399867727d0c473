// SPDX-License-Identifier: GPL-2.0-or-later
// Giving out space, and recording what was done with it.
#include <algorithm>

#include "formats/vmdk/sparse_extent.h"

namespace dmu::vmdk {

namespace {

constexpr std::size_t free_grains_looked_at = 1024;

}  // namespace

// A first write there makes one, or its redundant copy, and its place is not known yet.
bool SparseExtent::needs_table(std::uint64_t index) const {
    const bool has_second = !has_redundant() || redundant_[index] != 0 || dirty_.count(index) != 0;
    return (!has_table(index) || !has_second) && planned_.count(index) == 0;
}

std::vector<std::uint64_t> SparseExtent::tables_to_place(std::uint64_t start, std::uint64_t end) const {
    std::vector<std::uint64_t> indices;
    const auto last = table_index(std::min(end, setup_.bytes) - 1);
    for (auto i = table_index(start); i <= last; i++)
        if (needs_table(i)) indices.push_back(i);
    return indices;
}

std::uint64_t SparseExtent::tables_space(std::size_t tables) const {
    return align_up(tables * table_places(), grain_bytes());
}

void SparseExtent::plan_tables(const std::vector<std::uint64_t>& indices) {
    if (indices.empty()) return;
    auto at = tail_.take(tables_space(indices.size()));
    for (const auto index : indices) {
        plan_table(index, at);
        at += table_places();
    }
}

void SparseExtent::plan_table(std::uint64_t index, std::uint64_t at) {
    auto& places = planned_[index];
    places.first = at;
    remember_table(at);
    if (!has_redundant()) return;
    places.second = at + header_.table_space();
    remember_table(places.second);
}

Status SparseExtent::make_room(std::uint64_t bytes) {
    const auto most = most_sectors * sector_size;
    if (bytes > most - std::min(tail_.next(), most))
        return error(Code::no_space, "it has reached the 2 TiB that its pointers reach");
    return tail_.ensure(bytes);
}

// A run of free grains; 0: none.
std::uint64_t SparseExtent::find_free(std::uint64_t bytes) const {
    std::uint64_t start = 0, end = 0;
    std::size_t seen = 0;
    for (const auto host : free_) {
        if (start == 0 || host != end) start = host;
        end = host + grain_bytes();
        if (end - start >= bytes) return start;
        if (++seen == free_grains_looked_at) break;
    }
    return 0;
}

// The tables that the grains will need get their place here too, so that a commit of what
// the guest was allowed to write never fails for want of space.
Result<Place> SparseExtent::reserve(GuestRange range) {
    if (!setup_.writable) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    const auto start = align_down(range.start.bytes, grain_bytes());
    auto length = align_up(range.end(), grain_bytes()) - start;
    while (true) {
        const auto tables = tables_to_place(start, start + length);
        const auto host = tables.empty() ? find_free(length) : 0;
        if (host != 0) {
            for (std::uint64_t done = 0; done < length; done += grain_bytes()) free_.erase(host + done);
            return Place{{start}, length, setup_.index, {host}, false};
        }
        const auto enough = make_room(tables_space(tables.size()) + length);
        if (enough) {
            plan_tables(tables);
            return Place{{start}, length, setup_.index, {tail_.take(length)}, tail_.reads_as_zero()};
        }
        if (enough.error().code != Code::no_space || length == grain_bytes()) return enough.error();
        length = align_up(length / 2, grain_bytes());
    }
}

Status SparseExtent::check_change(const Change& change) const {
    const auto start = change.start.bytes, length = change.length;
    const auto disk_end = align_up(setup_.bytes, grain_bytes());
    if (length == 0 || start % grain_bytes() != 0 || start >= setup_.bytes || length > disk_end - start ||
        ((start + length) % grain_bytes() != 0 && start + length != setup_.bytes))
        return error(Code::invalid, "a change of " + std::to_string(length) + " bytes at the extent's byte " +
                                        std::to_string(start) + " is not of whole grains");
    if (change.kind != ChangeKind::data) return ok();
    if (change.file != setup_.index)
        return error(Code::invalid, "a change names file " + std::to_string(change.file) + ", where it can't lie");
    if (change.host.bytes % sector_size != 0) return error(Code::invalid, "a change names no whole sector");
    for (std::uint64_t done = 0; done < length; done += grain_bytes()) {
        const auto fault = fault_of_data(change.host.bytes + done, grain_bytes(), tail_.next());
        if (!fault.empty())
            return error(Code::invalid,
                         "a change names byte " + std::to_string(change.host.bytes + done) + ", which " + fault);
    }
    return ok();
}

Result<GrainTable*> SparseExtent::load_or_make(std::uint64_t index) {
    auto found = load(index);
    if (!found) return found;
    auto* table = *found;
    if (table == nullptr) {
        GrainTable fresh;
        fresh.entries.resize(header_.table_entries);
        fresh.dirty_sectors.resize(header_.table_space() / sector_size);
        scanned_[index] = true;
        table = &cache_.insert(index, std::move(fresh));
    }
    if (const auto places = planned_.find(index); places != planned_.end()) {
        if (table->offset == 0) table->offset = places->second.first;
        if (table->second_offset == 0) table->second_offset = places->second.second;
    }
    return table;
}

// What a change puts back in use (a successor applies again what is long on disk) is not
// free any more.
void SparseExtent::free_grain(std::uint64_t entry) {
    if (entry == entry_none || entry == entry_zero || (entry & entry_fault) != 0) return;
    const auto host = entry * sector_size;
    // Grains that lie as nobody here would put them are left alone.
    if (host % grain_bytes() == 0) freed_.push_back(host);
}

Status SparseExtent::set_entry(std::uint64_t at, std::uint64_t value) {
    const auto index = table_index(at);
    auto table = load_or_make(index);
    if (!table) return table.error();
    needs_sync_ = true;
    if (value > entry_zero) {
        const auto host = value * sector_size;
        std::erase(freed_, host);
        std::erase(drained_, host);
        free_.erase(host);
    }
    auto& entry = (*table)->entries[entry_index(at)];
    if (entry == value) return ok();
    free_grain(entry);
    entry = value;
    auto& sectors = (*table)->dirty_sectors;
    sectors[entry_index(at) * header_.entry_bytes() / sector_size] = true;
    if ((*table)->copies_differ) sectors.assign(sectors.size(), true);
    (*table)->copies_differ = false;
    cache_.set_pinned(index, true);
    dirty_.insert(index);
    return ok();
}

Status SparseExtent::apply(const Change& change) {
    if (!setup_.writable) return error(Code::denied, "it is open for reading only");
    // What was lost stays where it is: the tail never comes back to it.
    if (change.kind == ChangeKind::lost) {
        leased_.remove(change.host.bytes, align_up(change.length, grain_bytes()));
        return ok();
    }
    auto valid = check_change(change);
    if (!valid) return valid;
    if (change.kind == ChangeKind::zero && !discards_to_zero())
        return error(Code::unsupported, "it can't hold zeroed grains over a parent");
    for (std::uint64_t done = 0; done < change.length; done += grain_bytes()) {
        const auto at = change.start.bytes + done;
        auto value = (change.host.bytes + done) / sector_size;
        if (change.kind == ChangeKind::data) use_lease(change.host.bytes + done, at);
        if (change.kind == ChangeKind::zero) {
            value = setup_.has_parent ? entry_zero : entry_none;
            if (value == entry_none) {
                // Nothing there is zeros already, and needs no table.
                const auto table = load(table_index(at));
                if (!table) return table.error();
                if (*table == nullptr) continue;
            }
        }
        auto set = set_entry(at, value);
        if (!set) return set;
    }
    return ok();
}

void SparseExtent::recycle() {
    free_.insert(drained_.begin(), drained_.end());
    drained_.clear();
}

}  // namespace dmu::vmdk
