// SPDX-License-Identifier: GPL-2.0-or-later
// What guest data is encrypted with. Metadata and compressed clusters never are.
//
//   AES   nothing on disk: the key is the key file's content, the vector the guest's sector
//   LUKS  a header (formats/crypto/luks.h) in clusters of its own; the key file opens one of
//         its slots, and the vector is the sector of the file, counted from the file's start
//
// Where the LUKS header lies is in extension_crypto:
//   byte  0  u64  offset, at a cluster's start
//         8  u64  bytes of the header and of the room for its key material
#pragma once

#include <memory>
#include <optional>

#include "formats/core/block_file.h"
#include "formats/core/cipher.h"
#include "formats/core/image.h"
#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

struct CryptoExtension {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

// Empty: no LUKS. Code::corrupt where it is not as it must be; name is the file's.
Result<std::optional<CryptoExtension>> crypto_of(const Header& header, std::uint64_t file_bytes,
                                                 const std::string& name);
void set_crypto(Header& header, const CryptoExtension& crypto);

// What the LUKS header says, where there is one, for people, added to the details.
Status describe_luks(BlockFile& file, const Header& header, std::uint64_t file_bytes,
                     std::vector<ImageInfo::Detail>& details);

// nullptr: not encrypted. Code::denied: no key file, or one that opens no key slot.
Result<std::unique_ptr<Cipher>> open_cipher(BlockFile& file, const Header& header, std::uint64_t file_bytes,
                                            const OpenOptions& options);

}  // namespace dmu::qcow2
