// SPDX-License-Identifier: GPL-2.0-or-later
// Grains in zlib's wrapper: with the flag for markers after the extent's sector (u64) and
// the length (u32), else wherever they end by themselves.
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "formats/core/endian.h"
#include "formats/vmdk/sparse_extent.h"

namespace dmu::vmdk {

namespace {

constexpr std::size_t marker_bytes = 12;

// Into exactly what there is room for; how much came out, -1: not deflated, or too much.
std::int64_t inflate_all(std::span<const std::byte> from, std::span<std::byte> into) {
    z_stream stream{};
    if (::inflateInit(&stream) != Z_OK) return -1;
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(into.data());
    stream.avail_out = static_cast<uInt>(into.size());
    const int ended = ::inflate(&stream, Z_FINISH);
    const auto made = static_cast<std::int64_t>(stream.total_out);
    ::inflateEnd(&stream);
    return ended == Z_STREAM_END ? made : -1;
}

}  // namespace

Result<std::vector<std::byte>> SparseExtent::read_packed(std::uint64_t at, std::uint64_t host) {
    const auto who = "the compressed grain at byte " + std::to_string(host);
    const auto most = grain_bytes() + grain_bytes() / 8 + 4096;  // what deflate makes of noise is less
    std::uint64_t start = host, bytes = std::min(most, file_bytes_ - host);
    if (header_.has_markers()) {
        std::array<std::byte, marker_bytes> marker{};
        if (marker_bytes > file_bytes_ - host) return corrupt(who + " ends past the end of the file");
        auto done = file_.read(host, marker);
        if (!done) return done.error();
        const auto sector = load_le<std::uint64_t>(marker, 0);
        bytes = load_le<std::uint32_t>(marker, 8);
        start = host + marker_bytes;
        if (sector != at / sector_size)
            return corrupt(who + " says that it is that of sector " + std::to_string(sector) + ", not " +
                           std::to_string(at / sector_size));
        if (bytes == 0 || bytes > most) return corrupt(who + " has a length of " + std::to_string(bytes));
        if (bytes > file_bytes_ - start) return corrupt(who + " ends past the end of the file");
        if (is_over_fixed(host, start + bytes) || is_over_table(host, start + bytes))
            return corrupt(who + " lies over metadata");
    }
    std::vector<std::byte> packed(bytes);
    auto done = file_.read(start, packed);
    if (!done) return done.error();
    return packed;
}

// at: the grain's start.
Status SparseExtent::inflate_grain(std::uint64_t at) {
    if (inflated_at_ == at) return ok();
    inflated_at_ = ~std::uint64_t{0};
    const auto table = load(table_index(at));
    if (!table) return table.error();
    const auto entry = *table == nullptr ? entry_none : (*table)->entries[entry_index(at)];
    const auto host = entry * sector_size;
    if (entry == entry_none || entry == entry_zero || (entry & entry_fault) != 0 || host >= file_bytes_)
        return error(Code::invalid, "there is no compressed grain at the extent's byte " + std::to_string(at));
    const auto packed = read_packed(at, host);
    if (!packed) return packed.error();
    inflated_.resize(grain_bytes());
    const auto made = inflate_all(*packed, inflated_);
    if (made < 0 || static_cast<std::uint64_t>(made) < grain_end(at) - at)
        return corrupt("the compressed grain at byte " + std::to_string(host) + " does not unpack to a grain");
    inflated_at_ = at;
    return ok();
}

Status SparseExtent::read_compressed(std::uint64_t at, std::span<std::byte> into) {
    while (!into.empty()) {
        const auto start = align_down(at, grain_bytes());
        auto done = inflate_grain(start);
        if (!done) return done;
        const auto bytes = std::min<std::uint64_t>(into.size(), grain_end(at) - at);
        std::memcpy(into.data(), inflated_.data() + (at - start), bytes);
        into = into.subspan(bytes);
        at += bytes;
    }
    return ok();
}

}  // namespace dmu::vmdk
