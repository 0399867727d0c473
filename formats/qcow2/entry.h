// SPDX-License-Identifier: GPL-2.0-or-later
// Entries of L2 tables.
//
//   bit 63     copied: this entry is the only one that points at the cluster
//   bit 62     compressed
//   bits 9-55  offset of the cluster
//   bit 0      reads as zeros (version 3); with an offset: a place kept for the first write
//
// Compressed: the low 62 - (cluster_bits - 8) bits are the offset in bytes, the bits above
// the number of 512-byte sectors it reaches into beyond the first. Extended entries are
// followed by a u64: 32 bits "allocated", above them 32 bits "reads as zeros", a bit for
// each subcluster; bit 0 of the entry is not used.
#pragma once

#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

inline constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 62;
inline constexpr std::uint64_t zero_flag = 1;
inline constexpr std::uint64_t all_zero_bitmap = 0xffffffff00000000;
inline constexpr std::uint64_t all_allocated_bitmap = 0x00000000ffffffff;
inline constexpr unsigned subclusters = 32;

enum class ClusterKind { unallocated, zero, zero_allocated, data, compressed, mixed };

struct Entry {
    std::uint64_t word = 0;
    std::uint64_t bitmap = 0;  // extended only
    bool operator==(const Entry&) const = default;

    bool copied() const { return (word & copied_flag) != 0; }
    bool compressed() const { return (word & compressed_flag) != 0; }
    std::uint64_t offset() const { return word & offset_mask; }
    // In the external data file offset 0 is a place; "copied" says that it is one.
    bool has_place(const Header& header) const { return offset() != 0 || (header.has_data_file() && copied()); }
};

struct CompressedPlace {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

inline CompressedPlace compressed_place(const Header& header, std::uint64_t word) {
    const unsigned shift = 62 - (header.cluster_bits - 8);
    const auto offset = word & ((std::uint64_t{1} << shift) - 1);
    const auto sectors = (word & (compressed_flag - 1)) >> shift;
    return {offset, (sectors + 1) * 512 - (offset & 511)};
}

inline std::uint64_t compressed_word(const Header& header, std::uint64_t offset, std::uint64_t bytes) {
    const unsigned shift = 62 - (header.cluster_bits - 8);
    const auto sectors = ((offset + bytes - 1) >> 9) - (offset >> 9);
    return compressed_flag | sectors << shift | offset;
}

// mixed: extended entries whose subclusters differ.
inline ClusterKind kind_of(const Header& header, const Entry& entry) {
    if (entry.compressed()) return ClusterKind::compressed;
    const bool placed = entry.has_place(header);
    if (header.extended_l2()) {
        if (entry.bitmap == 0 && !placed) return ClusterKind::unallocated;
        if (entry.bitmap == all_allocated_bitmap) return ClusterKind::data;
        if (entry.bitmap == all_zero_bitmap) return placed ? ClusterKind::zero_allocated : ClusterKind::zero;
        return ClusterKind::mixed;
    }
    if ((entry.word & zero_flag) != 0) return placed ? ClusterKind::zero_allocated : ClusterKind::zero;
    return placed ? ClusterKind::data : ClusterKind::unallocated;
}

inline Entry data_entry(const Header& header, std::uint64_t host) {
    return {copied_flag | host, header.extended_l2() ? all_allocated_bitmap : 0};
}

inline Entry zero_entry(const Header& header) {
    if (header.extended_l2()) return {0, all_zero_bitmap};
    return {header.version == 2 ? 0 : zero_flag, 0};
}

}  // namespace dmu::qcow2
