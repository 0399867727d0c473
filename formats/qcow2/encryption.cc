// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/encryption.h"

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/crypto/luks.h"
#include "formats/crypto/sector_cipher.h"

namespace dmu::qcow2 {

namespace {

constexpr std::size_t extension_bytes = 16;

}  // namespace

Result<std::optional<CryptoExtension>> crypto_of(const Header& header, std::uint64_t file_bytes,
                                                 const std::string& name) {
    const auto wrong = [&](const std::string& what) {
        return Error{Code::corrupt, "qcow2 image '" + name + "': " + what};
    };
    const auto* extension = header.extension(extension_crypto);
    if (header.encryption != Encryption::luks) {
        if (extension != nullptr) return wrong("it names a LUKS header, but its encryption is not LUKS");
        return std::optional<CryptoExtension>{};
    }
    if (extension == nullptr) return wrong("its encryption is LUKS, but no header extension says where its key is");
    if (extension->data.size() != extension_bytes)
        return wrong("the header extension of encryption has " + std::to_string(extension->data.size()) +
                     " bytes; 16 are expected");
    const CryptoExtension crypto{load_be<std::uint64_t>(extension->data, 0),
                                 load_be<std::uint64_t>(extension->data, 8)};
    const auto who = "the LUKS header at byte " + std::to_string(crypto.offset);
    if (crypto.offset % header.cluster_bytes() != 0) return wrong(who + " is not aligned to clusters");
    if (crypto.offset < header.cluster_bytes()) return wrong(who + " lies over the header");
    if (crypto.bytes < crypto::luks_header_bytes)
        return wrong(who + " has " + std::to_string(crypto.bytes) + " bytes; 592 are the least");
    const auto end = align_up(file_bytes, header.cluster_bytes());
    if (crypto.offset > end || crypto.bytes > end - crypto.offset)
        return wrong(who + " with " + std::to_string(crypto.bytes) + " bytes ends past the end of the file");
    return std::optional(crypto);
}

void set_crypto(Header& header, const CryptoExtension& crypto) {
    std::vector<std::byte> raw(extension_bytes);
    store_be<std::uint64_t>(raw, 0, crypto.offset);
    store_be<std::uint64_t>(raw, 8, crypto.bytes);
    header.set_extension(extension_crypto, raw);
}

Status describe_luks(BlockFile& file, const Header& header, std::uint64_t file_bytes,
                     std::vector<ImageInfo::Detail>& details) {
    const auto crypto = crypto_of(header, file_bytes, file.name());
    if (!crypto) return crypto.error();
    if (!*crypto) return ok();
    std::vector<std::byte> raw(crypto::luks_header_bytes);
    auto done = file.read((*crypto)->offset, raw);
    if (!done) return done;
    const auto luks = crypto::decode_luks(raw, (*crypto)->bytes, file.name());
    if (!luks) return luks.error();
    const auto say = [&](const std::string& key, auto value) { details.push_back({"encrypt/" + key, value}); };
    // "xts-plain64", "cbc-essiv:sha256"; the key of XTS is two.
    const auto dash = luks->mode.find('-'), colon = luks->mode.find(':');
    const auto bits = luks->key_bytes * (luks->mode.starts_with("xts") ? 4 : 8);
    say("uuid", luks->uuid);
    say("cipher-alg", luks->cipher + "-" + std::to_string(bits));
    say("cipher-mode", luks->mode.substr(0, dash));
    if (dash != std::string::npos) say("ivgen-alg", luks->mode.substr(dash + 1, colon - dash - 1));
    if (colon != std::string::npos) say("ivgen-hash-alg", luks->mode.substr(colon + 1));
    say("hash-alg", luks->hash);
    say("payload-offset", std::uint64_t{luks->payload_sector} * sector_size);
    say("master-key-iters", std::uint64_t{luks->digest_iterations});
    for (std::size_t i = 0; i < luks->slots.size(); i++) {
        const auto& slot = luks->slots[i];
        const auto place = "slots/" + std::to_string(i) + "/";
        say(place + "active", slot.active);
        say(place + "key-offset", std::uint64_t{slot.sector} * sector_size);
        if (!slot.active) continue;
        say(place + "iters", std::uint64_t{slot.iterations});
        say(place + "stripes", std::uint64_t{slot.stripes});
    }
    return ok();
}

Result<std::unique_ptr<Cipher>> open_cipher(BlockFile& file, const Header& header, std::uint64_t file_bytes,
                                            const OpenOptions& options) {
    const auto crypto = crypto_of(header, file_bytes, file.name());
    if (!crypto) return crypto.error();
    if (header.encryption == Encryption::none) return std::unique_ptr<Cipher>();
    std::string key_file;
    for (const auto& [key, value] : options.options)
        if (key == "key-file") key_file = value;
    const std::string method = header.encryption == Encryption::aes ? "AES" : "LUKS";
    if (key_file.empty())
        return Error{Code::denied, "qcow2 image '" + file.name() + "': it is encrypted (" + method +
                                       "); name the file that holds its key: 'qcow2;key-file=FILE:" + file.name() +
                                       "'"};
    const auto secret = crypto::read_key_file(key_file);
    if (!secret) return secret.error().in("image '" + file.name() + "'");
    if (header.encryption == Encryption::aes) return crypto::make_legacy_cipher(*secret);
    return crypto::open_luks(file, (*crypto)->offset, (*crypto)->bytes, *secret, CipherBy::host_offset);
}

}  // namespace dmu::qcow2
