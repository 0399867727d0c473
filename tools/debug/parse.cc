// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/parse.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "tools/lib/sizes.h"

namespace dmu::debug {
namespace {

// The largest number of a sector; sums of two do not overflow.
constexpr std::uint64_t last_sector = INT64_MAX / 512;

Error bad(const std::string& text, const std::string& wanted) {
    return {Code::invalid, "'" + text + "' is not " + wanted};
}

std::optional<std::uint64_t> number_of(const std::string& text) {
    std::uint64_t number = 0;
    const auto end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (text.empty() || error != std::errc{} || stop != end) return std::nullopt;
    return number;
}

// A number alone counts sectors; with a unit it counts bytes.
std::optional<std::uint64_t> sectors_of(const std::string& text) {
    auto sectors = number_of(text);
    if (!sectors) {
        const auto bytes = parse_size(text);
        if (!bytes || *bytes % 512 != 0) return std::nullopt;
        sectors = *bytes / 512;
    }
    return *sectors <= last_sector ? sectors : std::nullopt;
}

// Both ends of "FIRST-LAST", or only one of them.
template <typename Value>
Result<Span> span_of(const std::string& text, const std::string& between, Value value, const Error& wrong) {
    const auto sign = text.find(between);
    if (sign == std::string::npos) {
        const auto only = value(text);
        return only ? Result<Span>(Span{*only, *only}) : wrong;
    }
    const std::string from = text.substr(0, sign), to = text.substr(sign + between.size());
    const auto first = from.empty() ? std::optional<std::uint64_t>(0) : value(from);
    const auto last = to.empty() ? std::optional<std::uint64_t>(UINT64_MAX) : value(to);
    if (!first || !last || *last < *first || (from.empty() && to.empty())) return wrong;
    return Span{*first, *last};
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

Result<Range> parse_range(const std::string& text) {
    const auto wrong =
        bad(text, "a range: FIRST+COUNT, FIRST-LAST or FIRST in sectors, or in bytes of whole sectors (1M+4K, 4096B)");
    const auto sign = text.find_first_of("+-");
    const auto first = sectors_of(text.substr(0, sign));
    if (!first) return wrong;
    if (sign == std::string::npos) return Range{*first, 1};
    const auto second = sectors_of(text.substr(sign + 1));
    const bool counts = text[sign] == '+';
    if (!second || (counts ? *second == 0 : *second < *first)) return wrong;
    return Range{*first, counts ? *second : *second - *first + 1};
}

Result<Span> parse_span(const std::string& text) {
    return span_of(text, "-", number_of, bad(text, "a number or a span of them: 5, 5-9, 5- or -9"));
}

Result<Span> parse_sizes(const std::string& text) {
    return span_of(text, "-", sectors_of, bad(text, "a size or a span of them: 8, 8-64, 8- or -64 sectors, or 4K-1M"));
}

Result<std::chrono::nanoseconds> parse_time(const std::string& text) {
    constexpr struct {
        const char* name;
        double factor;
    } units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}};
    constexpr double most = 9e18;
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const std::string unit(stop, text.data() + text.size());
    for (const auto& known : units)
        if (error == std::errc{} && unit == known.name && value >= 0 && value * known.factor < most)
            return std::chrono::nanoseconds(std::llround(value * known.factor));
    return bad(text, "a time: 1.5s, 20ms, 300us or 7ns; a number alone is seconds");
}

Result<Span> parse_times(const std::string& text) {
    const auto wrong = bad(text, "a span of time: FROM..TO, as 1.5s..2s, 20ms.. or ..3");
    if (text.find("..") == std::string::npos) return wrong;
    const auto time = [](const std::string& word) -> std::optional<std::uint64_t> {
        const auto parsed = parse_time(word);
        if (!parsed) return std::nullopt;
        return static_cast<std::uint64_t>(parsed->count());
    };
    return span_of(text, "..", time, wrong);
}

Result<int> parse_errno(const std::string& text) {
    constexpr std::uint64_t last_errno = 133;
    const auto number = number_of(text);
    if (number && *number > 0 && *number <= last_errno) return static_cast<int>(*number);
    for (int error = 1; error <= static_cast<int>(last_errno); ++error)
        if (const char* name = strerrorname_np(error); name && text == name) return error;
    return bad(text, "an error (EIO, ENOSPC, ETIMEDOUT, EREMOTEIO, EILSEQ, ... or its number)");
}

}  // namespace dmu::debug
