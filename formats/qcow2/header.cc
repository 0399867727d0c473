// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/header.h"

#include <algorithm>
#include <limits>

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint32_t magic = 0x514649fb;  // "QFI\xfb"
constexpr std::uint64_t known_incompatible = incompatible_dirty | incompatible_corrupt | incompatible_data_file |
                                             incompatible_compression | incompatible_extended_l2;
constexpr std::size_t compression_at = 104;
constexpr std::size_t feature_name_bytes = 48;

struct Complaint {
    const std::string& name;
    Error operator()(Code code, const std::string& what) const { return {code, "qcow2 image '" + name + "': " + what}; }
};

std::string number(std::uint64_t value) {
    return std::to_string(value);
}

Status check_kind(std::span<const std::byte> raw, std::uint64_t file_bytes, const Complaint& wrong) {
    if (file_bytes < fixed_bytes_v2)
        return wrong(Code::invalid, "the file has " + number(file_bytes) + " bytes, too few for a qcow2 header of 72");
    if (load_be<std::uint32_t>(raw, 0) != magic)
        return wrong(
            Code::invalid,
            "it does not start with \"QFI\\xfb\": not a qcow2 image; is the format in the configuration right?");
    const auto version = load_be<std::uint32_t>(raw, 4);
    if (version == 1) return wrong(Code::invalid, "it is a qcow image (version 1); name the format qcow");
    if (version != 2 && version != 3)
        return wrong(Code::unsupported, "version " + number(version) + " is unknown; 2 and 3 are expected");
    const auto bits = load_be<std::uint32_t>(raw, 20);
    if (bits < min_cluster_bits || bits > max_cluster_bits)
        return wrong(Code::corrupt, "cluster_bits is " + number(bits) + "; 9 to 21 are valid");
    return ok();
}

// The name that the image itself has for an unknown feature.
std::string feature_name(const Header& header, unsigned bit) {
    const auto* names = header.extension(extension_feature_names);
    if (names == nullptr) return "";
    for (std::size_t at = 0; at + feature_name_bytes <= names->data.size(); at += feature_name_bytes) {
        if (std::to_integer<unsigned>(names->data[at]) != 0 || std::to_integer<unsigned>(names->data[at + 1]) != bit)
            continue;
        std::string name;
        for (auto i = at + 2; i < at + feature_name_bytes && names->data[i] != std::byte{0}; i++) {
            const auto c = std::to_integer<char>(names->data[i]);
            name += c >= ' ' && c <= '~' ? c : '?';
        }
        return " ('" + name + "')";
    }
    return "";
}

Status check_features(const Header& header, const Complaint& wrong) {
    for (unsigned bit = 0; bit < 64; bit++)
        if ((header.incompatible & ~known_incompatible) >> bit & 1)
            return wrong(Code::unsupported, "it needs feature " + number(bit) + feature_name(header, bit) +
                                                ", which this release does not know");
    const bool flagged = (header.incompatible & incompatible_compression) != 0;
    if (static_cast<unsigned>(header.compression) > 1)
        return wrong(Code::unsupported, "compression type " + number(static_cast<unsigned>(header.compression)) +
                                            " is unknown; 0 (zlib) and 1 (zstd) are expected");
    if (flagged != (header.compression != Compression::zlib))
        return wrong(Code::corrupt, "compression type and its feature bit contradict each other");
    if (header.refcount_order > 6)
        return wrong(Code::corrupt, "refcount_order is " + number(header.refcount_order) + "; 0 to 6 are valid");
    if (header.extended_l2() && header.cluster_bits < 14)
        return wrong(Code::corrupt, "extended L2 entries with clusters of less than 16 KiB");
    return ok();
}

Status decode_fixed(std::span<const std::byte> raw, Header& header, const Complaint& wrong) {
    header.version = load_be<std::uint32_t>(raw, 4);
    header.cluster_bits = load_be<std::uint32_t>(raw, 20);
    header.size = load_be<std::uint64_t>(raw, 24);
    const auto encryption = load_be<std::uint32_t>(raw, 32);
    if (encryption > 2) return wrong(Code::corrupt, "encryption method " + number(encryption) + " is unknown");
    header.encryption = static_cast<Encryption>(encryption);
    header.l1_entries = load_be<std::uint32_t>(raw, 36);
    header.l1_offset = load_be<std::uint64_t>(raw, 40);
    header.refcount_table_offset = load_be<std::uint64_t>(raw, 48);
    header.refcount_table_clusters = load_be<std::uint32_t>(raw, 56);
    header.snapshots = load_be<std::uint32_t>(raw, 60);
    header.snapshots_offset = load_be<std::uint64_t>(raw, 64);
    if (header.version == 2) return ok();
    header.incompatible = load_be<std::uint64_t>(raw, 72);
    header.compatible = load_be<std::uint64_t>(raw, 80);
    header.autoclear = load_be<std::uint64_t>(raw, 88);
    header.refcount_order = load_be<std::uint32_t>(raw, 96);
    const auto length = load_be<std::uint32_t>(raw, 100);
    if (length < fixed_bytes_v3 || length > raw.size())
        return wrong(Code::corrupt, "the header has " + number(length) + " bytes; 104 to a cluster are valid");
    if (length % 8 != 0)
        return wrong(Code::corrupt, "the header's length of " + number(length) + " is no multiple of 8");
    header.short_header = length == fixed_bytes_v3;
    if (length > compression_at)
        header.compression = static_cast<Compression>(load_be<std::uint8_t>(raw, compression_at));
    if (length > our_header_bytes)
        header.beyond.assign(raw.begin() + our_header_bytes, raw.begin() + static_cast<std::ptrdiff_t>(length));
    return ok();
}

std::size_t header_length(const Header& header) {
    if (header.version == 2) return fixed_bytes_v2;
    return header.short_header ? fixed_bytes_v3 : our_header_bytes + header.beyond.size();
}

Status decode_name(std::span<const std::byte> raw, Header& header, std::uint64_t& name_offset, const Complaint& wrong) {
    name_offset = load_be<std::uint64_t>(raw, 8);
    const auto bytes = load_be<std::uint32_t>(raw, 16);
    if (name_offset == 0) return ok();
    if (bytes > max_name_bytes)
        return wrong(Code::corrupt, "the name of its backing file has " + number(bytes) + " bytes; 1023 are allowed");
    if (bytes == 0) return wrong(Code::corrupt, "the name of its backing file is empty");
    if (name_offset < header_length(header))
        return wrong(Code::corrupt, "the name of its backing file lies over the header");
    if (name_offset > raw.size() || bytes > raw.size() - name_offset)
        return wrong(Code::corrupt, "the name of its backing file lies outside of the first cluster");
    for (std::size_t i = 0; i < bytes; i++) header.backing += std::to_integer<char>(raw[name_offset + i]);
    if (header.backing.find('\0') != std::string::npos)
        return wrong(Code::corrupt, "the name of its backing file holds a NUL");
    return ok();
}

Status decode_extensions(std::span<const std::byte> raw, Header& header, std::uint64_t end, const Complaint& wrong) {
    std::uint64_t at = header_length(header);
    while (at + 8 <= end) {
        Extension extension{load_be<std::uint32_t>(raw, at), {}};
        const std::uint64_t length = load_be<std::uint32_t>(raw, at + 4);
        if (extension.type == 0) return ok();
        at += 8;
        if (length > end - at)
            return wrong(Code::corrupt, "the header extension at byte " + number(at - 8) + " ends past its place");
        extension.data.assign(raw.begin() + static_cast<std::ptrdiff_t>(at),
                              raw.begin() + static_cast<std::ptrdiff_t>(at + length));
        header.extensions.push_back(std::move(extension));
        at += align_up(length, 8);
    }
    return ok();
}

Status check_place(const char* what, std::uint64_t offset, std::uint64_t bytes, const Header& header,
                   std::uint64_t file_bytes, const Complaint& wrong) {
    const std::string who = "the " + std::string(what) + " at byte " + number(offset);
    if (offset % header.cluster_bytes() != 0) return wrong(Code::corrupt, who + " is not aligned to clusters");
    if (offset < header.cluster_bytes()) return wrong(Code::corrupt, who + " lies over the header");
    const auto end = align_up(file_bytes, header.cluster_bytes());
    if (offset >> 56 != 0 || offset > end || bytes > end - offset)
        return wrong(Code::corrupt, who + " with " + number(bytes) + " bytes ends past the end of the file (" +
                                        number(file_bytes) + " bytes)");
    return ok();
}

bool overlap(std::uint64_t a, std::uint64_t a_bytes, std::uint64_t b, std::uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

Status check_tables(const Header& header, std::uint64_t file_bytes, const Complaint& wrong) {
    if (header.size >
        static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) - (1ULL << header.l2_shift()))
        return wrong(Code::corrupt, "the virtual size of " + number(header.size) + " bytes overflows");
    if (header.l1_bytes() > max_l1_bytes)
        return wrong(Code::corrupt, "the L1 table has " + number(header.l1_entries) + " entries; 4194304 are allowed");
    if (header.l1_needed(header.size) > header.l1_entries)
        return wrong(Code::corrupt, "the L1 table has " + number(header.l1_entries) + " entries, too few for " +
                                        number(header.size) + " bytes");
    Status done;
    if (header.l1_entries != 0)
        done = check_place("L1 table", header.l1_offset, header.l1_bytes(), header, file_bytes, wrong);
    if (!done) return done;
    if (header.refcount_table_clusters == 0) return wrong(Code::corrupt, "the refcount table has 0 clusters");
    if (header.refcount_table_clusters > max_refcount_table_bytes >> header.cluster_bits)
        return wrong(Code::corrupt, "the refcount table has " + number(header.refcount_table_clusters) +
                                        " clusters; 8 MiB are allowed");
    done = check_place("refcount table", header.refcount_table_offset, header.refcount_table_bytes(), header,
                       file_bytes, wrong);
    if (done &&
        overlap(header.l1_offset, header.l1_bytes(), header.refcount_table_offset, header.refcount_table_bytes()))
        done = wrong(Code::corrupt, "the refcount table lies over the L1 table");
    if (!done) return done;
    if (header.snapshots == 0) return ok();
    if (header.snapshots > max_snapshots)
        return wrong(Code::corrupt, "it has " + number(header.snapshots) + " snapshots; 65536 are allowed");
    return check_place("snapshot table", header.snapshots_offset, 40, header, file_bytes, wrong);
}

}  // namespace

const Extension* Header::extension(std::uint32_t type) const {
    const auto found =
        std::find_if(extensions.begin(), extensions.end(), [&](const auto& e) { return e.type == type; });
    return found == extensions.end() ? nullptr : &*found;
}

void Header::set_extension(std::uint32_t type, std::span<const std::byte> data) {
    const auto found =
        std::find_if(extensions.begin(), extensions.end(), [&](const auto& e) { return e.type == type; });
    if (data.empty()) {
        if (found != extensions.end()) extensions.erase(found);
    } else if (found != extensions.end()) {
        found->data.assign(data.begin(), data.end());
    } else {
        extensions.push_back({type, {data.begin(), data.end()}});
    }
}

std::string Header::extension_text(std::uint32_t type) const {
    std::string text;
    if (const auto* found = extension(type))
        for (const auto byte : found->data) text += std::to_integer<char>(byte);
    return text;
}

Result<std::uint64_t> first_cluster_bytes(std::span<const std::byte> raw, std::uint64_t file_bytes,
                                          const std::string& name) {
    auto status = check_kind(raw, file_bytes, Complaint{name});
    if (!status) return status.error();
    return std::uint64_t{1} << load_be<std::uint32_t>(raw, 20);
}

Result<Header> decode_header(std::span<const std::byte> raw, std::uint64_t file_bytes, const std::string& name) {
    const Complaint wrong{name};
    auto status = check_kind(raw, file_bytes, wrong);
    Header header;
    std::uint64_t name_offset = 0;
    if (status) status = decode_fixed(raw, header, wrong);
    if (status) status = decode_name(raw, header, name_offset, wrong);
    if (status) status = decode_extensions(raw, header, name_offset != 0 ? name_offset : raw.size(), wrong);
    if (status) status = check_features(header, wrong);
    if (status) status = check_tables(header, file_bytes, wrong);
    if (!status) return status.error();
    return header;
}

Result<std::vector<std::byte>> encode_header(const Header& header) {
    std::vector<std::byte> raw(header_length(header));
    const auto append = [&](std::span<const std::byte> bytes) { raw.insert(raw.end(), bytes.begin(), bytes.end()); };
    for (const auto& extension : header.extensions) {
        const auto at = raw.size();
        raw.resize(at + 8);
        store_be<std::uint32_t>(raw, at, extension.type);
        store_be<std::uint32_t>(raw, at + 4, static_cast<std::uint32_t>(extension.data.size()));
        append(extension.data);
        raw.resize(align_up(raw.size(), 8));
    }
    raw.resize(raw.size() + 8);  // the last extension
    const auto name_offset = raw.size();
    append(std::as_bytes(std::span(header.backing)));
    if (raw.size() > header.cluster_bytes())
        return Error{Code::invalid, "the header with its " + number(raw.size()) + " bytes does not fit into a cluster"};

    store_be<std::uint32_t>(raw, 0, magic);
    store_be<std::uint32_t>(raw, 4, header.version);
    store_be<std::uint64_t>(raw, 8, header.backing.empty() ? 0 : name_offset);
    store_be<std::uint32_t>(raw, 16, static_cast<std::uint32_t>(header.backing.size()));
    store_be<std::uint32_t>(raw, 20, header.cluster_bits);
    store_be<std::uint64_t>(raw, 24, header.size);
    store_be<std::uint32_t>(raw, 32, static_cast<std::uint32_t>(header.encryption));
    store_be<std::uint32_t>(raw, 36, header.l1_entries);
    store_be<std::uint64_t>(raw, 40, header.l1_offset);
    store_be<std::uint64_t>(raw, 48, header.refcount_table_offset);
    store_be<std::uint32_t>(raw, 56, header.refcount_table_clusters);
    store_be<std::uint32_t>(raw, 60, header.snapshots);
    store_be<std::uint64_t>(raw, 64, header.snapshots_offset);
    if (header.version == 2) return raw;
    store_be<std::uint64_t>(raw, 72, header.incompatible);
    store_be<std::uint64_t>(raw, 80, header.compatible);
    store_be<std::uint64_t>(raw, 88, header.autoclear);
    store_be<std::uint32_t>(raw, 96, header.refcount_order);
    store_be<std::uint32_t>(raw, 100, static_cast<std::uint32_t>(header_length(header)));
    if (header.short_header) return raw;
    store_be<std::uint8_t>(raw, compression_at, static_cast<std::uint8_t>(header.compression));
    std::copy(header.beyond.begin(), header.beyond.end(), raw.begin() + our_header_bytes);
    return raw;
}

Result<std::optional<BitmapsExtension>> bitmaps_of(const Header& header, const std::string& name) {
    const Complaint wrong{name};
    const auto* extension = header.extension(extension_bitmaps);
    // Without the autoclear bit somebody wrote who does not know bitmaps: they mean nothing.
    if (extension == nullptr || (header.autoclear & autoclear_bitmaps) == 0) return std::optional<BitmapsExtension>{};
    if (extension->data.size() != 24)
        return wrong(Code::corrupt, "the header extension of bitmaps has " + number(extension->data.size()) +
                                        " bytes; 24 are expected");
    BitmapsExtension bitmaps{load_be<std::uint32_t>(extension->data, 0), load_be<std::uint64_t>(extension->data, 8),
                             load_be<std::uint64_t>(extension->data, 16)};
    if (bitmaps.count == 0 || bitmaps.count > max_bitmaps)
        return wrong(Code::corrupt, "it has " + number(bitmaps.count) + " bitmaps; 1 to 65535 are valid");
    if (bitmaps.directory_offset % header.cluster_bytes() != 0 || bitmaps.directory_offset < header.cluster_bytes() ||
        bitmaps.directory_offset >> 56 != 0)
        return wrong(Code::corrupt, "the directory of bitmaps at byte " + number(bitmaps.directory_offset) +
                                        " is not aligned to clusters, or over the header");
    if (bitmaps.directory_bytes == 0 || bitmaps.directory_bytes > std::uint64_t{bitmaps.count} * 2048 ||
        bitmaps.directory_bytes > max_bitmap_directory_bytes)
        return wrong(Code::corrupt, "the directory of bitmaps has " + number(bitmaps.directory_bytes) + " bytes");
    return std::optional(bitmaps);
}

void set_bitmaps(Header& header, const BitmapsExtension& bitmaps) {
    std::vector<std::byte> raw(24);
    store_be<std::uint32_t>(raw, 0, bitmaps.count);
    store_be<std::uint64_t>(raw, 8, bitmaps.directory_bytes);
    store_be<std::uint64_t>(raw, 16, bitmaps.directory_offset);
    header.set_extension(extension_bitmaps, raw);
}

}  // namespace dmu::qcow2
