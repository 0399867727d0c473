// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers, ranges, times, errors as they are typed.
#include <algorithm>
#include <charconv>
#include <cstring>

#include "tools/debug/rule.h"
#include "tools/lib/sizes.h"

namespace dmu::debug {
namespace {

Error bad(const std::string& text, const std::string& wanted) {
    return {Code::invalid, "'" + text + "' is not " + wanted};
}

bool parse_number(const std::string& text, std::uint64_t& number) {
    const auto end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    return error == std::errc{} && stop == end;
}

}  // namespace

std::vector<std::string> split_words(const std::string& text) {
    std::vector<std::string> words;
    for (std::size_t at = 0; at < text.size();) {
        if (text[at] == ' ' || text[at] == '\t') {
            ++at;
            continue;
        }
        std::string word;
        if (text[at] == '"') {
            word = '"';
            for (++at; at < text.size() && text[at] != '"'; ++at) {
                if (text[at] == '\\' && at + 1 < text.size()) ++at;
                word += text[at];
            }
            if (at < text.size()) ++at;
        } else {
            while (at < text.size() && text[at] != ' ' && text[at] != '\t') word += text[at++];
        }
        words.push_back(std::move(word));
    }
    return words;
}

Result<std::uint64_t> parse_sectors(const std::string& text) {
    std::uint64_t number = 0;
    if (parse_number(text, number) && number <= UINT64_MAX / 512) return number;
    const auto bytes = parse_size(text);
    if (!bytes) return bad(text, "a number of sectors, or of bytes with a unit (4096B, 64K, 1M, 2G)");
    if (*bytes % 512 != 0) return bad(text, "a number of whole sectors (512 bytes)");
    return *bytes / 512;
}

Result<Range> parse_sector_range(const std::string& text) {
    const auto sign = text.find_first_of("+-");
    const auto start = parse_sectors(text.substr(0, sign));
    if (!start) return start.error();
    if (sign == std::string::npos) return Range{*start, 1};
    const auto second = parse_sectors(text.substr(sign + 1));
    if (!second) return second.error();
    const bool length = text[sign] == '+';
    if (length ? *second == 0 || *start + *second < *start : *second < *start)
        return bad(text, "a range (START+LENGTH, or FIRST-LAST)");
    return Range{*start, length ? *second : *second - *start + 1};
}

Result<Span> parse_span(const std::string& text, bool sectors) {
    const auto number = [&](const std::string& word) -> Result<std::uint64_t> {
        if (sectors) return parse_sectors(word);
        std::uint64_t value = 0;
        if (!parse_number(word, value)) return bad(word, "a number");
        return value;
    };
    const auto sign = text.find('-');
    const auto first = number(text.substr(0, sign));
    if (!first) return first.error();
    if (sign == std::string::npos) return Span{*first, *first};
    if (sign + 1 == text.size()) return Span{*first, UINT64_MAX};
    const auto last = number(text.substr(sign + 1));
    if (!last) return last.error();
    if (*last < *first) return bad(text, "FIRST-LAST");
    return Span{*first, *last};
}

Result<std::chrono::nanoseconds> parse_duration(const std::string& text) {
    const auto unit = text.find_first_not_of("0123456789.");
    const std::string number = text.substr(0, unit);
    constexpr struct {
        const char* name;
        double factor;
    } units[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}};
    double value = 0;
    const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (!number.empty() && error == std::errc{} && stop == number.data() + number.size() && unit != std::string::npos)
        for (const auto& known : units)
            if (text.substr(unit) == known.name && value * known.factor < 1e18)
                return std::chrono::nanoseconds(static_cast<std::int64_t>(value * known.factor));
    return bad(text, "a time (200ms, 2s, 50us)");
}

Result<int> parse_errno(const std::string& text) {
    std::uint64_t number = 0;
    constexpr std::uint64_t last_errno = 133;
    if (parse_number(text, number) && number > 0 && number <= last_errno) return static_cast<int>(number);
    for (int error = 1; error <= static_cast<int>(last_errno); ++error)
        if (const char* name = strerrorname_np(error); name && text == name) return error;
    return bad(text, "an error (EIO, ENOSPC, ETIMEDOUT, EREMOTEIO, EILSEQ, ... or its number)");
}

}  // namespace dmu::debug
