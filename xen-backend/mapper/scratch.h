// SPDX-License-Identifier: GPL-2.0-or-later
// Where compressed clusters lie decompressed, and clusters of a backing file of legacy AES
// decrypted, so that the kernel can map them: a file in
// memory of bounded size, a destination of its own, read-only to the kernel; a write is a
// copy from it. The disk's thread only.
//
// The file is cut into slots; a slot is for one window of the disk, aligned to its size,
// and holds what of that window is compressed (or so encrypted). When slots run low, the oldest are evicted:
// the kernel forgets their windows, and a slot is free again once INVALIDATED says that
// nothing reads it any more. What is compressed never changes in the image, so writing a
// window's content once more into its slot is harmless.
#pragma once

#include <dm-userspace.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "formats/core/block_file.h"
#include "formats/core/chain.h"
#include "xen-backend/libdmu/channel.h"
#include "xen-backend/mapper/opening.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

// In Mapping: no layer's, and the last destination that there can be.
inline constexpr unsigned scratch_layer = DMU_DESTINATIONS / files_per_layer - 1;
inline constexpr unsigned scratch_file = files_per_layer - 1;

class Scratch {
public:
    // bytes: the most it takes; rounded so that there are a few slots at least. The file is
    // made when the first compressed cluster is met.
    Scratch(Chain& chain, const DiskFacts& facts, Channel& channel, Outbox& out, std::uint64_t bytes);

    // A successor's, before it answers anything: takes the predecessor's file, if there is
    // one, and has the kernel forget what was mapped there.
    Status take_over();

    struct Ready {
        std::vector<Mapping> mappings;  // none opaque
        std::uint64_t end = 0;          // of range, or less: where there was no slot any more
    };
    // found: what the chain says from range.start on. What the kernel can't read becomes copies from
    // the scratch file. end == range.start: try again after the next is_freed().
    Result<Ready> resolve(const std::vector<Mapping>& found, GuestRange range);

    // INVALIDATED with this id: true if it made room.
    bool is_freed(std::uint64_t id);

private:
    bool is_readable(const Mapping& mapping) const;
    Status make_file();
    void use_file(std::uint64_t bytes);
    // slots_: there is none.
    std::size_t slot_of(std::uint64_t window);
    void evict();
    Status add_window(const Mapping& mapping, std::uint64_t at, std::uint64_t end, std::size_t slot, Ready& ready);

    Chain& chain_;
    const DiskFacts& facts_;
    Channel& channel_;
    Outbox& out_;
    std::uint64_t slot_bytes_;
    std::size_t slots_;
    const std::uint64_t id_base_;  // of this mapper's INVALIDATEs; slots count from it
    std::unique_ptr<BlockFile> file_;
    bool resetting_ = false;  // nothing may be used before the predecessor's windows are forgotten

    std::vector<std::size_t> free_;
    std::deque<std::uint64_t> oldest_;                        // windows with a slot, in order of age
    std::unordered_map<std::uint64_t, std::size_t> windows_;  // -> slot
    std::size_t evicting_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace dmu
