// SPDX-License-Identifier: GPL-2.0-or-later
// The headers of VMDK extents that hold only what was written. All three kinds are
// little-endian and count in sectors; decoded, they are one SparseHeader.
//
// Hosted ("KDMV"): SPARSE extents. One sector:
//   byte  0  u32  magic "KDMV"
//         4  u32  version, 1..3 (2: zeroed grains, 3: changed-block tracking or a stream)
//         8  u32  flags: bit 0 newline check valid, 1 redundant grain directory,
//                 2 zeroed grains, 16 compressed grains, 17 markers
//        12  u64  capacity
//        20  u64  grain, a power of two, more than 8
//        28  u64  descriptor's place, 0: none embedded
//        36  u64  its size
//        44  u32  entries of a grain table, at most 512
//        48  u64  redundant grain directory
//        56  u64  grain directory; all ones: the footer, a header of its own at the
//                 file's end - 1024, has it
//        64  u64  overhead: what metadata takes at the start
//        72  u8   unclean shutdown
//        73       "\n \r\n", the newline check
//        77  u16  compression: 0 none, 1 deflate (in zlib's wrapper)
//
// COWD: VMFSSPARSE extents. Four sectors:
//   byte  0  u32  magic "COWD", 4 u32 version 1, 8 u32 flags 3
//        12  u32  capacity, 16 u32 grain, 20 u32 grain directory, 24 u32 its entries
//        28  u32  first free sector: what is allocated next
//      1648  u32  unclean shutdown
//   Grain tables have 4096 entries.
//
// seSparse: SESPARSE extents.
//   byte  0  u64  magic 0xcafebabe, 8 u64 version 0x200000001, 16 u64 capacity,
//        24 u64 grain (8), 32 u64 sectors of a grain table (64), 40 u64 flags
//        80  then pairs of place and size, u64 each: volatile header, journal header,
//            journal, grain directory, grain tables, free bitmap, back map, grains
//   The volatile header: u64 magic 0xcafecafe, 8 u64, 16 u64, 24 u64 replay the journal.
//
// Grain directory: an entry for each grain table: its sector (u32), 0: none. seSparse:
// u64, 0 or 0x10000000 in the upper half and the table's number in the lower.
// Grain table: an entry for each grain: its sector (u32), 0: ask the parent, 1 (with the
// flag): zeros. seSparse: u64, the top digit 0 none, 1 unmapped, 2 zeros, 3 the grain's
// number, bits 48..59 the low 12 of it, bits 0..47 the rest.
//
// Sources: VMware, "Virtual Disk Format 5.0", and "Virtual Disk Format 1.1" for COWD;
// tried against qemu-img 7.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/core/result.h"
#include "formats/core/units.h"

namespace dmu::vmdk {

enum class SparseKind { hosted, cowd, se };

inline constexpr std::uint32_t flag_newline = 1, flag_redundant = 2, flag_zeroed = 4;
inline constexpr std::uint32_t flag_compressed = 1 << 16, flag_markers = 1 << 17;
inline constexpr std::uint64_t in_footer = ~std::uint64_t{0};
inline constexpr std::uint64_t most_sectors = std::uint64_t{1} << 32;
inline constexpr std::uint64_t max_directory_bytes = 64 << 20;  // ours: what is kept in memory
inline constexpr std::size_t cowd_header_bytes = 2048, cowd_free_at = 28, cowd_unclean_at = 1648;
inline constexpr std::size_t hosted_unclean_at = 72;
inline constexpr std::uint32_t cowd_table_entries = 4096;

struct SparseHeader {
    SparseKind kind = SparseKind::hosted;
    std::uint32_t version = 1, flags = 0;
    std::uint64_t capacity = 0, grain = 128;  // sectors, as all that follows
    std::uint64_t descriptor = 0, descriptor_sectors = 0;
    std::uint32_t table_entries = 512;
    std::uint64_t directory = 0, redundant = 0;  // redundant: 0 where there is none
    std::uint64_t overhead = 0;
    bool unclean = false;
    std::uint64_t free_sector = 0;                            // COWD
    std::uint64_t tables = 0, tables_sectors = 0;             // seSparse
    std::uint64_t grains = 0, grains_sectors = 0;             // seSparse
    std::uint64_t volatile_header = 0, directory_listed = 0;  // seSparse; entries of the directory

    std::uint64_t entry_bytes() const { return kind == SparseKind::se ? 8 : 4; }
    std::uint64_t grain_bytes() const { return grain * sector_size; }
    std::uint64_t table_bytes() const { return table_entries * entry_bytes(); }
    std::uint64_t table_space() const { return align_up(table_bytes(), sector_size); }
    // Bytes of the extent that one grain table is for.
    std::uint64_t table_covers() const { return grain_bytes() * table_entries; }
    std::uint64_t directory_entries() const {
        const auto covers = grain * table_entries;
        return (capacity + covers - 1) / covers;
    }
    std::uint64_t directory_bytes() const { return directory_entries() * entry_bytes(); }
    bool is_compressed() const { return (flags & flag_compressed) != 0; }
    bool has_markers() const { return (flags & flag_markers) != 0; }
    bool has_zeroed() const { return kind == SparseKind::se || (flags & flag_zeroed) != 0; }
    // capacity 0: nothing but a descriptor in the place that header says.
    bool is_wrapper() const { return kind == SparseKind::hosted && capacity == 0; }
    std::uint64_t header_bytes() const { return kind == SparseKind::cowd ? cowd_header_bytes : sector_size; }
};

bool is_hosted(std::span<const std::byte> head);

// raw: one sector, of the file's start or its footer. A header whose directory is
// in_footer is checked as far as it goes. Every rule has its own message.
Result<SparseHeader> decode_hosted(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name);
// raw: cowd_header_bytes.
Result<SparseHeader> decode_cowd(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name);
// raw: one sector.
Result<SparseHeader> decode_se(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name);
// raw: the sector at volatile_header.
Status decode_se_volatile(std::span<const std::byte> raw, const std::string& name);

std::array<std::byte, sector_size> encode_hosted(const SparseHeader& header);
std::array<std::byte, cowd_header_bytes> encode_cowd(const SparseHeader& header);

// Entries of directories and tables, in one form for all kinds: 0 none, 1 zeros, else a
// sector; entry_fault + what lies on disk where that breaks the rules.
inline constexpr std::uint64_t entry_none = 0, entry_zero = 1;
inline constexpr std::uint64_t entry_fault = std::uint64_t{1} << 63;
std::uint64_t decode_directory_entry(const SparseHeader& header, std::uint64_t raw);
std::uint64_t decode_entry(const SparseHeader& header, std::uint64_t raw);

}  // namespace dmu::vmdk
