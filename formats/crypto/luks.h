// SPDX-License-Identifier: GPL-2.0-or-later
// The header of LUKS version 1, as it precedes a volume, or lies in an image's header
// extension. Everything is big-endian; offsets count from the header's own start.
//
//   byte   0  "LUKS\xba\xbe", u16 version 1
//          8  32 bytes each: cipher ("aes"), mode ("xts-plain64"), hash ("sha256"); NUL-padded
//        104  u32 where the data begins, in sectors; u32 bytes of the volume's key
//        112  digest of the volume's key (PBKDF2): 20 bytes, 32 of salt, u32 iterations
//        168  UUID, 40 bytes of text
//        208  8 key slots of 48 bytes: u32 0xac71f3 in use, 0xdead not; u32 iterations,
//             32 bytes of salt, u32 sector of the key material, u32 stripes (4000)
//
// Key material: the volume's key, spread over 4000 stripes (the "anti-forensic splitter"),
// encrypted by the cipher with the passphrase's PBKDF2, sectors counted from 0.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/core/block_file.h"
#include "formats/core/cipher.h"
#include "formats/crypto/secret.h"

namespace dmu::crypto {

inline constexpr std::size_t luks_header_bytes = 592;
inline constexpr std::size_t luks_slots = 8;

struct LuksHeader {
    struct Slot {
        bool active = false;
        std::uint32_t iterations = 0;
        std::array<std::byte, 32> salt{};
        std::uint32_t sector = 0;
        std::uint32_t stripes = 0;
    };
    std::string cipher, mode, hash;
    std::uint32_t payload_sector = 0;
    std::uint32_t key_bytes = 0;
    std::array<std::byte, 20> digest{};
    std::array<std::byte, 32> digest_salt{};
    std::uint32_t digest_iterations = 0;
    std::string uuid;
    std::array<Slot, luks_slots> slots;

    std::string cipher_name() const { return cipher + "-" + mode; }
};

// raw: the first luks_header_bytes; bytes: the room of header and key material together
// (what the header extension says), which nothing may reach out of. where: for messages.
Result<LuksHeader> decode_luks(std::span<const std::byte> raw, std::uint64_t bytes, const std::string& where);
std::array<std::byte, luks_header_bytes> encode_luks(const LuksHeader& header);

// The header at offset of file and the cipher of what it encrypts, by the first slot that
// the passphrase opens. Code::denied: it opens none.
Result<std::unique_ptr<Cipher>> open_luks(BlockFile& file, std::uint64_t offset, std::uint64_t bytes,
                                          const Secret& passphrase, CipherBy by);

struct LuksOptions {
    std::string cipher = "aes", mode = "xts-plain64", hash = "sha256";
    std::uint32_t key_bytes = 64;
    // Of the passphrase's derivation; 0: what takes this machine iteration_milliseconds.
    std::uint32_t iterations = 0;
    std::uint32_t iteration_milliseconds = 2000;
};

struct NewLuks {
    std::vector<std::byte> bytes;  // header and key material of slot 0; what follows is the payload
    std::unique_ptr<Cipher> cipher;
};
// A fresh volume key; its length is a multiple of 4096. Payload begins at its end.
Result<NewLuks> create_luks(const LuksOptions& options, const Secret& passphrase, CipherBy by);

}  // namespace dmu::crypto
