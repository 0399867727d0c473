// SPDX-License-Identifier: GPL-2.0-or-later
// The layout of a qcow (version 1) image. Everything is big-endian.
//
//   byte  0  u32  magic "QFI\xfb"
//         4  u32  version, 1
//         8  u64  offset of the backing file's name, 0: none
//        16  u32  its length in bytes, at most 1023, no NUL
//        20  u32  modification time of the backing file (ignored)
//        24  u64  virtual size in bytes
//        32  u8   cluster_bits, 9..16
//        33  u8   l2_bits, 6..13
//        34  u16  padding
//        36  u32  encryption: 0 none, 1 AES
//        40  u64  offset of the L1 table
//        48       here or later: the name, then the L1 table, 8-aligned (not more)
//
// Xen's old blktap has 16 bytes more there, and the L1 table aligned to 4 KiB:
//        48  u32  magic "XEN\xfb"
//        52  u32  checksum of the L1 table (ignored)
//        56  u32  clusters it allocated at once (ignored)
//        60  u32  flags: 1 sparse file, 2 the L1 table is big-endian (else little-endian)
// Such an image is read, not written: its checksum would have to be kept.
//
// Encrypted guest data: AES-128-CBC by the guest's sector. Compressed clusters are not encrypted.
//
// L1: for each 2^(cluster_bits + l2_bits) bytes of disk a u64, 0 or the offset of an L2
// table, cluster-aligned. Its length is not stored; it follows from the size.
// L2: 2^l2_bits u64, each 0 (ask the backing file), or the offset of a cluster,
// cluster-aligned, or with bit 63 set: offset and length in bytes of a deflated cluster.
// Nothing says what is free: new tables and clusters go to the end of the file.
//
// Source: QEMU's block/qcow.c documents itself; tried against qemu-img 7.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/core/result.h"

namespace dmu::qcow {

inline constexpr std::size_t header_bytes = 48;
inline constexpr std::size_t xen_bytes = 16;  // Xen's extension, right after the header
inline constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 63;
inline constexpr unsigned min_cluster_bits = 9, max_cluster_bits = 16;
inline constexpr unsigned min_l2_bits = 6, max_l2_bits = 13;
inline constexpr std::uint32_t max_name_bytes = 1023;
inline constexpr std::uint64_t max_size = std::uint64_t{1} << 62;  // bytes, of what we make
inline constexpr std::uint64_t max_l1_bytes = 64 << 20;            // ours: what a mapper keeps in memory

struct Header {
    std::uint64_t size = 0;  // bytes, as written; the disk ends at whole sectors
    unsigned cluster_bits = 12;
    unsigned l2_bits = 9;
    std::uint64_t l1_offset = 0;
    std::uint64_t name_offset = 0;  // 0: no backing file
    std::uint32_t name_bytes = 0;
    bool encrypted = false;
    bool xen = false;               // has Xen's extension
    bool l1_little_endian = false;  // only with it

    std::uint64_t cluster_bytes() const { return std::uint64_t{1} << cluster_bits; }
    std::uint64_t l2_entries() const { return std::uint64_t{1} << l2_bits; }
    std::uint64_t l2_bytes() const { return l2_entries() * 8; }
    // What a table takes up when it is allocated: whole clusters.
    std::uint64_t l2_space() const { return (l2_bytes() + cluster_bytes() - 1) & ~(cluster_bytes() - 1); }
    // Bytes of disk that one L2 table, one L1 entry is for.
    unsigned l2_shift() const { return cluster_bits + l2_bits; }
    std::uint64_t l1_entries() const { return ((size - 1) >> l2_shift()) + 1; }
    std::uint64_t l1_end() const { return l1_offset + l1_entries() * 8; }
};

// raw: the first header_bytes + xen_bytes of the file, zeros where it is shorter.
// Every rule has its own message; name is the file's.
Result<Header> decode_header(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name);

std::array<std::byte, header_bytes> encode_header(const Header& header);

// An L1 entry as it is in the file.
std::uint64_t load_l1(const Header& header, std::span<const std::byte> raw, std::size_t at);

// Whether a file's first bytes are of such an image.
bool recognises(std::span<const std::byte> head);

// A non-zero L2 entry taken apart.
struct ClusterPlace {
    bool compressed = false;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  // compressed: its length
};
ClusterPlace decode_entry(const Header& header, std::uint64_t entry);

}  // namespace dmu::qcow
