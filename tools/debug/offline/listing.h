// SPDX-License-Identifier: GPL-2.0-or-later
// A log's records chosen, and in words.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "tools/debug/log.h"
#include "tools/debug/parse.h"

namespace dmu::debug {

struct Filter {
    std::optional<Range> range;
    Span numbers, times, sizes;  // times: ns; sizes: sectors
    std::set<Op> kinds;          // empty: all
    std::set<Outcome> outcomes;  // empty: all
    std::uint32_t flags = 0;     // all of these

    bool takes(const Record& record) const;
};

Result<std::set<Op>> parse_kinds(const std::string& text);          // "write,flush"
Result<std::set<Outcome>> parse_outcomes(const std::string& text);  // "dropped,torn"
Result<std::uint32_t> parse_flags(const std::string& text);         // "fua,meta"

std::string time_text(std::uint64_t ns);
// One line, without its end. hash, explanation: empty if there is none.
std::string record_text(const Record& record, const std::string& hash = "", const std::string& explanation = "");
std::string record_json(const Record& record, const std::string& hash = "", const std::string& explanation = "");
// What the log is: device, when, how much of what.
std::string summary_text(const LogReader& log);
std::string summary_json(const LogReader& log);

}  // namespace dmu::debug
