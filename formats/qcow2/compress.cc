// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/compress.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace dmu::qcow2 {

namespace {

constexpr int window_bits = -12;
constexpr int zstd_window_log = 23;  // what a frame may ask of memory: 8 MiB

const Bytef* bytes_of(std::span<const std::byte> from) {
    return reinterpret_cast<const Bytef*>(from.data());
}

Error broken(const char* what) {
    return {Code::corrupt, std::string("the compressed data ") + what};
}

Status inflate_raw(std::span<const std::byte> from, std::span<std::byte> into) {
    z_stream stream{};
    if (inflateInit2(&stream, window_bits) != Z_OK) return Error{Code::io, "inflate: out of memory"};
    stream.next_in = const_cast<Bytef*>(bytes_of(from));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(into.data());
    stream.avail_out = static_cast<uInt>(into.size());
    const int done = inflate(&stream, Z_FINISH);
    const auto left = stream.avail_out;
    inflateEnd(&stream);
    // Z_BUF_ERROR: the cluster is full, the end mark is not read yet.
    if (done != Z_STREAM_END && done != Z_BUF_ERROR) return broken("is no deflate stream");
    return left == 0 ? ok() : broken("is too short for a cluster");
}

Status unzstd(std::span<const std::byte> from, std::span<std::byte> into) {
    const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
    if (!context) return Error{Code::io, "zstd: out of memory"};
    ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, zstd_window_log);
    ZSTD_inBuffer in{from.data(), from.size(), 0};
    ZSTD_outBuffer out{into.data(), into.size(), 0};
    // There may be several frames.
    std::size_t left = 0;
    while (out.pos < out.size) {
        const auto in_before = in.pos, out_before = out.pos;
        left = ZSTD_decompressStream(context.get(), &out, &in);
        if (ZSTD_isError(left)) return broken("is no zstd stream");
        if (in.pos == in_before && out.pos == out_before) return broken("is too short for a cluster");
    }
    // Of the last frame nothing may be left.
    return left == 0 ? ok() : broken("is too long for a cluster");
}

std::vector<std::byte> deflate_raw(std::span<const std::byte> from, std::size_t limit) {
    std::vector<std::byte> into(limit);
    z_stream stream{};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY) != Z_OK) return {};
    stream.next_in = const_cast<Bytef*>(bytes_of(from));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(into.data());
    stream.avail_out = static_cast<uInt>(into.size());
    const int done = deflate(&stream, Z_FINISH);
    into.resize(into.size() - stream.avail_out);
    deflateEnd(&stream);
    if (done != Z_STREAM_END) return {};
    return into;
}

std::vector<std::byte> zstd(std::span<const std::byte> from, std::size_t limit) {
    std::vector<std::byte> into(limit);
    const auto bytes = ZSTD_compress(into.data(), into.size(), from.data(), from.size(), ZSTD_CLEVEL_DEFAULT);
    if (ZSTD_isError(bytes)) return {};
    into.resize(bytes);
    return into;
}

}  // namespace

Status decompress(Compression how, std::span<const std::byte> from, std::span<std::byte> into) {
    return how == Compression::zstd ? unzstd(from, into) : inflate_raw(from, into);
}

std::vector<std::byte> compress(Compression how, std::span<const std::byte> from, std::size_t limit) {
    return how == Compression::zstd ? zstd(from, limit) : deflate_raw(from, limit);
}

}  // namespace dmu::qcow2
