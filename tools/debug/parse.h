// SPDX-License-Identifier: GPL-2.0-or-later
// Ranges, spans, times and errors as they are typed, in rules, at the prompt and in the
// options of all commands. What is wrong is Code::invalid, and says what there is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::debug {

// Sectors of 512 bytes.
struct Range {
    std::uint64_t start = 0, length = 0;
    std::uint64_t end() const { return start + length; }
    bool overlaps(const Range& other) const { return start < other.end() && other.start < end(); }
    bool operator==(const Range&) const = default;
};

struct Span {
    std::uint64_t first = 0, last = UINT64_MAX;
    bool has(std::uint64_t value) const { return first <= value && value <= last; }
    bool operator==(const Span&) const = default;
};

// Words, with "quoted text" kept together (and its quotes at its front only).
std::vector<std::string> split_words(const std::string& text);
// "2048+8", "2048-2055", "2048" (one sector); with a unit bytes, whole sectors: "1M+64K", "4096B".
Result<Range> parse_range(const std::string& text);
// "3", "3-5", "3-", "-5".
Result<Span> parse_span(const std::string& text);
// The same, of sectors: "8-64", "4K-".
Result<Span> parse_sizes(const std::string& text);
// "1.5s", "20ms", "300us", "7ns"; a number alone is seconds.
Result<std::chrono::nanoseconds> parse_time(const std::string& text);
// The same, of nanoseconds: "1.5s..2s", "20ms..", "..3".
Result<Span> parse_times(const std::string& text);
// "EIO", "5".
Result<int> parse_errno(const std::string& text);

}  // namespace dmu::debug
