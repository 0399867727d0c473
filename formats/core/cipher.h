// SPDX-License-Identifier: GPL-2.0-or-later
// Encryption of guest data, sector by sector. The formats' own ciphers are in
// formats/crypto; the kernel does the same with dm-crypt, by kernel_name() and key().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "result.h"

namespace dmu {

// What the initialisation vector of a sector is made from.
enum class CipherBy {
    guest_offset,  // legacy AES of qcow and qcow2: dm-crypt above the map
    host_offset,   // LUKS in qcow2: dm-crypt below the map
};

class Cipher {
public:
    virtual ~Cipher() = default;

    virtual CipherBy by() const = 0;
    // In place. offset: bytes, of what by() says; it and the length are multiples of 512.
    // One thread at a time.
    virtual Status encrypt(std::uint64_t offset, std::span<std::byte> data) const = 0;
    virtual Status decrypt(std::uint64_t offset, std::span<std::byte> data) const = 0;

    // As dm-crypt's table line names it: "aes-cbc-plain64", with sectors of 512 bytes.
    virtual const std::string& kernel_name() const = 0;
    // Secret: never printed, logged, or kept longer than needed.
    virtual std::span<const std::byte> key() const = 0;
};

}  // namespace dmu
