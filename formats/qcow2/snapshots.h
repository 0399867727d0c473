// SPDX-License-Identifier: GPL-2.0-or-later
// The table of internal snapshots as it is on disk. Each entry, padded to 8 bytes:
//
//   byte  0  u64  offset of its L1 table
//         8  u32  entries of it
//        12  u16  length of the id, 14 u16 length of the name
//        16  u32  seconds since 1970, 20 u32 nanoseconds of them
//        24  u64  the guest's clock in nanoseconds
//        32  u32  length of the VM state (an old way to say it)
//        36  u32  length of the extra data
//        40       extra data: u64 length of the VM state, u64 virtual size, u64 icount, ...
//                 then id, then name
#pragma once

#include "formats/core/image.h"
#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

struct SnapshotEntry {
    Snapshot what;
    std::uint64_t l1_offset = 0;
    std::uint32_t l1_entries = 0;
    std::uint32_t old_vm_state_bytes = 0;
    std::vector<std::byte> extra;  // all of it, kept
    std::uint64_t l1_bytes() const { return std::uint64_t{l1_entries} * 8; }
};

struct SnapshotTable {
    std::vector<SnapshotEntry> entries;
    std::uint64_t bytes = 0;  // on disk
};

// Checked, with a message for each rule.
Result<SnapshotTable> read_snapshots(BlockFile& file, const Header& header, std::uint64_t file_bytes);
std::vector<std::byte> encode_snapshots(const std::vector<SnapshotEntry>& entries);

}  // namespace dmu::qcow2
