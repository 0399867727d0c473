// SPDX-License-Identifier: GPL-2.0-or-later
// What LUKS does with keys: derives them from passphrases (PBKDF2), and spreads them over
// stripes so that a lost part of the disk loses the whole (the anti-forensic splitter).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "formats/crypto/secret.h"

namespace dmu::crypto {

// sha1, sha224, sha256, sha384, sha512, ripemd160 where the library has it.
bool is_hash(const std::string& name);

Status derive_key(const std::string& hash, std::span<const std::byte> passphrase, std::span<const std::byte> salt,
                  std::uint32_t iterations, std::span<std::byte> key);
// How many iterations take this machine so long; at least 1000.
Result<std::uint32_t> measure_iterations(const std::string& hash, const Secret& passphrase, std::uint32_t milliseconds);

// material: a whole number of stripes of the key's length.
Status split_key(const std::string& hash, std::span<const std::byte> key, std::span<std::byte> material);
Result<Secret> merge_key(const std::string& hash, std::span<const std::byte> material, std::size_t key_bytes);

}  // namespace dmu::crypto
