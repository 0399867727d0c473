// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/copying.h"

#include <algorithm>

namespace dmu::img {

namespace {

constexpr std::uint64_t hole_bytes = 4096;        // shorter runs of zeros are written
constexpr std::uint64_t flush_bytes = 256 << 20;  // written between two flushes: bounds what is kept in memory

// Writes what is not zero of a piece, in runs of whole units.
Status write_sparse(StandIn& target, std::uint64_t at, std::span<const std::byte> piece, std::uint64_t unit) {
    std::size_t start = 0;
    const auto unit_at = [&](std::size_t from) {
        return piece.subspan(from, std::min<std::size_t>(unit, piece.size() - from));
    };
    while (start < piece.size()) {
        if (is_zero(unit_at(start))) {
            start += unit;
            continue;
        }
        auto end = start;
        while (end < piece.size() && !is_zero(unit_at(end))) end += unit;
        const auto run = piece.subspan(start, std::min(end, piece.size()) - start);
        auto done = target.write({at + start}, run);
        if (!done) return done;
        start = end;
    }
    return ok();
}

}  // namespace

bool is_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

Result<std::uint64_t> zeros_ahead(Chain& chain, std::uint64_t at, std::uint64_t limit) {
    const auto size = chain.top().info().virtual_size;
    if (at >= size) return limit;  // past the end of a shorter disk
    const auto found = chain.look_up({{at}, std::min(sector_size, size - at)});
    if (!found) return found.error();
    std::uint64_t zeros = 0;
    for (const auto& mapping : *found) {
        if (mapping.kind != MappingKind::zero) break;
        zeros += mapping.length;
    }
    return std::min(zeros, limit);
}

Status write_zeros(StandIn& target, const ImageInfo& info, GuestRange range) {
    auto at = range.start.bytes;
    const std::vector<std::byte> zeros(std::min(range.length, piece_bytes));
    const auto plain = [&](std::uint64_t end) -> Status {
        while (at < end) {
            const auto bytes = std::min<std::uint64_t>(zeros.size(), end - at);
            auto done = target.write({at}, std::span(zeros).first(bytes));
            if (!done) return done;
            at += bytes;
        }
        return ok();
    };
    if (!info.discards_to_zero) return plain(range.end());
    const auto first = std::min(align_up(at, info.grain), range.end());
    const auto last = range.end() == target.size() ? range.end() : align_down(range.end(), info.grain);
    auto done = plain(first);
    if (done && first < last) {
        done = target.discard({{first}, last - first});
        at = last;
    }
    return done ? plain(range.end()) : done;
}

Status copy_disk(Chain& from, Chain& to, Target target, const Progress& progress) {
    StandIn out(to);
    const auto& info = to.top().info();
    const auto size = from.top().info().virtual_size;
    const auto unit = std::max<std::uint64_t>(hole_bytes, std::min<std::uint64_t>(info.grain, 65536));
    std::vector<std::byte> buffer(std::min(size, piece_bytes));
    std::uint64_t written = 0;
    for (std::uint64_t at = 0; at < size;) {
        const auto zeros = zeros_ahead(from, at, size - at);
        if (!zeros) return zeros.error();
        auto done = ok();
        auto bytes = *zeros;
        if (bytes != 0) {
            if (target == Target::used) done = write_zeros(out, info, {{at}, bytes});
        } else {
            bytes = std::min<std::uint64_t>(align_down(at, piece_bytes) + piece_bytes - at, size - at);
            const auto piece = std::span(buffer).first(bytes);
            done = from.read({at}, piece);
            if (done) done = target == Target::blank ? write_sparse(out, at, piece, unit) : out.write({at}, piece);
            written += bytes;
        }
        if (done && written >= flush_bytes) done = out.flush();
        if (written >= flush_bytes) written = 0;
        if (!done) return done;
        at += bytes;
        progress(at, size);
    }
    return out.flush();
}

Status copy_compressed(Chain& from, Chain& to, const Progress& progress) {
    auto& image = to.top();
    const std::uint64_t grain = image.info().grain;
    const auto size = from.top().info().virtual_size;
    std::vector<std::byte> buffer(std::min(grain, size));
    for (std::uint64_t at = 0; at < size;) {
        const auto zeros = zeros_ahead(from, at, size - at);
        if (!zeros) return zeros.error();
        if (*zeros >= grain) {
            at += align_down(*zeros, grain);
            progress(at, size);
            continue;
        }
        const auto piece = std::span(buffer).first(std::min(grain, size - at));
        auto done = from.read({at}, piece);
        if (done && !is_zero(piece)) done = image.write_compressed({at}, piece);
        if (!done) return done;
        at += piece.size();
        progress(at, size);
    }
    return image.commit(DataState::written);
}

}  // namespace dmu::img
