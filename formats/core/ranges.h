// SPDX-License-Identifier: GPL-2.0-or-later
// A set of numbers (bytes, clusters), kept as ranges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace dmu {

class Ranges {
public:
    // May overlap what is in it.
    void add(std::uint64_t first, std::uint64_t count) {
        if (count == 0) return;
        auto end = first + count;
        auto it = ranges_.upper_bound(first);
        if (it != ranges_.begin() && std::prev(it)->second >= first) {
            --it;
            first = it->first;
        }
        while (it != ranges_.end() && it->first <= end) {
            end = std::max(end, it->second);
            it = drop(it);
        }
        put(first, end);
    }
    void remove(std::uint64_t first, std::uint64_t count) {
        const auto end = first + count;
        auto it = ranges_.upper_bound(first);
        if (it != ranges_.begin() && std::prev(it)->second > first) --it;
        while (it != ranges_.end() && it->first < end) {
            const auto old = *it;
            it = drop(it);
            if (old.first < first) put(old.first, first);
            if (old.second > end) put(end, old.second);
        }
    }
    bool touches(std::uint64_t first, std::uint64_t count) const {
        const auto it = ranges_.lower_bound(first + count);
        return it != ranges_.begin() && std::prev(it)->second > first;
    }
    // All of it.
    bool holds(std::uint64_t first, std::uint64_t count) const {
        const auto it = ranges_.upper_bound(first);
        return it != ranges_.begin() && std::prev(it)->second - first >= count && std::prev(it)->second > first;
    }
    bool empty() const { return ranges_.empty(); }
    // How many numbers.
    std::uint64_t total() const { return total_; }
    void clear() {
        ranges_.clear();
        total_ = 0;
    }
    // first -> end
    const std::map<std::uint64_t, std::uint64_t>& ranges() const { return ranges_; }

private:
    using Map = std::map<std::uint64_t, std::uint64_t>;

    void put(std::uint64_t first, std::uint64_t end) {
        ranges_[first] = end;
        total_ += end - first;
    }
    Map::iterator drop(Map::iterator it) {
        total_ -= it->second - it->first;
        return ranges_.erase(it);
    }

    Map ranges_;
    std::uint64_t total_ = 0;
};

}  // namespace dmu
