// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel target, in process: the same three paths over a Chain, and a map that
// knows only what it was told. For tests, and for tools that write images offline.
//
//   hit          the map knows: read, or write in place
//   miss         Chain::look_up, into the map; an extent of the map is never replaced
//   first write  Image::reserve, the grains filled from what the map holds, the data,
//                Image::apply, the new extent into the map
//
// flush() is the kernel's FLUSH: data synced, then Image::commit(durable), and as nothing else
// is under way what the changes freed is space again. The first write makes the image
// record that it is written to, and forgets the map. Guest data is encrypted here.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "formats/core/chain.h"

namespace dmu {

class StandIn {
public:
    // The chain outlives it. One thread.
    explicit StandIn(Chain& chain) : chain_(chain) {}

    std::uint64_t size() const { return chain_.top().info().virtual_size; }

    // Any byte range within the disk.
    Status read(GuestOffset start, std::span<std::byte> into);
    // Any byte range within the disk (a part of a sector is read and written back). On an
    // error the content of the range is undefined, that of the rest is not.
    Status write(GuestOffset start, std::span<const std::byte> from);
    Status flush();
    // Whole grains become zeros where the format can, else nothing happens.
    Status discard(GuestRange range);

    // First writes take their places from leases of so many bytes, where they may.
    void lease_ahead(std::uint64_t bytes) { lease_bytes_ = bytes; }
    // What is left of the lease goes back, as when the device goes.
    Status give_back();

    // As the kernel's change log: what was applied and no flush() has committed; and its
    // lease. A successor (a new chain over the same files) takes them over with adopt().
    const std::vector<Change>& log() const { return log_; }
    const std::optional<Place>& lease() const { return lease_; }
    Status adopt(const std::vector<Change>& log, const std::optional<Place>& lease = {});

private:
    Result<Mapping> find(std::uint64_t at, std::uint64_t end);
    Status learn(GuestRange range);
    void insert_unknown(const Mapping& mapping);
    void publish(const Mapping& mapping);
    Status write_sectors(std::uint64_t start, std::span<const std::byte> from);
    // Writes as much as one place takes; how many bytes that was.
    Result<std::uint64_t> first_write(std::uint64_t at, std::span<const std::byte> from, bool leasable);
    Result<Place> find_place(GuestRange range, bool leasable);
    Status fill_place(const Place& place, std::uint64_t at, std::span<const std::byte> from);
    Status fill(const Place& place, std::uint64_t start, std::uint64_t end);
    Status write_zeros(const Place& place, std::uint64_t start, std::uint64_t end);
    Status begin_writing();

    Chain& chain_;
    std::map<std::uint64_t, Mapping> map_;  // by start
    std::vector<Change> log_;
    std::uint64_t lease_bytes_ = 0;  // 0: none are taken
    std::optional<Place> lease_;
};

}  // namespace dmu
