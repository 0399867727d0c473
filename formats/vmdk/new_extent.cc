// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/new_extent.h"

#include <algorithm>
#include <vector>

#include "formats/core/endian.h"
#include "formats/vmdk/stream_writer.h"

namespace dmu::vmdk {

namespace {

Status write_directory(BlockFile& file, const SparseHeader& header, std::uint64_t sector, std::uint64_t first_table) {
    const auto step = header.table_space() / sector_size;
    std::vector<std::byte> raw(align_up(header.directory_bytes(), sector_size));
    for (std::uint64_t i = 0; i < header.directory_entries(); i++)
        store_le<std::uint32_t>(raw, i * 4, static_cast<std::uint32_t>(first_table + i * step));
    return file.write(sector * sector_size, raw);
}

Status write_descriptor(BlockFile& file, const SparseHeader& header, const std::string& text) {
    if (header.descriptor == 0) return ok();
    if (text.size() > header.descriptor_sectors * sector_size)
        return Error{Code::invalid,
                     "create vmdk image '" + file.name() + "': the names in its descriptor are too long"};
    auto padded = text;
    padded.resize(header.descriptor_sectors * sector_size);
    return file.write(header.descriptor * sector_size, std::as_bytes(std::span(padded)));
}

SparseHeader new_header(std::uint64_t capacity, std::uint64_t grain, const std::string& descriptor) {
    SparseHeader header;
    header.capacity = capacity;
    header.grain = grain;
    header.flags = flag_newline;
    if (!descriptor.empty()) {
        header.descriptor = 1;
        header.descriptor_sectors = descriptor_sectors;
    }
    return header;
}

std::uint64_t sectors_of_directory(const SparseHeader& header) {
    return (header.directory_bytes() + sector_size - 1) / sector_size;
}

// Directories and tables, twice, behind the descriptor.
void lay_out(SparseHeader& header) {
    const auto copy = sectors_of_directory(header) + header.directory_entries() * header.table_space() / sector_size;
    header.redundant = 1 + header.descriptor_sectors;
    header.directory = header.redundant + copy;
    header.overhead = align_up(header.directory + copy, header.grain);
}

// The header last: before it there is no extent.
Status write_header(BlockFile& file, std::span<const std::byte> raw) {
    auto done = file.sync();
    if (done) done = file.write(0, raw);
    return done ? file.sync() : done;
}

}  // namespace

std::uint64_t hosted_overhead(std::uint64_t capacity, std::uint64_t grain) {
    auto header = new_header(capacity, grain, "");
    lay_out(header);
    return header.overhead * sector_size;
}

Result<bool> is_blank_extent(BlockFile& file, std::uint64_t most) {
    const auto size = file.size();
    if (!size) return size.error();
    if (*size > most) return false;
    std::vector<std::byte> head(sector_size);
    auto done = file.read(0, head);
    if (!done) return done.error();
    return std::all_of(head.begin(), head.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

Status make_hosted(BlockFile& file, std::uint64_t capacity, std::uint64_t grain, bool zeroed,
                   const std::string& descriptor) {
    auto header = new_header(capacity, grain, descriptor);
    header.flags |= flag_redundant;
    if (zeroed) {
        header.flags |= flag_zeroed;
        header.version = 2;
    }
    lay_out(header);
    const auto directory_sectors = sectors_of_directory(header);

    auto done = file.truncate(header.overhead * sector_size);
    if (done) done = write_descriptor(file, header, descriptor);
    if (done) done = write_directory(file, header, header.redundant, header.redundant + directory_sectors);
    if (done) done = write_directory(file, header, header.directory, header.directory + directory_sectors);
    return done ? write_header(file, encode_hosted(header)) : done;
}

Status make_cowd(BlockFile& file, std::uint64_t capacity, std::uint64_t grain) {
    SparseHeader header;
    header.kind = SparseKind::cowd;
    header.capacity = capacity;
    header.grain = grain;
    header.table_entries = cowd_table_entries;
    header.directory = cowd_header_bytes / sector_size;
    header.free_sector = align_up(header.directory + (header.directory_bytes() + sector_size - 1) / sector_size, grain);
    auto done = file.truncate(header.free_sector * sector_size);
    return done ? write_header(file, encode_cowd(header)) : done;
}

Status make_stream(BlockFile& file, std::uint64_t capacity, std::uint64_t grain, const std::string& descriptor) {
    auto header = new_header(capacity, grain, descriptor);
    header.version = 3;
    header.flags |= flag_compressed | flag_markers;
    header.overhead = align_up(1 + header.descriptor_sectors, grain);
    header.directory = in_footer;
    StreamWriter writer(file, header);
    auto done = file.truncate(header.overhead * sector_size);
    if (done) done = write_descriptor(file, header, descriptor);
    if (done) done = writer.finish();
    return done ? write_header(file, encode_hosted(header)) : done;
}

}  // namespace dmu::vmdk
