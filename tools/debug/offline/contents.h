// SPDX-License-Identifier: GPL-2.0-or-later
// What is on the device after some of a log's requests: which write holds each sector.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "tools/debug/log.h"

namespace dmu::debug {

// A request, or the part of it that reached the device.
struct Applied {
    const Record* record = nullptr;
    std::uint64_t first = 0, count = 0;  // sectors, from the request's start
};
// Whole, or what was let through of a torn one.
Applied applied(const Record& record);
bool overlap(const Applied& a, const Applied& b);

class Contents {
public:
    // Sectors of the device that one request wrote last.
    struct Piece {
        std::uint64_t sector = 0, sectors = 0;
        const Record* record = nullptr;  // of a discard, a zero: the piece is zeros
        std::uint64_t from = 0;          // bytes into the request

        bool zeros() const { return record->op != Op::write; }
        std::uint64_t end() const { return sector + sectors; }
        // Sectors into the file "data".
        std::uint64_t data_sector() const { return (record->data + from) / sector_bytes; }
    };

    // Over what was applied before.
    void apply(const Applied& what);
    // The pieces that overlap the range, cut to it, ascending; between them the base shows.
    std::vector<Piece> pieces(std::uint64_t sector = 0, std::uint64_t sectors = UINT64_MAX) const;

private:
    void cut(std::uint64_t sector);

    std::map<std::uint64_t, Piece> pieces_;  // by their first sector
};

// What reached the device of the requests up to a number, in that order.
std::vector<Applied> reached_up_to(const LogReader& log, std::uint64_t number);
Contents contents_of(const std::vector<Applied>& applied);

}  // namespace dmu::debug
