// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/contents.h"

#include <algorithm>

namespace dmu::debug {

namespace {

std::uint64_t place(const Record& record) {
    return record.order != 0 ? record.order : record.number;
}

}  // namespace

Applied applied(const Record& record) {
    if (record.outcome == Outcome::torn) return {&record, record.torn_first, record.torn_count};
    return {&record, 0, record.sectors};
}

bool overlap(const Applied& a, const Applied& b) {
    const auto a_start = a.record->sector + a.first, b_start = b.record->sector + b.first;
    return a_start < b_start + b.count && b_start < a_start + a.count;
}

// No piece lies across the sector afterwards.
void Contents::cut(std::uint64_t sector) {
    auto after = pieces_.upper_bound(sector);
    if (after == pieces_.begin()) return;
    auto& before = std::prev(after)->second;
    if (before.sector == sector || before.end() <= sector) return;
    Piece rest = before;
    const auto kept = sector - before.sector;
    rest.sector = sector;
    rest.sectors -= kept;
    rest.from += kept * sector_bytes;
    before.sectors = kept;
    pieces_.emplace(sector, rest);
}

void Contents::apply(const Applied& what) {
    if (what.count == 0) return;
    const auto start = what.record->sector + what.first, end = start + what.count;
    cut(start);
    cut(end);
    pieces_.erase(pieces_.lower_bound(start), pieces_.lower_bound(end));
    pieces_.emplace(start, Piece{start, what.count, what.record, what.first * sector_bytes});
}

std::vector<Contents::Piece> Contents::pieces(std::uint64_t sector, std::uint64_t sectors) const {
    const auto end = sectors > UINT64_MAX - sector ? UINT64_MAX : sector + sectors;
    std::vector<Piece> found;
    auto at = pieces_.upper_bound(sector);
    if (at != pieces_.begin() && std::prev(at)->second.end() > sector) --at;
    for (; at != pieces_.end() && at->first < end; ++at) {
        Piece piece = at->second;
        if (piece.sector < sector) {
            const auto skipped = sector - piece.sector;
            piece.sector = sector;
            piece.sectors -= skipped;
            piece.from += skipped * sector_bytes;
        }
        piece.sectors = std::min(piece.sectors, end - piece.sector);
        found.push_back(piece);
    }
    return found;
}

std::vector<Applied> reached_up_to(const LogReader& log, std::uint64_t number) {
    std::vector<Applied> found;
    for (const auto& record : log.records()) {
        if (record.number > number) break;
        if (record.reached()) found.push_back(applied(record));
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const Applied& a, const Applied& b) { return place(*a.record) < place(*b.record); });
    return found;
}

Contents contents_of(const std::vector<Applied>& applied) {
    Contents contents;
    for (const auto& one : applied) contents.apply(one);
    return contents;
}

}  // namespace dmu::debug
