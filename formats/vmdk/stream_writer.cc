// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/stream_writer.h"

#include <zlib.h>

#include <algorithm>

#include "formats/core/endian.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint32_t marker_end = 0, marker_table = 1, marker_directory = 2, marker_footer = 3;
constexpr std::size_t grain_marker_bytes = 12;

}  // namespace

StreamWriter::StreamWriter(BlockFile& file, const SparseHeader& header)
    : file_(file), header_(header), next_(header.overhead * sector_size) {
}

Error StreamWriter::error(Code code, const std::string& what) const {
    return {code, "vmdk image '" + file_.name() + "': " + what};
}

Status StreamWriter::write_grain(std::uint64_t at, std::span<const std::byte> from) {
    const auto grain = header_.grain_bytes(), bytes = header_.capacity * sector_size;
    if (at % grain != 0 || at >= bytes || from.size() != std::min(grain, bytes - at))
        return error(Code::invalid, "guest byte " + std::to_string(at) + " with " + std::to_string(from.size()) +
                                        " bytes is no whole grain");
    const auto index = at / header_.table_covers();
    auto& table = tables_.try_emplace(index, header_.table_entries).first->second;
    auto& entry = table[at % header_.table_covers() / grain];
    if (entry != 0)
        return error(Code::invalid, "the grain of guest byte " + std::to_string(at) + " was written before");
    if (next_ / sector_size >= most_sectors) return error(Code::no_space, "it has reached the 2 TiB of its pointers");

    auto length = ::compressBound(static_cast<uLong>(from.size()));
    std::vector<std::byte> raw(grain_marker_bytes + length);
    const int done = ::compress2(reinterpret_cast<Bytef*>(raw.data() + grain_marker_bytes), &length,
                                 reinterpret_cast<const Bytef*>(from.data()), static_cast<uLong>(from.size()),
                                 Z_DEFAULT_COMPRESSION);
    if (done != Z_OK) return error(Code::io, "zlib can't compress: " + std::to_string(done));
    store_le<std::uint64_t>(raw, 0, at / sector_size);
    store_le<std::uint32_t>(raw, 8, static_cast<std::uint32_t>(length));
    raw.resize(grain_marker_bytes + length);
    raw.resize(align_up(raw.size(), sector_size));
    auto written = file_.write(next_, raw);
    if (!written) return written;
    entry = static_cast<std::uint32_t>(next_ / sector_size);
    next_ += raw.size();
    return ok();
}

Status StreamWriter::write_marked(std::uint32_t type, std::span<const std::byte> metadata) {
    std::vector<std::byte> raw(sector_size + align_up(metadata.size(), sector_size));
    store_le<std::uint64_t>(raw, 0, raw.size() / sector_size - 1);
    store_le<std::uint32_t>(raw, 12, type);
    std::copy(metadata.begin(), metadata.end(), raw.begin() + sector_size);
    auto done = file_.write(next_, raw);
    if (done) next_ += raw.size();
    return done;
}

Status StreamWriter::finish() {
    const auto end_of_grains = next_;
    std::vector<std::byte> directory(header_.directory_bytes()), raw(header_.table_bytes());
    Status done = ok();
    for (const auto& [index, table] : tables_) {
        for (std::size_t i = 0; i < table.size(); i++) store_le<std::uint32_t>(raw, i * 4, table[i]);
        store_le<std::uint32_t>(directory, index * 4, static_cast<std::uint32_t>(next_ / sector_size + 1));
        done = write_marked(marker_table, raw);
        if (!done) break;
    }
    auto footer = header_;
    footer.directory = next_ / sector_size + 1;
    if (done) done = write_marked(marker_directory, directory);
    if (done) done = write_marked(marker_footer, encode_hosted(footer));
    if (done) done = write_marked(marker_end, {});
    if (done) done = file_.truncate(next_);
    if (done) done = file_.sync();
    // Grains may still follow: over what was written just now.
    next_ = end_of_grains;
    return done;
}

}  // namespace dmu::vmdk
