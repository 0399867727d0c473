// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow/header.h"

#include <algorithm>
#include <limits>

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow {

namespace {

constexpr std::uint32_t magic = 0x514649fb;      // "QFI\xfb"
constexpr std::uint32_t xen_magic = 0x58454efb;  // "XEN\xfb"
constexpr std::uint32_t xen_l1_big_endian = 2;

struct Complaint {
    const std::string& name;
    Error operator()(Code code, const std::string& what) const { return {code, "qcow image '" + name + "': " + what}; }
};

std::string number(std::uint64_t value) {
    return std::to_string(value);
}

Status check_kind(std::span<const std::byte> raw, std::uint64_t file_bytes, const Complaint& wrong) {
    if (file_bytes < header_bytes)
        return wrong(Code::invalid, "the file has " + number(file_bytes) + " bytes, too few for a qcow header of 48");
    if (load_be<std::uint32_t>(raw, 0) != magic)
        return wrong(
            Code::invalid,
            "it does not start with \"QFI\\xfb\": not a qcow image; is the format in the configuration right?");
    const auto version = load_be<std::uint32_t>(raw, 4);
    if (version == 2 || version == 3)
        return wrong(Code::invalid, "it is a qcow2 image (version " + number(version) + "); name the format qcow2");
    if (version != 1) return wrong(Code::unsupported, "version " + number(version) + " is unknown; 1 is expected");
    return ok();
}

Status check_geometry(const Header& header, const Complaint& wrong) {
    if (header.cluster_bits < min_cluster_bits || header.cluster_bits > max_cluster_bits)
        return wrong(Code::corrupt, "cluster_bits is " + number(header.cluster_bits) + "; 9 to 16 are valid");
    if (header.l2_bits < min_l2_bits || header.l2_bits > max_l2_bits)
        return wrong(Code::corrupt, "l2_bits is " + number(header.l2_bits) + "; 6 to 13 are valid");
    if (header.size <= 1) return wrong(Code::corrupt, "the virtual size is " + number(header.size) + " bytes");
    if (header.size < sector_size)
        return wrong(Code::corrupt, "the virtual size of " + number(header.size) + " bytes is less than a sector");
    const auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (header.size > most - (std::uint64_t{1} << header.l2_shift()))
        return wrong(Code::corrupt, "the virtual size of " + number(header.size) + " bytes overflows");
    if (header.l1_entries() > max_l1_bytes / 8)
        return wrong(Code::unsupported, "its L1 table of " + number(header.l1_entries()) + " entries is larger than " +
                                            number(max_l1_bytes >> 20) + " MiB; convert it to larger clusters");
    return ok();
}

Status check_encryption(std::uint32_t method, const Complaint& wrong) {
    if (method <= 1) return ok();
    return wrong(Code::corrupt, "encryption method " + number(method) + " is unknown");
}

Status check_l1(const Header& header, std::uint64_t file_bytes, const Complaint& wrong) {
    if (header.l1_offset < header_bytes)
        return wrong(Code::corrupt, "the L1 table at byte " + number(header.l1_offset) + " lies over the header");
    if (header.l1_offset % 8 != 0)
        return wrong(Code::corrupt, "the L1 table at byte " + number(header.l1_offset) + " is not 8-aligned");
    if (header.l1_offset > file_bytes || header.l1_entries() * 8 > file_bytes - header.l1_offset)
        return wrong(Code::corrupt, "the L1 table at byte " + number(header.l1_offset) + " with " +
                                        number(header.l1_entries()) + " entries ends past the end of the file (" +
                                        number(file_bytes) + " bytes)");
    return ok();
}

Status check_name(const Header& header, std::uint64_t file_bytes, const Complaint& wrong) {
    if (header.name_offset == 0) return ok();
    if (header.name_bytes == 0) return wrong(Code::corrupt, "the name of its backing file is empty");
    if (header.name_bytes > max_name_bytes)
        return wrong(Code::corrupt,
                     "the name of its backing file has " + number(header.name_bytes) + " bytes; 1023 are allowed");
    if (header.name_offset < header_bytes)
        return wrong(Code::corrupt, "the name of its backing file lies over the header");
    if (header.name_offset > file_bytes || header.name_bytes > file_bytes - header.name_offset)
        return wrong(Code::corrupt, "the name of its backing file ends past the end of the file");
    if (header.name_offset < header.l1_end() && header.l1_offset < header.name_offset + header.name_bytes)
        return wrong(Code::corrupt, "the name of its backing file lies over the L1 table");
    return ok();
}

}  // namespace

Result<Header> decode_header(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name) {
    const Complaint wrong{name};
    auto status = check_kind(raw, file_bytes, wrong);
    if (!status) return status.error();

    Header header;
    header.name_offset = load_be<std::uint64_t>(raw, 8);
    header.name_bytes = load_be<std::uint32_t>(raw, 16);
    header.size = load_be<std::uint64_t>(raw, 24);
    header.cluster_bits = load_be<std::uint8_t>(raw, 32);
    header.l2_bits = load_be<std::uint8_t>(raw, 33);
    header.l1_offset = load_be<std::uint64_t>(raw, 40);

    status = check_geometry(header, wrong);
    if (status) status = check_encryption(load_be<std::uint32_t>(raw, 36), wrong);
    // Where the L1 table or the name starts at 48, these bytes are theirs.
    const bool extended = header.l1_offset >= header_bytes + xen_bytes && header.name_offset != header_bytes;
    header.encrypted = load_be<std::uint32_t>(raw, 36) == 1;
    header.xen = extended && load_be<std::uint32_t>(raw, header_bytes) == xen_magic;
    header.l1_little_endian = header.xen && (load_be<std::uint32_t>(raw, header_bytes + 12) & xen_l1_big_endian) == 0;
    if (status) status = check_l1(header, file_bytes, wrong);
    if (status) status = check_name(header, file_bytes, wrong);
    if (!status) return status.error();
    return header;
}

std::array<std::byte, header_bytes> encode_header(const Header& header) {
    std::array<std::byte, header_bytes> raw{};
    store_be<std::uint32_t>(raw, 0, magic);
    store_be<std::uint32_t>(raw, 4, 1);
    store_be<std::uint64_t>(raw, 8, header.name_offset);
    store_be<std::uint32_t>(raw, 16, header.name_bytes);
    store_be<std::uint64_t>(raw, 24, header.size);
    store_be<std::uint8_t>(raw, 32, static_cast<std::uint8_t>(header.cluster_bits));
    store_be<std::uint8_t>(raw, 33, static_cast<std::uint8_t>(header.l2_bits));
    store_be<std::uint32_t>(raw, 36, header.encrypted ? 1 : 0);
    store_be<std::uint64_t>(raw, 40, header.l1_offset);
    return raw;
}

std::uint64_t load_l1(const Header& header, std::span<const std::byte> raw, std::size_t at) {
    const auto entry = load_be<std::uint64_t>(raw, at);
    return header.l1_little_endian ? __builtin_bswap64(entry) : entry;
}

bool recognises(std::span<const std::byte> head) {
    return head.size() >= header_bytes && load_be<std::uint32_t>(head, 0) == magic &&
           load_be<std::uint32_t>(head, 4) == 1;
}

ClusterPlace decode_entry(const Header& header, std::uint64_t entry) {
    if ((entry & compressed_flag) == 0) return {false, entry, header.cluster_bytes()};
    const unsigned offset_bits = 63 - header.cluster_bits;
    return {true, entry & ((std::uint64_t{1} << offset_bits) - 1),
            (entry & ~compressed_flag) >> offset_bits & (header.cluster_bytes() - 1)};
}

}  // namespace dmu::qcow
