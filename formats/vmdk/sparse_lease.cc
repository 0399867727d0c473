// SPDX-License-Identifier: GPL-2.0-or-later
// Space that is given out before anybody knows what for.
//
// Each leased grain may be the first of its grain table: for each there is a place for a
// table (and its redundant copy), up to the number of tables that are still to come. Of a
// disk that was made with all its tables none is.
#include <algorithm>

#include "formats/vmdk/sparse_extent.h"

namespace dmu::vmdk {

std::uint64_t SparseExtent::spare_chunk() const {
    return tables_space(std::max<std::uint64_t>(grain_bytes() / table_places(), 1));
}

// How many more chunks a lease of so many bytes wants.
std::uint64_t SparseExtent::chunks_missing(std::uint64_t bytes) const {
    const auto most = (leased_.total() + bytes) / grain_bytes();
    std::uint64_t wanted = 0;
    const auto tables = table_index(setup_.bytes - 1) + 1;
    for (std::uint64_t i = 0; i < tables && wanted < most; i++) wanted += needs_table(i) ? 1 : 0;
    const auto in_chunk = spare_chunk() / table_places();
    return wanted > spare_tables_ ? (wanted - spare_tables_ + in_chunk - 1) / in_chunk : 0;
}

Result<Place> SparseExtent::reserve_any(std::uint64_t bytes) {
    if (!setup_.writable) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    auto length = std::max(align_down(bytes, grain_bytes()), grain_bytes());
    while (true) {
        const auto free = first_free(length);
        if (free != 0) length = free;
        const auto chunks = chunks_missing(length);
        const auto enough = make_room(chunks * spare_chunk() + (free == 0 ? length : 0));
        if (enough) {
            for (std::uint64_t i = 0; i < chunks; i++) add_spares(tail_.take(spare_chunk()));
            const auto host = free == 0 ? tail_.take(length) : take_free(length);
            leased_.add(host, length);
            return Place{{}, length, setup_.index, {host}, free == 0 && tail_.reads_as_zero()};
        }
        if (enough.error().code != Code::no_space || length == grain_bytes()) return enough.error();
        length = align_up(length / 2, grain_bytes());
    }
}

void SparseExtent::add_spares(std::uint64_t chunk) {
    spares_[chunk] = chunk;
    spare_tables_ += spare_chunk() / table_places();
}

// Bytes that are free from the first free grain on, at most so many.
std::uint64_t SparseExtent::first_free(std::uint64_t most) const {
    std::uint64_t length = 0;
    for (const auto host : free_) {
        if (length == most || host != *free_.begin() + length) break;
        length += grain_bytes();
    }
    return length;
}

std::uint64_t SparseExtent::take_free(std::uint64_t bytes) {
    const auto start = *free_.begin();
    free_.erase(free_.begin(), free_.lower_bound(start + bytes));
    return start;
}

Status SparseExtent::give_back(const Place& unused) {
    if (unused.length == 0 || unused.length % grain_bytes() != 0 || unused.host.bytes % grain_bytes() != 0)
        return error(Code::invalid, "what is given back is not of whole grains");
    for (std::uint64_t done = 0; done < unused.length; done += grain_bytes()) {
        const auto host = unused.host.bytes + done;
        auto fault = fault_of_data(host, grain_bytes(), tail_.next());
        if (fault.empty() && free_.count(host) != 0) fault = "is free";
        if (!fault.empty())
            return error(Code::invalid, "what is given back, at byte " + std::to_string(host) + ", " + fault);
    }
    leased_.remove(unused.host.bytes, unused.length);
    for (std::uint64_t done = 0; done < unused.length; done += grain_bytes()) free_.insert(unused.host.bytes + done);
    return ok();
}

// A lease was taken for the grain of a byte, whose table then takes a spare place.
void SparseExtent::use_lease(std::uint64_t host, std::uint64_t at) {
    if (!leased_.holds(host, grain_bytes())) return;
    leased_.remove(host, grain_bytes());
    const auto index = table_index(at);
    if (!needs_table(index) || spare_tables_ == 0) return;
    auto chunk = spares_.begin();
    plan_table(index, chunk->second);
    chunk->second += table_places();
    spare_tables_--;
    if (chunk->second + table_places() > chunk->first + spare_chunk()) spares_.erase(chunk);
}

// At a clean end: free grains and spares as far as they end the file.
void SparseExtent::put_back_tail() {
    while (true) {
        const auto end = tail_.next();
        if (!free_.empty() && *free_.rbegin() + grain_bytes() == end) {
            tail_.put_back(*free_.rbegin());
            free_.erase(std::prev(free_.end()));
        } else if (!spares_.empty() && spares_.rbegin()->first + spare_chunk() == end &&
                   spares_.rbegin()->second == spares_.rbegin()->first) {
            tail_.put_back(spares_.rbegin()->first);
            spares_.erase(std::prev(spares_.end()));
            spare_tables_ -= spare_chunk() / table_places();
        } else {
            return;
        }
    }
}

}  // namespace dmu::vmdk
