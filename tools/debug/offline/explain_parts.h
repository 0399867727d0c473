// SPDX-License-Identifier: GPL-2.0-or-later
// What explains one file system on a device; sectors count from its own start.
#pragma once

#include <algorithm>
#include <map>

#include "tools/debug/explain.h"
#include "tools/debug/offline/image_file.h"

namespace dmu::debug {

class Part {
public:
    virtual ~Part() = default;
    // As Explainer::explain(), inside the part.
    virtual std::vector<Explanation> explain(std::uint64_t sector, std::uint64_t sectors,
                                             std::span<const std::byte> data) = 0;
};

// The file system at a byte of the device; nullptr: none that is known. Never fails: what
// cannot be read is not explained.
std::unique_ptr<Part> open_ext(const std::string& path, std::uint64_t offset, std::uint64_t length);
std::unique_ptr<Part> open_xfs(const ImageFile& file, std::uint64_t offset, std::uint64_t length);

// Disjoint ranges with something about each.
template <typename Value>
class Ranges {
public:
    struct Range {
        std::uint64_t start, end;
        Value value;
    };
    // What is there already stays.
    void add(std::uint64_t start, std::uint64_t count, const Value& value) {
        const auto after = ranges_.lower_bound(start);
        if (count == 0 || (after != ranges_.end() && after->second.start < start + count) ||
            (after != ranges_.begin() && std::prev(after)->second.end > start))
            return;
        ranges_.emplace_hint(after, start, Range{start, start + count, value});
    }
    // nullptr: nothing; end is then where the next one begins.
    const Range* find(std::uint64_t at, std::uint64_t& end) const {
        const auto next = ranges_.upper_bound(at);
        if (next != ranges_.begin() && std::prev(next)->second.end > at) {
            end = std::prev(next)->second.end;
            return &std::prev(next)->second;
        }
        end = next == ranges_.end() ? UINT64_MAX : next->first;
        return nullptr;
    }

private:
    std::map<std::uint64_t, Range> ranges_;
};

}  // namespace dmu::debug
