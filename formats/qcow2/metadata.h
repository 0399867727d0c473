// SPDX-License-Identifier: GPL-2.0-or-later
// Where the metadata of an image lies, by cluster.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "formats/core/ranges.h"

namespace dmu::qcow2 {

// Where metadata lies, as far as it is known without reading L2 tables: what no guest
// data may ever be mapped over. Tables of a cluster are many: sorted numbers.
class Metadata {
public:
    Ranges fixed;  // header, L1 tables, refcount table, snapshots, bitmaps

    // Before sort(): cheap, for opening.
    void expect_tables(std::uint64_t most) { tables_.reserve(most); }
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
    std::uint64_t count() const { return tables_.size() + fixed.total(); }

private:
    std::vector<std::uint64_t> tables_;
};

}  // namespace dmu::qcow2
