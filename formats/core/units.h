// SPDX-License-Identifier: GPL-2.0-or-later
// Addresses that can't be mixed up. Both count bytes.
#pragma once

#include <compare>
#include <cstdint>

namespace dmu {

inline constexpr std::uint64_t sector_size = 512;

// A place on the virtual disk, as the guest sees it.
struct GuestOffset {
    std::uint64_t bytes = 0;
    auto operator<=>(const GuestOffset&) const = default;
};

// A place in one of the image's files.
struct HostOffset {
    std::uint64_t bytes = 0;
    auto operator<=>(const HostOffset&) const = default;
};

struct GuestRange {
    GuestOffset start;
    std::uint64_t length = 0;  // bytes
    std::uint64_t end() const { return start.bytes + length; }
    auto operator<=>(const GuestRange&) const = default;
};

constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t unit) {
    return value / unit * unit;
}
// Wraps past 2^64: check the bound first.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

}  // namespace dmu
