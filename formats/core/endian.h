// SPDX-License-Identifier: GPL-2.0-or-later
// Integers as they lie on disk. Compilers turn these loops into one load and a swap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dmu {

template <typename T>
constexpr T load_be(std::span<const std::byte> raw, std::size_t at) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); i++) value = static_cast<T>(value << 8 | std::to_integer<T>(raw[at + i]));
    return value;
}

template <>
constexpr std::uint8_t load_be<std::uint8_t>(std::span<const std::byte> raw, std::size_t at) {
    return std::to_integer<std::uint8_t>(raw[at]);
}

template <typename T>
constexpr T load_le(std::span<const std::byte> raw, std::size_t at) {
    std::uint64_t value = 0;
    for (std::size_t i = sizeof(T); i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(raw[at + i]);
    return static_cast<T>(value);
}

template <typename T>
constexpr void store_le(std::span<std::byte> raw, std::size_t at, T value) {
    std::uint64_t rest = value;
    for (std::size_t i = 0; i < sizeof(T); i++, rest >>= 8) raw[at + i] = static_cast<std::byte>(rest & 0xff);
}

template <typename T>
constexpr void store_be(std::span<std::byte> raw, std::size_t at, T value) {
    for (std::size_t i = sizeof(T); i-- > 0; value = static_cast<T>(sizeof(T) > 1 ? value >> 8 : 0))
        raw[at + i] = static_cast<std::byte>(value & 0xff);
}

}  // namespace dmu
