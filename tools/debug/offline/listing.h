// SPDX-License-Identifier: GPL-2.0-or-later
// A log's records chosen, and in words.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "tools/debug/log.h"

namespace dmu::debug {

struct Filter {
    std::optional<std::pair<std::uint64_t, std::uint64_t>> range;    // sectors, first and count
    std::optional<std::pair<std::uint64_t, std::uint64_t>> numbers;  // first and last
    std::optional<std::pair<std::uint64_t, std::uint64_t>> times;    // ns, from and up to
    std::optional<std::pair<std::uint64_t, std::uint64_t>> sizes;    // sectors, least and most
    std::set<Op> kinds;                                              // empty: all
    std::set<Outcome> outcomes;                                      // empty: all
    std::uint32_t flags = 0;                                         // all of these

    bool takes(const Record& record) const;
};

// "2048+8", "2048-2055", "1M+4k" (bytes where there is a unit), "2048": sectors, first and count.
Result<std::pair<std::uint64_t, std::uint64_t>> parse_sectors_of(const std::string& text);
// "5", "5-9", "5-", "-9"
Result<std::pair<std::uint64_t, std::uint64_t>> parse_span(const std::string& text);
// "1.5s", "20ms", "300us", "7"; a number alone is seconds. ns.
Result<std::uint64_t> parse_moment(const std::string& text);
Result<std::set<Op>> parse_kinds(const std::string& text);          // "write,flush"
Result<std::set<Outcome>> parse_outcomes(const std::string& text);  // "dropped,torn"
Result<std::uint32_t> parse_flags(const std::string& text);         // "fua,meta"

std::string time_text(std::uint64_t ns);
// One line, without its end. hash, explanation: empty if there is none.
std::string record_text(const Record& record, const std::string& hash = "", const std::string& explanation = "");
std::string record_json(const Record& record, const std::string& hash = "", const std::string& explanation = "");
// What the log is: device, when, how much of what.
std::string summary_text(const LogReader& log);

}  // namespace dmu::debug
