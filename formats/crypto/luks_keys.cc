// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/crypto/luks_keys.h"

#include <openssl/evp.h>
#include <time.h>

#include <algorithm>
#include <memory>

#include "formats/core/endian.h"

namespace dmu::crypto {

namespace {

constexpr std::uint32_t least_iterations = 1000;

const EVP_MD* digest_named(const std::string& name) {
    for (const char* known : {"sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"})
        if (name == known) return EVP_get_digestbyname(known);
    return nullptr;
}

// Each piece of the digest's length becomes the hash of its number and itself.
Status diffuse(const EVP_MD* hash, std::span<std::byte> block) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    const auto digest_bytes = static_cast<std::size_t>(EVP_MD_get_size(hash));
    Secret digest(digest_bytes);
    for (std::uint32_t i = 0; i * digest_bytes < block.size(); i++) {
        const auto piece = block.subspan(i * digest_bytes, std::min(digest_bytes, block.size() - i * digest_bytes));
        std::array<std::byte, 4> number;
        store_be<std::uint32_t>(number, 0, i);
        if (!context || EVP_DigestInit_ex(context.get(), hash, nullptr) != 1 ||
            EVP_DigestUpdate(context.get(), number.data(), number.size()) != 1 ||
            EVP_DigestUpdate(context.get(), piece.data(), piece.size()) != 1 ||
            EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.span().data()), nullptr) != 1)
            return library_failed();
        std::copy_n(digest.span().begin(), piece.size(), piece.begin());
    }
    return ok();
}

void mix(std::span<std::byte> into, std::span<const std::byte> with) {
    for (std::size_t i = 0; i < into.size(); i++) into[i] ^= with[i];
}

// What all stripes but the last make together.
Result<Secret> gather(const std::string& name, std::span<const std::byte> material, std::size_t key_bytes) {
    const auto* hash = digest_named(name);
    if (hash == nullptr) return Error{Code::unsupported, "the hash '" + name + "' is not supported"};
    if (key_bytes == 0 || material.size() % key_bytes != 0 || material.empty())
        return Error{Code::invalid, "key material is not of whole stripes"};
    Secret block(key_bytes);
    for (std::size_t at = 0; at + key_bytes < material.size(); at += key_bytes) {
        mix(block.span(), material.subspan(at, key_bytes));
        auto done = diffuse(hash, block.span());
        if (!done) return done.error();
    }
    return block;
}

std::uint64_t thread_nanoseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

bool is_hash(const std::string& name) {
    return digest_named(name) != nullptr;
}

Status derive_key(const std::string& hash, std::span<const std::byte> passphrase, std::span<const std::byte> salt,
                  std::uint32_t iterations, std::span<std::byte> key) {
    const auto* digest = digest_named(hash);
    if (digest == nullptr) return Error{Code::unsupported, "the hash '" + hash + "' is not supported"};
    const int done =
        PKCS5_PBKDF2_HMAC(reinterpret_cast<const char*>(passphrase.data()), static_cast<int>(passphrase.size()),
                          reinterpret_cast<const unsigned char*>(salt.data()), static_cast<int>(salt.size()),
                          static_cast<int>(iterations), digest, static_cast<int>(key.size()),
                          reinterpret_cast<unsigned char*>(key.data()));
    return done == 1 ? ok() : library_failed();
}

Result<std::uint32_t> measure_iterations(const std::string& hash, const Secret& passphrase,
                                         std::uint32_t milliseconds) {
    constexpr std::uint64_t enough = 20'000'000;  // nanoseconds
    const std::array<std::byte, 32> salt{};
    std::array<std::byte, 32> key;
    for (std::uint32_t count = least_iterations;; count *= 4) {
        const auto start = thread_nanoseconds();
        auto done = derive_key(hash, passphrase.span(), salt, count, key);
        if (!done) return done.error();
        const auto took = thread_nanoseconds() - start;
        if (took < enough && count < 1u << 28) continue;
        const auto wanted =
            static_cast<double>(count) * milliseconds * 1e6 / static_cast<double>(std::max<std::uint64_t>(took, 1));
        return static_cast<std::uint32_t>(std::clamp(wanted, double{least_iterations}, 4e9));
    }
}

Status split_key(const std::string& hash, std::span<const std::byte> key, std::span<std::byte> material) {
    auto done = random_bytes(material);
    if (!done) return done;
    const auto block = gather(hash, material, key.size());
    if (!block) return block.error();
    const auto last = material.last(key.size());
    std::copy(key.begin(), key.end(), last.begin());
    mix(last, block->span());
    return ok();
}

Result<Secret> merge_key(const std::string& hash, std::span<const std::byte> material, std::size_t key_bytes) {
    auto block = gather(hash, material, key_bytes);
    if (!block) return block;
    mix(block->span(), material.last(key_bytes));
    return block;
}

}  // namespace dmu::crypto
