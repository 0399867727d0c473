// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/crypto/luks.h"

#include <cstring>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/crypto/luks_keys.h"
#include "formats/crypto/sector_cipher.h"

namespace dmu::crypto {

namespace {

constexpr std::array<unsigned char, 6> magic = {'L', 'U', 'K', 'S', 0xba, 0xbe};
constexpr std::uint32_t slot_active = 0xac71f3, slot_free = 0xdead;
constexpr std::size_t text_bytes = 32, uuid_bytes = 40, slots_at = 208, slot_bytes = 48;
constexpr std::uint32_t stripes = 4000;
constexpr std::uint32_t slot_unit = 8;  // sectors: key material starts at multiples of 4 KiB
// Half a minute of a fast machine: a header is not to hang who opens it.
constexpr std::uint32_t most_iterations = 1u << 26;

struct Complaint {
    const std::string& where;
    Error operator()(Code code, const std::string& what) const { return {code, where + ": LUKS header: " + what}; }
};

std::string text_at(std::span<const std::byte> raw, std::size_t at, std::size_t length) {
    const auto* start = reinterpret_cast<const char*>(raw.data()) + at;
    return {start, ::strnlen(start, length)};
}

LuksHeader::Slot slot_at(std::span<const std::byte> raw, std::size_t at) {
    LuksHeader::Slot slot;
    slot.active = load_be<std::uint32_t>(raw, at) == slot_active;
    slot.iterations = load_be<std::uint32_t>(raw, at + 4);
    std::memcpy(slot.salt.data(), raw.data() + at + 8, slot.salt.size());
    slot.sector = load_be<std::uint32_t>(raw, at + 40);
    slot.stripes = load_be<std::uint32_t>(raw, at + 44);
    return slot;
}

std::uint64_t material_bytes(const LuksHeader& header) {
    return std::uint64_t{header.key_bytes} * stripes;
}

Status check_slot(const LuksHeader& header, const LuksHeader::Slot& slot, std::uint64_t bytes, const std::string& who,
                  const Complaint& wrong) {
    if (slot.stripes != stripes)
        return wrong(Code::unsupported, who + " has " + std::to_string(slot.stripes) + " stripes; 4000 are expected");
    if (slot.iterations == 0 || slot.iterations > most_iterations)
        return wrong(Code::corrupt, who + " asks for " + std::to_string(slot.iterations) + " iterations");
    const auto start = std::uint64_t{slot.sector} * sector_size;
    if (start < luks_header_bytes || start > bytes || material_bytes(header) > bytes - start)
        return wrong(Code::corrupt, who + " has its key material at byte " + std::to_string(start) +
                                        ", outside of the " + std::to_string(bytes) +
                                        " bytes that belong to the header");
    return ok();
}

Status check_header(const LuksHeader& header, std::uint64_t bytes, const Complaint& wrong) {
    if (!is_hash(header.hash)) return wrong(Code::unsupported, "the hash '" + header.hash + "' is not supported");
    // Its stripes would not be whole sectors; qemu aborts on it too.
    if (header.key_bytes == 24) return wrong(Code::unsupported, "a key of 24 bytes");
    if (header.key_bytes != 16 && header.key_bytes != 32 && header.key_bytes != 64)
        return wrong(Code::corrupt, "a key of " + std::to_string(header.key_bytes) + " bytes");
    if (header.digest_iterations == 0 || header.digest_iterations > most_iterations)
        return wrong(Code::corrupt, "its digest asks for " + std::to_string(header.digest_iterations) + " iterations");
    for (std::size_t i = 0; i < luks_slots; i++) {
        if (!header.slots[i].active) continue;
        auto valid = check_slot(header, header.slots[i], bytes, "key slot " + std::to_string(i), wrong);
        if (!valid) return valid;
    }
    return ok();
}

// An empty secret: the passphrase does not open this slot.
Result<Secret> try_slot(BlockFile& file, std::uint64_t offset, const LuksHeader& header, const LuksHeader::Slot& slot,
                        const Secret& passphrase) {
    Secret derived(header.key_bytes), material(material_bytes(header)), digest(header.digest.size());
    auto done = derive_key(header.hash, passphrase.span(), slot.salt, slot.iterations, derived.span());
    if (done) done = file.read(offset + std::uint64_t{slot.sector} * sector_size, material.span());
    if (!done) return done.error();
    const auto cipher = make_cipher(header.cipher_name(), std::as_const(derived).span(), CipherBy::host_offset);
    if (!cipher) return cipher.error();
    done = (*cipher)->decrypt(0, material.span());
    if (!done) return done.error();
    auto key = merge_key(header.hash, std::as_const(material).span(), header.key_bytes);
    if (!key) return key;
    done = derive_key(header.hash, std::as_const(*key).span(), header.digest_salt, header.digest_iterations,
                      digest.span());
    if (!done) return done.error();
    if (std::memcmp(digest.span().data(), header.digest.data(), digest.size()) != 0) return Secret();
    return key;
}

Result<std::string> random_uuid() {
    std::array<std::byte, 16> raw;
    auto done = random_bytes(raw);
    if (!done) return done.error();
    raw[6] = (raw[6] & std::byte{0x0f}) | std::byte{0x40};
    raw[8] = (raw[8] & std::byte{0x3f}) | std::byte{0x80};
    std::string text;
    for (std::size_t i = 0; i < raw.size(); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += "0123456789abcdef"[std::to_integer<unsigned>(raw[i]) >> 4];
        text += "0123456789abcdef"[std::to_integer<unsigned>(raw[i]) & 15];
    }
    return text;
}

// All but slot 0's key material and the digest.
Result<LuksHeader> plan(const LuksOptions& options, const Secret& passphrase) {
    LuksHeader header;
    header.cipher = options.cipher;
    header.mode = options.mode;
    header.hash = options.hash;
    header.key_bytes = options.key_bytes;
    if (!is_hash(options.hash))
        return Error{Code::unsupported, "LUKS: the hash '" + options.hash + "' is not supported"};
    auto uuid = random_uuid();
    if (!uuid) return uuid.error();
    header.uuid = *uuid;
    std::uint32_t iterations = options.iterations;
    if (iterations == 0) {
        const auto measured = measure_iterations(options.hash, passphrase, options.iteration_milliseconds);
        if (!measured) return measured.error();
        iterations = std::min(*measured, most_iterations);
    }
    const auto sectors = static_cast<std::uint32_t>(align_up(material_bytes(header) / sector_size, slot_unit));
    for (std::size_t i = 0; i < luks_slots; i++) {
        auto& slot = header.slots[i];
        slot.sector = slot_unit + static_cast<std::uint32_t>(i) * sectors;
        slot.stripes = stripes;
    }
    header.slots[0].active = true;
    header.slots[0].iterations = iterations;
    header.digest_iterations = std::max(iterations / 8, 1000u);
    header.payload_sector = slot_unit + static_cast<std::uint32_t>(luks_slots) * sectors;
    auto done = random_bytes(header.slots[0].salt);
    if (done) done = random_bytes(header.digest_salt);
    if (!done) return done.error();
    return header;
}

// The encrypted stripes of key for slot 0.
Status make_material(const LuksHeader& header, const Secret& key, const Secret& passphrase, std::span<std::byte> into) {
    const auto& slot = header.slots[0];
    Secret derived(header.key_bytes);
    auto done = derive_key(header.hash, passphrase.span(), slot.salt, slot.iterations, derived.span());
    if (done) done = split_key(header.hash, key.span(), into);
    if (!done) return done;
    const auto cipher = make_cipher(header.cipher_name(), std::as_const(derived).span(), CipherBy::host_offset);
    if (!cipher) return cipher.error();
    return (*cipher)->encrypt(0, into);
}

}  // namespace

Result<LuksHeader> decode_luks(std::span<const std::byte> raw, std::uint64_t bytes, const std::string& where) {
    const Complaint wrong{where};
    if (raw.size() < luks_header_bytes || bytes < luks_header_bytes)
        return wrong(Code::corrupt, "it has fewer than 592 bytes");
    if (std::memcmp(raw.data(), magic.data(), magic.size()) != 0)
        return wrong(Code::corrupt, "it does not start with \"LUKS\\xba\\xbe\"");
    const auto version = load_be<std::uint16_t>(raw, 6);
    if (version != 1) return wrong(Code::unsupported, "version " + std::to_string(version) + "; 1 is supported");
    LuksHeader header;
    header.cipher = text_at(raw, 8, text_bytes);
    header.mode = text_at(raw, 40, text_bytes);
    header.hash = text_at(raw, 72, text_bytes);
    header.payload_sector = load_be<std::uint32_t>(raw, 104);
    header.key_bytes = load_be<std::uint32_t>(raw, 108);
    std::memcpy(header.digest.data(), raw.data() + 112, header.digest.size());
    std::memcpy(header.digest_salt.data(), raw.data() + 132, header.digest_salt.size());
    header.digest_iterations = load_be<std::uint32_t>(raw, 164);
    header.uuid = text_at(raw, 168, uuid_bytes);
    for (std::size_t i = 0; i < luks_slots; i++) header.slots[i] = slot_at(raw, slots_at + i * slot_bytes);
    auto valid = check_header(header, bytes, wrong);
    if (!valid) return valid.error();
    return header;
}

std::array<std::byte, luks_header_bytes> encode_luks(const LuksHeader& header) {
    std::array<std::byte, luks_header_bytes> raw{};
    const auto put_text = [&](std::size_t at, std::size_t length, const std::string& text) {
        std::memcpy(raw.data() + at, text.data(), std::min(text.size(), length - 1));
    };
    std::memcpy(raw.data(), magic.data(), magic.size());
    store_be<std::uint16_t>(raw, 6, 1);
    put_text(8, text_bytes, header.cipher);
    put_text(40, text_bytes, header.mode);
    put_text(72, text_bytes, header.hash);
    store_be<std::uint32_t>(raw, 104, header.payload_sector);
    store_be<std::uint32_t>(raw, 108, header.key_bytes);
    std::memcpy(raw.data() + 112, header.digest.data(), header.digest.size());
    std::memcpy(raw.data() + 132, header.digest_salt.data(), header.digest_salt.size());
    store_be<std::uint32_t>(raw, 164, header.digest_iterations);
    put_text(168, uuid_bytes, header.uuid);
    for (std::size_t i = 0; i < luks_slots; i++) {
        const auto& slot = header.slots[i];
        const auto at = slots_at + i * slot_bytes;
        store_be<std::uint32_t>(raw, at, slot.active ? slot_active : slot_free);
        store_be<std::uint32_t>(raw, at + 4, slot.iterations);
        std::memcpy(raw.data() + at + 8, slot.salt.data(), slot.salt.size());
        store_be<std::uint32_t>(raw, at + 40, slot.sector);
        store_be<std::uint32_t>(raw, at + 44, slot.stripes);
    }
    return raw;
}

Result<std::unique_ptr<Cipher>> open_luks(BlockFile& file, std::uint64_t offset, std::uint64_t bytes,
                                          const Secret& passphrase, CipherBy by) {
    const auto where = "image '" + file.name() + "'";
    std::array<std::byte, luks_header_bytes> raw{};
    auto done = file.read(offset, raw);
    if (!done) return done.error();
    const auto header = decode_luks(raw, bytes, where);
    if (!header) return header.error();
    for (const auto& slot : header->slots) {
        if (!slot.active) continue;
        const auto key = try_slot(file, offset, *header, slot, passphrase);
        if (!key) return key.error().in(where);
        if (key->size() != 0) return make_cipher(header->cipher_name(), key->span(), by);
    }
    return Error{Code::denied, where + " is encrypted, and its key file's content opens none of its key slots"};
}

Result<NewLuks> create_luks(const LuksOptions& options, const Secret& passphrase, CipherBy by) {
    if (options.key_bytes == 24) return Error{Code::unsupported, "LUKS: keys of 24 bytes are not supported"};
    Secret key(options.key_bytes);
    auto done = random_bytes(key.span());
    if (!done) return done.error();
    auto cipher = make_cipher(options.cipher + "-" + options.mode, std::as_const(key).span(), by);
    if (!cipher) return cipher.error();
    auto header = plan(options, passphrase);
    if (!header) return header.error();
    done = derive_key(header->hash, std::as_const(key).span(), header->digest_salt, header->digest_iterations,
                      header->digest);
    NewLuks fresh;
    fresh.bytes.resize(std::uint64_t{header->payload_sector} * sector_size);
    const auto material =
        std::span(fresh.bytes).subspan(header->slots[0].sector * sector_size, material_bytes(*header));
    if (done) done = make_material(*header, key, passphrase, material);
    if (!done) return done.error();
    const auto raw = encode_luks(*header);
    std::copy(raw.begin(), raw.end(), fresh.bytes.begin());
    fresh.cipher = std::move(*cipher);
    return fresh;
}

}  // namespace dmu::crypto
