// SPDX-License-Identifier: GPL-2.0-or-later
// The mapping tables of an image that are in memory: the least recently used go first,
// those with changes not yet on disk are pinned and stay, whatever the limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>
#include <utility>

namespace dmu {

// A pointer to a table is good until the next insert(), or as long as the table is pinned.
template <typename Table>
class TableCache {
public:
    // limit: how many tables that are not pinned; at least 1.
    explicit TableCache(std::size_t limit) : limit_(limit < 1 ? 1 : limit) {}

    // nullptr: not in memory.
    Table* find(std::uint64_t key) {
        // Most often it is the one that was asked for last.
        if (!pinned_.empty() && pinned_.front().key == key) return &pinned_.front().table;
        const auto found = index_.find(key);
        if (found == index_.end()) return nullptr;
        auto& list = found->second->pinned ? pinned_ : clean_;
        list.splice(list.begin(), list, found->second);
        return &found->second->table;
    }

    // The key must not be there.
    Table& insert(std::uint64_t key, Table table) {
        if (clean_.size() >= limit_) {
            index_.erase(clean_.back().key);
            clean_.pop_back();
        }
        clean_.push_front({key, false, std::move(table)});
        index_[key] = clean_.begin();
        return clean_.front().table;
    }

    // Gone, pinned or not.
    void erase(std::uint64_t key) {
        const auto found = index_.find(key);
        if (found == index_.end()) return;
        (found->second->pinned ? pinned_ : clean_).erase(found->second);
        index_.erase(found);
    }

    // The key must be there.
    void set_pinned(std::uint64_t key, bool pinned) {
        const auto node = index_.at(key);
        if (node->pinned == pinned) return;
        auto& from = pinned ? clean_ : pinned_;
        auto& to = pinned ? pinned_ : clean_;
        node->pinned = pinned;
        to.splice(to.begin(), from, node);
        while (clean_.size() > limit_) {
            index_.erase(clean_.back().key);
            clean_.pop_back();
        }
    }

    std::size_t size() const { return index_.size(); }

private:
    struct Node {
        std::uint64_t key;
        bool pinned;
        Table table;
    };

    std::size_t limit_;
    std::list<Node> clean_;  // most recently used first
    std::list<Node> pinned_;
    std::unordered_map<std::uint64_t, typename std::list<Node>::iterator> index_;
};

}  // namespace dmu
