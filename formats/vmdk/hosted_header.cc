// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/core/endian.h"
#include "formats/vmdk/descriptor.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint32_t magic = 0x564d444b;  // "KDMV"
constexpr std::uint32_t known_flags = flag_newline | flag_redundant | flag_zeroed | flag_compressed | flag_markers;
constexpr std::array<char, 4> newlines{'\n', ' ', '\r', '\n'};
constexpr std::size_t newlines_at = 73, compression_at = 77;
constexpr std::uint32_t max_table_entries = 512;
constexpr std::uint64_t max_grain = 1 << 17;  // sectors; ours: what is kept in memory

struct Complaint {
    const std::string& name;
    Error operator()(Code code, const std::string& what) const { return {code, "vmdk extent '" + name + "': " + what}; }
};

std::string number(std::uint64_t value) {
    return std::to_string(value);
}

Status check_kind(std::span<const std::byte> raw, std::uint64_t file_bytes, const Complaint& wrong) {
    if (file_bytes < sector_size)
        return wrong(Code::invalid, "the file has " + number(file_bytes) + " bytes, too few for a header of 512");
    if (!is_hosted(raw)) return wrong(Code::invalid, "it does not start with \"KDMV\": not a sparse extent");
    const auto version = load_le<std::uint32_t>(raw, 4);
    if (version < 1 || version > 3)
        return wrong(Code::unsupported, "version " + number(version) + " is unknown; 1 to 3 are expected");
    const auto flags = load_le<std::uint32_t>(raw, 8);
    if ((flags & ~known_flags) != 0)
        return wrong(Code::unsupported, "it has flags that are unknown: " + number(flags & ~known_flags));
    if ((flags & flag_newline) != 0 && std::memcmp(raw.data() + newlines_at, newlines.data(), newlines.size()) != 0)
        return wrong(Code::corrupt, "its newlines were converted: it went through a transfer in text mode");
    const auto compression = load_le<std::uint16_t>(raw, compression_at);
    if (compression > 1) return wrong(Code::unsupported, "compression " + number(compression) + " is unknown");
    if ((compression == 1) != ((flags & flag_compressed) != 0))
        return wrong(Code::corrupt, "its flags and its compression contradict each other");
    if ((flags & flag_markers) != 0 && (flags & flag_compressed) == 0)
        return wrong(Code::unsupported, "it has markers, but its grains are not compressed");
    return ok();
}

Status check_geometry(const SparseHeader& header, const Complaint& wrong) {
    if (header.grain <= 8 || !std::has_single_bit(header.grain))
        return wrong(Code::corrupt,
                     "its grain is " + number(header.grain) + " sectors; a power of two above 8 is valid");
    if (header.grain > max_grain)
        return wrong(Code::unsupported, "its grain of " + number(header.grain) + " sectors is larger than 64 MiB");
    if (header.table_entries == 0 || header.table_entries > max_table_entries)
        return wrong(Code::corrupt,
                     "its grain tables have " + number(header.table_entries) + " entries; 1 to 512 are valid");
    if (header.capacity > max_disk_sectors || (header.capacity > most_sectors && !header.is_compressed()))
        return wrong(Code::corrupt, "its capacity of " + number(header.capacity) +
                                        " sectors is more than the 2 TiB that its pointers reach");
    if (header.directory_bytes() > max_directory_bytes)
        return wrong(Code::unsupported,
                     "its grain directory of " + number(header.directory_entries()) + " entries is too large");
    return ok();
}

struct Area {
    const char* what;
    std::uint64_t start, sectors;
};

Status check_areas(const std::vector<Area>& areas, std::uint64_t file_bytes, const Complaint& wrong) {
    for (std::size_t i = 0; i < areas.size(); i++) {
        const auto& area = areas[i];
        const auto where = std::string("the ") + area.what + " at sector " + number(area.start);
        if (area.start == 0) return wrong(Code::corrupt, where + " lies over the header");
        const auto sectors = file_bytes / sector_size;
        if (area.start > sectors || area.sectors > sectors - area.start)
            return wrong(Code::corrupt, where + " with " + number(area.sectors) +
                                            " sectors ends past the end of the file (" + number(file_bytes) +
                                            " bytes)");
        for (std::size_t j = 0; j < i; j++)
            if (area.start < areas[j].start + areas[j].sectors && areas[j].start < area.start + area.sectors)
                return wrong(Code::corrupt, where + " lies over the " + areas[j].what);
    }
    return ok();
}

Status check_places(const SparseHeader& header, std::uint64_t file_bytes, const Complaint& wrong) {
    std::vector<Area> areas;
    if (header.descriptor != 0) {
        if (header.descriptor_sectors == 0 || header.descriptor_sectors > max_descriptor_bytes / sector_size)
            return wrong(Code::corrupt,
                         "its descriptor has " + number(header.descriptor_sectors) + " sectors; 1 to 4096 are valid");
        areas.push_back({"descriptor", header.descriptor, header.descriptor_sectors});
    }
    const auto sectors = (header.directory_bytes() + sector_size - 1) / sector_size;
    if (!header.is_wrapper() && header.directory != in_footer) {
        areas.push_back({"grain directory", header.directory, sectors});
        if (header.redundant != 0) areas.push_back({"redundant grain directory", header.redundant, sectors});
    }
    return check_areas(areas, file_bytes, wrong);
}

}  // namespace

bool is_hosted(std::span<const std::byte> head) {
    return head.size() >= 4 && load_le<std::uint32_t>(head, 0) == magic;
}

Result<SparseHeader> decode_hosted(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name) {
    const Complaint wrong{name};
    auto valid = check_kind(raw, file_bytes, wrong);
    if (!valid) return valid.error();
    SparseHeader header;
    header.version = load_le<std::uint32_t>(raw, 4);
    header.flags = load_le<std::uint32_t>(raw, 8);
    header.capacity = load_le<std::uint64_t>(raw, 12);
    header.grain = load_le<std::uint64_t>(raw, 20);
    header.descriptor = load_le<std::uint64_t>(raw, 28);
    header.descriptor_sectors = load_le<std::uint64_t>(raw, 36);
    header.table_entries = load_le<std::uint32_t>(raw, 44);
    header.directory = load_le<std::uint64_t>(raw, 56);
    if ((header.flags & flag_redundant) != 0) header.redundant = load_le<std::uint64_t>(raw, 48);
    header.overhead = load_le<std::uint64_t>(raw, 64);
    header.unclean = load_le<std::uint8_t>(raw, hosted_unclean_at) != 0;

    if (header.capacity == 0 && header.descriptor == 0)
        return wrong(Code::corrupt, "its capacity is 0 and it holds no descriptor");
    // A wrapper has none of what follows.
    if (!header.is_wrapper()) valid = check_geometry(header, wrong);
    if (header.is_wrapper()) header.grain = 128, header.table_entries = 512;
    if (valid) valid = check_places(header, file_bytes, wrong);
    if (!valid) return valid.error();
    return header;
}

std::array<std::byte, sector_size> encode_hosted(const SparseHeader& header) {
    std::array<std::byte, sector_size> raw{};
    store_le<std::uint32_t>(raw, 0, magic);
    store_le<std::uint32_t>(raw, 4, header.version);
    store_le<std::uint32_t>(raw, 8, header.flags);
    store_le<std::uint64_t>(raw, 12, header.capacity);
    store_le<std::uint64_t>(raw, 20, header.grain);
    store_le<std::uint64_t>(raw, 28, header.descriptor);
    store_le<std::uint64_t>(raw, 36, header.descriptor_sectors);
    store_le<std::uint32_t>(raw, 44, header.table_entries);
    store_le<std::uint64_t>(raw, 48, header.redundant);
    store_le<std::uint64_t>(raw, 56, header.directory);
    store_le<std::uint64_t>(raw, 64, header.overhead);
    raw[hosted_unclean_at] = static_cast<std::byte>(header.unclean);
    std::memcpy(raw.data() + newlines_at, newlines.data(), newlines.size());
    store_le<std::uint16_t>(raw, compression_at, header.is_compressed() ? 1 : 0);
    return raw;
}

}  // namespace dmu::vmdk
