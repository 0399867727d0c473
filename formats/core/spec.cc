// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/spec.h"

#include <algorithm>
#include <string_view>

namespace dmu {

namespace {

Error wrong(const std::string& text, const std::string& why) {
    return {Code::invalid, "disk specification '" + text + "': " + why +
                               "; write FORMAT[;key=value...]:PATH, for instance qcow:/vm/disk.qcow"};
}

bool is_word(std::string_view text) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    };
    return !text.empty() && std::all_of(text.begin(), text.end(), allowed);
}

// "key=value;key=value"
Status parse_options(const std::string& text, std::string_view rest, ImageSpec& spec) {
    while (true) {
        const auto end = rest.find(';');
        const auto option = rest.substr(0, end);
        const auto equals = option.find('=');
        if (equals == std::string_view::npos || !is_word(option.substr(0, equals)))
            return wrong(text, "option '" + std::string(option) + "' is not key=value");
        spec.options.emplace_back(option.substr(0, equals), option.substr(equals + 1));
        if (end == std::string_view::npos) return ok();
        rest.remove_prefix(end + 1);
    }
}

}  // namespace

std::string ImageSpec::text() const {
    std::string text = format;
    for (const auto& [key, value] : options) text += ";" + key + "=" + value;
    return text + ":" + path;
}

Result<ImageSpec> parse_spec(const std::string& text) {
    constexpr std::string_view prefix = "dmu:";
    std::string_view rest = text;
    if (rest.starts_with(prefix)) rest.remove_prefix(prefix.size());

    const auto colon = rest.find(':');
    if (colon == std::string_view::npos) return wrong(text, "it names no format");
    const auto head = rest.substr(0, colon);
    const auto semicolon = head.find(';');

    ImageSpec spec;
    spec.format = head.substr(0, semicolon);
    if (!is_word(spec.format)) return wrong(text, "'" + spec.format + "' is not the name of a format");
    if (semicolon != std::string_view::npos) {
        auto parsed = parse_options(text, head.substr(semicolon + 1), spec);
        if (!parsed) return parsed.error();
    }
    spec.path = rest.substr(colon + 1);
    if (spec.path.empty()) return wrong(text, "the path is empty");
    if (spec.path.find('\0') != std::string::npos) return wrong(text, "the path holds a NUL");
    return spec;
}

}  // namespace dmu
