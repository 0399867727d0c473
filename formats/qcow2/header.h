// SPDX-License-Identifier: GPL-2.0-or-later
// The layout of a qcow2 image, versions 2 and 3. Everything is big-endian.
//
//   byte  0  u32  magic "QFI\xfb"
//         4  u32  version, 2 or 3
//         8  u64  offset of the backing file's name, 0: none
//        16  u32  its length in bytes, at most 1023, within the first cluster
//        20  u32  cluster_bits, 9..21
//        24  u64  virtual size in bytes
//        32  u32  encryption: 0 none, 1 AES, 2 LUKS
//        36  u32  entries of the L1 table, at most 32 MiB of them
//        40  u64  offset of the L1 table
//        48  u64  offset of the refcount table
//        56  u32  its length in clusters, at most 8 MiB
//        60  u32  number of internal snapshots, at most 65536
//        64  u64  offset of the snapshot table
//   version 3:
//        72  u64  incompatible features: 0 dirty, 1 corrupt, 2 external data file,
//                 3 compression type, 4 extended L2 entries
//        80  u64  compatible features: 0 lazy refcounts
//        88  u64  autoclear features: 0 bitmaps are right, 1 data file is raw
//        96  u32  refcount_order, 0..6 (version 2: 4)
//       100  u32  header length, a multiple of 8
//       104  u8   compression: 0 zlib, 1 zstd (if the header is that long)
//
// Then header extensions (u32 type, u32 length, data padded to 8) until type 0, then the
// backing file's name. L1: u64 each, bit 63 "copied" and the offset of an L2 table. The
// entries of L2 tables are in entry.h. Refcount table: u64 each, the offset of a cluster
// of refcounts, 2^refcount_order bits each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::qcow2 {

inline constexpr std::size_t fixed_bytes_v2 = 72, fixed_bytes_v3 = 104, our_header_bytes = 112;
inline constexpr unsigned min_cluster_bits = 9, max_cluster_bits = 21;
inline constexpr std::uint64_t max_l1_bytes = 32 << 20;
inline constexpr std::uint64_t max_refcount_table_bytes = 8 << 20;
inline constexpr std::uint64_t max_bitmap_directory_bytes = 64 << 20;
inline constexpr std::uint32_t max_snapshots = 65536, max_bitmaps = 65535, max_name_bytes = 1023;
inline constexpr std::uint64_t offset_mask = 0x00fffffffffffe00;
inline constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63;

inline constexpr std::uint64_t incompatible_dirty = 1, incompatible_corrupt = 2, incompatible_data_file = 4,
                               incompatible_compression = 8, incompatible_extended_l2 = 16;
inline constexpr std::uint64_t compatible_lazy_refcounts = 1;
inline constexpr std::uint64_t autoclear_bitmaps = 1, autoclear_raw_data_file = 2;

inline constexpr std::uint32_t extension_backing_format = 0xe2792aca, extension_feature_names = 0x6803f857,
                               extension_bitmaps = 0x23852875, extension_crypto = 0x0537be77,
                               extension_data_file = 0x44415441;

enum class Compression : std::uint8_t { zlib = 0, zstd = 1 };
enum class Encryption : std::uint32_t { none = 0, aes = 1, luks = 2 };

struct Extension {
    std::uint32_t type = 0;
    std::vector<std::byte> data;
};

struct Header {
    unsigned version = 3;
    unsigned cluster_bits = 16;
    std::uint64_t size = 0;  // bytes, as written; the disk ends at whole sectors
    Encryption encryption = Encryption::none;
    std::uint32_t l1_entries = 0;
    std::uint64_t l1_offset = 0;
    std::uint64_t refcount_table_offset = 0;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t snapshots = 0;
    std::uint64_t snapshots_offset = 0;
    std::uint64_t incompatible = 0, compatible = 0, autoclear = 0;
    unsigned refcount_order = 4;
    Compression compression = Compression::zlib;
    std::vector<std::byte> beyond;  // header fields past byte 112, kept
    bool short_header = false;      // 104 bytes: has no field of the compression
    std::vector<Extension> extensions;
    std::string backing;  // empty: none

    std::uint64_t cluster_bytes() const { return std::uint64_t{1} << cluster_bits; }
    bool extended_l2() const { return (incompatible & incompatible_extended_l2) != 0; }
    bool has_data_file() const { return (incompatible & incompatible_data_file) != 0; }
    bool raw_data_file() const { return has_data_file() && (autoclear & autoclear_raw_data_file) != 0; }
    unsigned l2_entry_bits() const { return extended_l2() ? 4 : 3; }
    std::uint64_t l2_entries() const { return cluster_bytes() >> l2_entry_bits(); }
    // Bytes of disk that one L2 table, one L1 entry is for.
    unsigned l2_shift() const { return cluster_bits + cluster_bits - l2_entry_bits(); }
    std::uint64_t l1_needed(std::uint64_t bytes) const { return bytes == 0 ? 0 : ((bytes - 1) >> l2_shift()) + 1; }
    std::uint64_t l1_bytes() const { return std::uint64_t{l1_entries} * 8; }
    std::uint64_t refcount_table_bytes() const { return std::uint64_t{refcount_table_clusters} << cluster_bits; }
    unsigned refcount_bits() const { return 1U << refcount_order; }
    // Clusters that one block of refcounts is for.
    std::uint64_t block_clusters() const { return cluster_bytes() * 8 >> refcount_order; }

    const Extension* extension(std::uint32_t type) const;
    // Replaces, adds; without data: removes.
    void set_extension(std::uint32_t type, std::span<const std::byte> data);
    std::string extension_text(std::uint32_t type) const;
};

// Of extension_bitmaps.
struct BitmapsExtension {
    std::uint32_t count = 0;
    std::uint64_t directory_bytes = 0;
    std::uint64_t directory_offset = 0;
};

// The cluster size, from the first fixed_bytes_v2 of the file: what to read for decode_header().
Result<std::uint64_t> first_cluster_bytes(std::span<const std::byte> raw, std::uint64_t file_bytes,
                                          const std::string& name);
// raw: the first cluster of the file, zeros where it is shorter. Every rule has its own
// message; name is the file's.
Result<Header> decode_header(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name);

// All of it with extensions and name; Code::invalid where it does not fit into a cluster.
Result<std::vector<std::byte>> encode_header(const Header& header);

// Empty: there is none. Code::corrupt where it is not as it must be.
Result<std::optional<BitmapsExtension>> bitmaps_of(const Header& header, const std::string& name);
void set_bitmaps(Header& header, const BitmapsExtension& bitmaps);

}  // namespace dmu::qcow2
