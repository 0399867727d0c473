// SPDX-License-Identifier: GPL-2.0-or-later
// Rules: which requests, and what becomes of them. A rule's text is
//
//     ACTION [ARGUMENT] [OPERATION,...] [CONDITION]...
//
// and the first rule that matches decides. Rules are tried in the order in which
// they were made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/core/result.h"
#include "tools/debug/request.h"

namespace dmu::debug {

struct Pattern {
    std::vector<std::byte> bytes;
    std::optional<std::uint64_t> offset;  // in the request; none: anywhere
    bool in(std::span<const std::byte> data) const;
};

struct Rule {
    unsigned number = 0;
    Action action;
    unsigned ops = 0;  // bits of Op
    std::optional<Range> at;
    std::optional<Span> size;  // sectors
    std::optional<Span> numbers;
    std::optional<Span> nth;  // of the matches
    std::uint64_t every = 1;
    unsigned flags = 0;  // all of them
    std::optional<Pattern> pattern;
    bool after_flush = false;                  // nothing was written since the last flush
    std::optional<std::uint64_t> flush_count;  // so many flushes have been seen
    bool enabled = true;
    std::uint64_t matches = 0;
    std::string text;

    bool takes(Op op) const { return ops >> static_cast<unsigned>(op) & 1; }
    bool wants_data() const { return pattern.has_value() || action.wants_data(); }
};

// What a rule may ask of the past.
struct Past {
    std::uint64_t flushes = 0;        // seen so far
    bool written_since_flush = true;  // true before the first flush
};

// All but pattern and count.
bool may_match(const Rule& rule, const Request& request, const Past& past);
// Counts, and so is called once for a request that satisfies everything else.
bool is_due(Rule& rule);

// "stop before write at 2048+8 nth 3". Code::invalid tells what is wrong and what there is.
Result<Rule> parse_rule(const std::string& text);
// Only the action: "fail EIO".
Result<Action> parse_action(const std::string& text);

}  // namespace dmu::debug
