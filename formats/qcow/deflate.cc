// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow/deflate.h"

#include <zlib.h>

namespace dmu::qcow {

namespace {

constexpr int window_bits = -12;  // negative: raw
constexpr int memory_level = 9;

Bytef* raw(std::span<std::byte> bytes) {
    return reinterpret_cast<Bytef*>(bytes.data());
}
// zlib takes what it only reads without const.
Bytef* raw(std::span<const std::byte> bytes) {
    return const_cast<Bytef*>(reinterpret_cast<const Bytef*>(bytes.data()));
}

}  // namespace

bool inflate_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
    z_stream stream{};
    if (inflateInit2(&stream, window_bits) != Z_OK) return false;
    stream.next_in = raw(from);
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = raw(into);
    stream.avail_out = static_cast<uInt>(into.size());
    const int ended = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    // Some writers' streams have no end mark.
    return (ended == Z_STREAM_END || ended == Z_BUF_ERROR) && stream.avail_out == 0;
}

std::vector<std::byte> deflate_cluster(std::span<const std::byte> from) {
    std::vector<std::byte> out(from.size() - 1);
    z_stream stream{};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, memory_level, Z_DEFAULT_STRATEGY) != Z_OK)
        return {};
    stream.next_in = raw(from);
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = raw(std::span(out));
    stream.avail_out = static_cast<uInt>(out.size());
    const int ended = deflate(&stream, Z_FINISH);
    out.resize(ended == Z_STREAM_END ? out.size() - stream.avail_out : 0);
    deflateEnd(&stream);
    return out;
}

}  // namespace dmu::qcow
