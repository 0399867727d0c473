// SPDX-License-Identifier: GPL-2.0-or-later
// What a disk may hold, sector by sector, while writes are under way, fail, or are lost
// in a crash. Every write stamps its sectors with a number of its own.
#pragma once

#include <set>
#include <vector>

#include "tests/unit/formats/support.h"

namespace dmu {

class SectorModel {
public:
    using Stamp = std::uint64_t;

    // The disk's content at the start: any bytes, taken as a stamp of each sector.
    explicit SectorModel(const Bytes& content) : sectors_(content.size() / sector_size) {
        for (std::size_t i = 0; i < sectors_.size(); i++) sectors_[i] = {stamp_at(content, i)};
    }

    static Bytes data(std::uint64_t sectors, Stamp stamp) {
        Bytes bytes(sectors * sector_size);
        for (std::uint64_t i = 0; i < sectors; i++) store_be<Stamp>(bytes, i * sector_size, stamp);
        return bytes;
    }

    // A write that was begun: from now on old or new, until flushed().
    void begun(std::uint64_t sector, std::uint64_t count, Stamp stamp) {
        for (auto s = sector; s < sector + count; s++) sectors_[s].push_back(stamp);
    }
    // All writes that ended are durable: only the last one's stamp is left.
    void flushed() {
        for (auto& allowed : sectors_) allowed.erase(allowed.begin(), allowed.end() - 1);
    }

    // What is read now (no crash): the last stamp.
    ::testing::AssertionResult is_current(const Bytes& content) const { return matches(content, true); }
    // After a crash: any stamp since the last flush, whole sectors.
    ::testing::AssertionResult is_possible(const Bytes& content) const { return matches(content, false); }

private:
    static Stamp stamp_at(const Bytes& content, std::size_t sector) {
        return load_be<Stamp>(content, sector * sector_size);
    }

    ::testing::AssertionResult matches(const Bytes& content, bool only_last) const {
        for (std::size_t i = 0; i < sectors_.size(); i++) {
            const auto stamp = stamp_at(content, i);
            const auto& allowed = sectors_[i];
            const auto from = only_last ? allowed.end() - 1 : allowed.begin();
            if (std::find(from, allowed.end(), stamp) == allowed.end())
                return ::testing::AssertionFailure()
                       << "sector " << i << " holds " << stamp << ", not " << allowed.back();
        }
        return ::testing::AssertionSuccess();
    }

    std::vector<std::vector<Stamp>> sectors_;
};

}  // namespace dmu
