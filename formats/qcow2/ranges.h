// SPDX-License-Identifier: GPL-2.0-or-later
// Sets of clusters by number, as ranges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <vector>

namespace dmu::qcow2 {

class ClusterRanges {
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
            it = ranges_.erase(it);
        }
        ranges_[first] = end;
    }
    void remove(std::uint64_t first, std::uint64_t count) {
        const auto end = first + count;
        auto it = ranges_.upper_bound(first);
        if (it != ranges_.begin() && std::prev(it)->second > first) --it;
        while (it != ranges_.end() && it->first < end) {
            const auto old = *it;
            it = ranges_.erase(it);
            if (old.first < first) ranges_[old.first] = first;
            if (old.second > end) ranges_[end] = old.second;
        }
    }
    bool touches(std::uint64_t first, std::uint64_t count) const {
        const auto it = ranges_.lower_bound(first + count);
        return it != ranges_.begin() && std::prev(it)->second > first;
    }
    bool empty() const { return ranges_.empty(); }
    void clear() { ranges_.clear(); }
    // first -> end
    const std::map<std::uint64_t, std::uint64_t>& ranges() const { return ranges_; }

private:
    std::map<std::uint64_t, std::uint64_t> ranges_;
};

// Where metadata lies, as far as it is known without reading L2 tables: what no guest
// data may ever be mapped over. Tables of a cluster are many: sorted numbers.
class Metadata {
public:
    ClusterRanges fixed;  // header, L1 tables, refcount table, snapshots, bitmaps

    // Before sort(): cheap, for opening.
    void add_table_unsorted(std::uint64_t cluster) { tables_.push_back(cluster); }
    void sort() { std::sort(tables_.begin(), tables_.end()); }
    // After sort(): a table that is there twice, or over what is fixed; 0: none.
    std::uint64_t clash() const {
        for (std::size_t i = 0; i < tables_.size(); i++)
            if ((i != 0 && tables_[i] == tables_[i - 1]) || fixed.touches(tables_[i], 1)) return tables_[i];
        return 0;
    }

    void add_table(std::uint64_t cluster) {
        tables_.insert(std::upper_bound(tables_.begin(), tables_.end(), cluster), cluster);
    }
    void remove_table(std::uint64_t cluster) {
        const auto at = std::lower_bound(tables_.begin(), tables_.end(), cluster);
        if (at != tables_.end() && *at == cluster) tables_.erase(at);
    }
    bool holds(std::uint64_t cluster) const {
        return fixed.touches(cluster, 1) || std::binary_search(tables_.begin(), tables_.end(), cluster);
    }
    void clear() {
        fixed.clear();
        tables_.clear();
    }
    std::uint64_t count() const {
        std::uint64_t clusters = tables_.size();
        for (const auto& [first, end] : fixed.ranges()) clusters += end - first;
        return clusters;
    }

private:
    std::vector<std::uint64_t> tables_;
};

}  // namespace dmu::qcow2
