// SPDX-License-Identifier: GPL-2.0-or-later
// The ciphers of disk sectors, as dm-crypt names them: AES, chained (cbc) or tweaked (xts),
// each sector of 512 bytes with an initialisation vector made from its number:
//
//   plain64       the number, little-endian, then zeros
//   plain         the same of its low 32 bits
//   essiv:sha256  plain64 encrypted with the key's hash
#pragma once

#include <memory>
#include <span>
#include <string>

#include "formats/core/cipher.h"
#include "formats/crypto/secret.h"

namespace dmu::crypto {

// name: "aes-cbc-plain64", "aes-xts-plain64", "aes-cbc-essiv:sha256", ...; the key's length
// chooses AES-128, -192 or -256 (xts: of both halves together 32 or 64 bytes).
// Code::unsupported for another cipher, Code::invalid for a key of another length.
Result<std::unique_ptr<Cipher>> make_cipher(const std::string& name, std::span<const std::byte> key, CipherBy by);

// qcow's, and qcow2's before LUKS: AES-128-CBC, the key is the password's first 16 bytes,
// zeros where it is shorter, the sector that of the guest.
Result<std::unique_ptr<Cipher>> make_legacy_cipher(const Secret& password);

}  // namespace dmu::crypto
