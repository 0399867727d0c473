// SPDX-License-Identifier: GPL-2.0-or-later
// COWD and seSparse, the sparse extents of VMware's servers, and entries of all kinds.
#include <algorithm>
#include <bit>

#include "formats/core/endian.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint32_t cowd_magic = 0x44574f43;   // "COWD"
constexpr std::uint64_t max_cowd_grain = 1 << 17;  // sectors
constexpr std::uint64_t se_magic = 0xcafebabe, se_volatile_magic = 0xcafecafe, se_version = 0x200000001;
constexpr std::uint64_t se_grain = 8, se_table_sectors = 64;
constexpr std::uint32_t se_directory_mark = 0x10000000;
constexpr std::uint64_t se_max_capacity = std::uint64_t{1} << 37;  // sectors, 64 TiB

struct EsxComplaint {
    const char* kind;
    const std::string& name;
    Error operator()(Code code, const std::string& what) const {
        return {code, std::string(kind) + " extent '" + name + "': " + what};
    }
};

std::string decimal(std::uint64_t value) {
    return std::to_string(value);
}

bool is_in_file(std::uint64_t start, std::uint64_t sectors, std::uint64_t file_bytes) {
    const auto end = file_bytes / sector_size;
    return start <= end && sectors <= end - start;
}

}  // namespace

Result<SparseHeader> decode_cowd(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name) {
    const EsxComplaint wrong{"vmfsSparse", name};
    if (file_bytes < cowd_header_bytes)
        return wrong(Code::invalid, "the file has " + decimal(file_bytes) + " bytes, too few for a header of 2048");
    if (load_le<std::uint32_t>(raw, 0) != cowd_magic)
        return wrong(Code::invalid, "it does not start with \"COWD\": not a vmfsSparse extent");
    if (const auto version = load_le<std::uint32_t>(raw, 4); version != 1)
        return wrong(Code::unsupported, "version " + decimal(version) + " is unknown; 1 is expected");
    SparseHeader header;
    header.kind = SparseKind::cowd;
    header.capacity = load_le<std::uint32_t>(raw, 12);
    header.grain = load_le<std::uint32_t>(raw, 16);
    header.directory = load_le<std::uint32_t>(raw, 20);
    header.table_entries = cowd_table_entries;
    header.free_sector = load_le<std::uint32_t>(raw, cowd_free_at);
    header.unclean = load_le<std::uint32_t>(raw, cowd_unclean_at) != 0;
    const std::uint64_t listed = load_le<std::uint32_t>(raw, 24);
    if (header.capacity == 0) return wrong(Code::corrupt, "its capacity is 0");
    if (!std::has_single_bit(header.grain))
        return wrong(Code::corrupt, "its grain is " + decimal(header.grain) + " sectors; a power of two is valid");
    if (header.grain > max_cowd_grain)
        return wrong(Code::unsupported, "its grain of " + decimal(header.grain) + " sectors is larger than 64 MiB");
    if (listed < header.directory_entries())
        return wrong(Code::corrupt, "its grain directory has " + decimal(listed) + " entries; its capacity needs " +
                                        decimal(header.directory_entries()));
    if (header.directory * sector_size < cowd_header_bytes)
        return wrong(Code::corrupt,
                     "the grain directory at sector " + decimal(header.directory) + " lies over the header");
    const auto sectors = (header.directory_bytes() + sector_size - 1) / sector_size;
    if (!is_in_file(header.directory, sectors, file_bytes))
        return wrong(Code::corrupt, "the grain directory at sector " + decimal(header.directory) +
                                        " ends past the end of the file (" + decimal(file_bytes) + " bytes)");
    return header;
}

std::array<std::byte, cowd_header_bytes> encode_cowd(const SparseHeader& header) {
    std::array<std::byte, cowd_header_bytes> raw{};
    store_le<std::uint32_t>(raw, 0, cowd_magic);
    store_le<std::uint32_t>(raw, 4, 1);
    store_le<std::uint32_t>(raw, 8, 3);
    store_le<std::uint32_t>(raw, 12, static_cast<std::uint32_t>(header.capacity));
    store_le<std::uint32_t>(raw, 16, static_cast<std::uint32_t>(header.grain));
    store_le<std::uint32_t>(raw, 20, static_cast<std::uint32_t>(header.directory));
    store_le<std::uint32_t>(raw, 24, static_cast<std::uint32_t>(header.directory_entries()));
    store_le<std::uint32_t>(raw, cowd_free_at, static_cast<std::uint32_t>(header.free_sector));
    return raw;
}

Result<SparseHeader> decode_se(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name) {
    const EsxComplaint wrong{"seSparse", name};
    if (file_bytes < sector_size)
        return wrong(Code::invalid, "the file has " + decimal(file_bytes) + " bytes, too few for a header of 512");
    const auto at = [&](std::size_t byte) { return load_le<std::uint64_t>(raw, byte); };
    if (at(0) != se_magic) return wrong(Code::invalid, "its magic is not 0xcafebabe: not a seSparse extent");
    if (at(8) != se_version) return wrong(Code::unsupported, "its version is not 2.1");
    SparseHeader header;
    header.kind = SparseKind::se;
    header.capacity = at(16);
    header.grain = at(24);
    header.table_entries = se_table_sectors * sector_size / 8;
    header.volatile_header = at(80);
    header.directory = at(128);
    header.directory_listed = std::min(at(136), max_directory_bytes) * sector_size / 8;
    header.tables = at(144), header.tables_sectors = at(152);
    header.grains = at(192), header.grains_sectors = at(200);
    if (header.grain != se_grain)
        return wrong(Code::unsupported, "its grain is " + decimal(header.grain) + " sectors; 8 is expected");
    if (at(32) != se_table_sectors)
        return wrong(Code::unsupported, "its grain tables have " + decimal(at(32)) + " sectors; 64 are expected");
    if (at(40) != 0) return wrong(Code::unsupported, "it has flags that are unknown: " + decimal(at(40)));
    if (header.capacity == 0 || header.capacity > se_max_capacity)
        return wrong(Code::corrupt, "its capacity is " + decimal(header.capacity) + " sectors; 1 to 64 TiB are valid");
    if (header.directory_listed < header.directory_entries())
        return wrong(Code::corrupt,
                     "its grain directory of " + decimal(at(136)) + " sectors is too small for its capacity");
    const std::pair<const char*, std::size_t> areas[] = {
        {"volatile header", 80}, {"grain directory", 128}, {"grain tables", 144}, {"grains", 192}};
    for (const auto& [what, byte] : areas) {
        if (at(byte) == 0)
            return wrong(Code::corrupt, std::string("the area of the ") + what + " lies over the header");
        // The grains may end past it: they are appended to.
        const bool fits = byte == 192 ? at(byte + 8) <= se_max_capacity && is_in_file(at(byte), 0, file_bytes)
                                      : is_in_file(at(byte), at(byte + 8), file_bytes);
        if (!fits)
            return wrong(Code::corrupt, std::string("the area of the ") + what + " ends past the end of the file");
    }
    return header;
}

Status decode_se_volatile(std::span<const std::byte> raw, const std::string& name) {
    const EsxComplaint wrong{"seSparse", name};
    if (load_le<std::uint64_t>(raw, 0) != se_volatile_magic)
        return wrong(Code::corrupt, "the magic of its volatile header is not 0xcafecafe");
    if (load_le<std::uint64_t>(raw, 24) != 0)
        return wrong(Code::unsupported, "its journal must be replayed first; open and close it with its own software");
    return ok();
}

std::uint64_t decode_directory_entry(const SparseHeader& header, std::uint64_t raw) {
    if (header.kind != SparseKind::se || raw == 0) return raw;
    const auto table_sectors = header.table_bytes() / sector_size;
    const auto index = raw & 0xffffffff;
    if (raw >> 32 != se_directory_mark || index >= header.tables_sectors / table_sectors) return entry_fault | raw;
    return header.tables + index * table_sectors;
}

std::uint64_t decode_entry(const SparseHeader& header, std::uint64_t raw) {
    if (header.kind != SparseKind::se) return raw == 1 && !header.has_zeroed() ? entry_fault | raw : raw;
    const auto low = raw & ((std::uint64_t{1} << 60) - 1);
    switch (raw >> 60) {
        case 0:
            return low == 0 ? entry_none : entry_fault | raw;
        case 1:
        case 2:
            return entry_zero;
        case 3: {
            const auto index = (raw >> 48 & 0xfff) | (raw & ((std::uint64_t{1} << 48) - 1)) << 12;
            if (index >= header.grains_sectors / header.grain) return entry_fault | raw;
            return header.grains + index * header.grain;
        }
        default:
            return entry_fault | raw;
    }
}

}  // namespace dmu::vmdk
