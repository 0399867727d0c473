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
        for (std::size_t i = 0; i < sectors_.size(); i++) sectors_[i] = {{stamp_at(content, i)}};
    }

    static Bytes data(std::uint64_t sectors, Stamp stamp) {
        Bytes bytes(sectors * sector_size);
        for (std::uint64_t i = 0; i < sectors; i++) store_be<Stamp>(bytes, i * sector_size, stamp);
        return bytes;
    }

    // A write that was begun: from now on old or new, until flushed().
    void begun(std::uint64_t sector, std::uint64_t count, Stamp stamp) {
        for (auto s = sector; s < sector + count; s++) sectors_[s].push_back({stamp});
    }
    // The last one that was begun there: it ended with an error, and may have been done or not.
    void failed(std::uint64_t sector, std::uint64_t count) {
        for (auto s = sector; s < sector + count; s++) sectors_[s].back().failed = true;
    }
    // All writes that ended are durable: only the last one's stamp is left, and of those that
    // failed since.
    void flushed() {
        for (auto& allowed : sectors_) {
            auto last = allowed.end() - 1;
            while (last->failed) --last;
            allowed.erase(allowed.begin(), last);
        }
    }

    // What is read now (no crash): the last stamp.
    ::testing::AssertionResult is_current(const Bytes& content) const { return matches(content, true); }
    // After a crash: any stamp since the last flush, whole sectors.
    ::testing::AssertionResult is_possible(const Bytes& content) const { return matches(content, false); }

private:
    struct Write {
        Stamp stamp = 0;
        bool failed = false;
    };

    static Stamp stamp_at(const Bytes& content, std::size_t sector) {
        return load_be<Stamp>(content, sector * sector_size);
    }

    ::testing::AssertionResult matches(const Bytes& content, bool only_last) const {
        for (std::size_t i = 0; i < sectors_.size(); i++) {
            const auto stamp = stamp_at(content, i);
            const auto& allowed = sectors_[i];
            const auto from = only_last ? allowed.end() - 1 : allowed.begin();
            if (std::none_of(from, allowed.end(), [&](const Write& write) { return write.stamp == stamp; }))
                return ::testing::AssertionFailure()
                       << "sector " << i << " holds " << stamp << ", not " << allowed.back().stamp;
        }
        return ::testing::AssertionSuccess();
    }

    // The first did not fail, or is what was there.
    std::vector<std::vector<Write>> sectors_;
};

}  // namespace dmu
