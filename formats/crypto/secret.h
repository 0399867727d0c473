// SPDX-License-Identifier: GPL-2.0-or-later
// Bytes that are overwritten before their memory is given back, and that no message holds.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/core/result.h"

namespace dmu::crypto {

class Secret {
public:
    explicit Secret(std::size_t size = 0) : bytes_(size) {}
    explicit Secret(std::span<const std::byte> from) : bytes_(from.begin(), from.end()) {}
    ~Secret() { wipe(); }
    Secret(Secret&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    Secret& operator=(Secret&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;

    std::size_t size() const { return bytes_.size(); }
    std::span<std::byte> span() { return bytes_; }
    std::span<const std::byte> span() const { return bytes_; }

private:
    void wipe();

    std::vector<std::byte> bytes_;  // never grows: what it left behind would not be wiped
};

// All of a regular file, newlines too, as qemu's secret objects and cryptsetup read it.
// Not empty, at most 8 KiB.
Result<Secret> read_key_file(const std::string& path);

// What is said where OpenSSL does not say why.
inline Error library_failed() {
    return {Code::io, "the cryptography library failed"};
}

// From the system's generator.
Status random_bytes(std::span<std::byte> into);

}  // namespace dmu::crypto
