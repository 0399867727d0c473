// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/vdev.h"

#include <regex>

namespace dmu {
namespace {

// 0 -> "a", 25 -> "z", 26 -> "aa"
std::string letters(std::uint32_t number) {
    std::string text;
    for (++number; number > 0; number = (number - 1) / 26)
        text.insert(text.begin(), static_cast<char>('a' + (number - 1) % 26));
    return text;
}

std::string name(const char* prefix, std::uint32_t disk, std::uint32_t partition) {
    return prefix + letters(disk) + (partition ? std::to_string(partition) : "");
}

}  // namespace

std::string vdev_name(std::uint32_t number) {
    constexpr std::uint32_t extended = 1u << 28;
    if (number & extended) return name("xvd", (number & (extended - 1)) >> 8, number & 0xff);
    const std::uint32_t minor = number & 0xff;
    switch (number >> 8) {
        case 202:
            return name("xvd", minor >> 4, minor & 15);
        case 8:
            return name("sd", minor >> 4, minor & 15);
        case 3:
            return name("hd", minor >> 6, minor & 63);
        case 22:
            return name("hd", 2 + (minor >> 6), minor & 63);
        default:
            return std::to_string(number);
    }
}

std::optional<BackendPath> parse_backend_path(const std::string& path) {
    static const std::regex form("(?:/local/domain/[0-9]+/)?backend/[a-z0-9]+/([0-9]{1,5})/([0-9]{1,9})");
    std::smatch match;
    if (!std::regex_match(path, match, form)) return std::nullopt;
    return BackendPath{static_cast<unsigned>(std::stoul(match[1])), static_cast<std::uint32_t>(std::stoul(match[2]))};
}

}  // namespace dmu
