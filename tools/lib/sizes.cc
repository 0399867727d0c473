// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/sizes.h"

#include <cctype>
#include <cmath>
#include <cstdio>

namespace dmu {
namespace {

std::string shortened(std::uint64_t value, unsigned step, const char* units) {
    if (value < step) return std::to_string(value);
    double scaled = static_cast<double>(value);
    const char* unit = units;
    for (scaled /= step; scaled >= step && unit[1]; scaled /= step) ++unit;
    char text[32];
    // 9.96 would print as "10.0".
    const bool fraction = scaled < 99.95 && std::fabs(scaled - std::round(scaled)) >= 0.05;
    std::snprintf(text, sizeof text, fraction ? "%.1f%c" : "%.0f%c", scaled, *unit);
    return text;
}

}  // namespace

Result<std::uint64_t> parse_size(const std::string& text) {
    const Error wrong{Code::invalid, "'" + text + "' is no size; write bytes, or a number with K, M, G or T, as 10G"};
    std::size_t at = 0;
    std::uint64_t whole = 0, fraction = 0, divisor = 1;
    for (; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at) {
        if (whole > (std::uint64_t{1} << 60)) return wrong;
        whole = whole * 10 + static_cast<unsigned>(text[at] - '0');
    }
    if (at == 0) return wrong;
    if (at < text.size() && text[at] == '.') {
        const std::size_t first = ++at;
        for (; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at) {
            if (at - first >= 6) return wrong;
            fraction = fraction * 10 + static_cast<unsigned>(text[at] - '0');
            divisor *= 10;
        }
        if (at == first) return wrong;
    }
    unsigned shift = 0;
    if (at < text.size() && text[at] != 'B') {
        const std::string units = "KMGTP";
        const auto unit = units.find(static_cast<char>(std::toupper(static_cast<unsigned char>(text[at]))));
        if (unit == std::string::npos) return wrong;
        shift = 10 * (static_cast<unsigned>(unit) + 1);
        ++at;
        if (text.compare(at, 2, "iB") == 0) ++at;
    }
    if (at < text.size() && text[at] == 'B') ++at;
    if (at != text.size() || whole >> (63 - shift)) return wrong;
    const std::uint64_t part = fraction << shift;  // < 10^6 * 2^50 fits in 70 bits: checked below
    if (fraction && (part >> shift) != fraction) return wrong;
    if (part % divisor) return wrong;
    return (whole << shift) + part / divisor;
}

std::string short_size(std::uint64_t bytes) {
    return shortened(bytes, 1024, "KMGTPE");
}
std::string short_count(std::uint64_t count) {
    return shortened(count, 1000, "kMGTPE");
}

}  // namespace dmu
