// SPDX-License-Identifier: GPL-2.0-or-later
// Ciphers of sectors against published vectors, and keys that stay secret.
#include <sys/stat.h>

#include "formats/crypto/luks_keys.h"
#include "formats/crypto/secret.h"
#include "formats/crypto/sector_cipher.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

using crypto::Secret;

Bytes from_hex(const std::string& text) {
    Bytes bytes;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2)
        bytes.push_back(static_cast<std::byte>(std::stoul(text.substr(i, 2), nullptr, 16)));
    return bytes;
}

std::string to_hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const auto byte : bytes) {
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) >> 4];
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

std::unique_ptr<Cipher> cipher(const std::string& name, const Bytes& key) {
    auto made = crypto::make_cipher(name, key, CipherBy::host_offset);
    EXPECT_OK(made);
    return made ? std::move(*made) : nullptr;
}

// IEEE 1619-2007, vector 10 (XTS-AES-256, data unit 0xff of 512 bytes 00, 01, ...).
TEST(CryptoCipher, XtsVector) {
    const auto key = from_hex(
        "2718281828459045235360287471352662497757247093699959574966967627"
        "3141592653589793238462643383279502884197169399375105820974944592");
    Bytes data(512);
    for (std::size_t i = 0; i < data.size(); i++) data[i] = static_cast<std::byte>(i);
    const auto plain = data;
    const auto xts = cipher("aes-xts-plain64", key);
    ASSERT_OK(xts->encrypt(0xff * 512, data));
    EXPECT_EQ(to_hex(std::span(data).first(32)), "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
    ASSERT_OK(xts->decrypt(0xff * 512, data));
    EXPECT_EQ(data, plain);
}

// SP 800-38A F.1.1: with sector 0 the first block is the plain AES of the text.
TEST(CryptoCipher, CbcVector) {
    const auto key = from_hex("2b7e151628aed2a6abf7158809cf4f3c");
    auto data = from_hex("6bc1bee22e409f96e93d7e117393172a");
    data.resize(512);
    ASSERT_OK(cipher("aes-cbc-plain64", key)->encrypt(0, data));
    EXPECT_EQ(to_hex(std::span(data).first(16)), "3ad77bb40d7a3660a89ecaf32466ef97");
}

TEST(CryptoCipher, SectorsDifferAndComeBack) {
    for (const char* name : {"aes-cbc-plain64", "aes-cbc-plain", "aes-cbc-essiv:sha256", "aes-xts-plain64",
                             "aes-xts-plain", "aes-xts-essiv:sha256"}) {
        const auto one = cipher(name, pattern(32, 1));
        ASSERT_NE(one, nullptr);
        Bytes data(4 * 512);
        ASSERT_OK(one->encrypt(std::uint64_t{5} << 32, data));
        for (int i = 1; i < 4; i++)
            EXPECT_FALSE(std::equal(data.begin(), data.begin() + 512, data.begin() + i * 512)) << name;
        // Sector by sector as in one.
        Bytes second(512);
        ASSERT_OK(one->encrypt((std::uint64_t{5} << 32) + 512, second));
        EXPECT_TRUE(std::equal(second.begin(), second.end(), data.begin() + 512)) << name;
        ASSERT_OK(one->decrypt(std::uint64_t{5} << 32, data));
        EXPECT_EQ(data, Bytes(4 * 512)) << name;
        EXPECT_EQ(one->kernel_name(), name);
        EXPECT_EQ(to_hex(one->key()), to_hex(pattern(32, 1)));
        EXPECT_TRUE(fails_with(one->encrypt(511, data), Code::invalid, "whole sectors"));
        EXPECT_TRUE(fails_with(one->decrypt(0, std::span(data).first(100)), Code::invalid, "whole sectors"));
    }
    // The numbers are those of 64 bits, or of 32.
    const auto reads = [](const char* name, std::uint64_t sector) {
        Bytes data(512);
        EXPECT_OK(cipher(name, pattern(32, 1))->encrypt(sector * 512, data));
        return data;
    };
    EXPECT_NE(reads("aes-cbc-plain64", 1), reads("aes-cbc-plain64", (std::uint64_t{1} << 32) + 1));
    EXPECT_EQ(reads("aes-cbc-plain", 1), reads("aes-cbc-plain", (std::uint64_t{1} << 32) + 1));
}

TEST(CryptoCipher, Refused) {
    EXPECT_TRUE(fails_with(crypto::make_cipher("serpent-xts-plain64", pattern(64, 1), CipherBy::host_offset),
                           Code::unsupported, "serpent"));
    EXPECT_TRUE(fails_with(crypto::make_cipher("aes-xts-plain64", pattern(48, 1), CipherBy::host_offset), Code::invalid,
                           "384 bits"));
}

TEST(CryptoCipher, LegacyKeyIsCutAndPadded) {
    const auto encrypted = [](const std::string& password) {
        Bytes data(512);
        const auto made = crypto::make_legacy_cipher(Secret(std::as_bytes(std::span(password))));
        EXPECT_OK(made);
        EXPECT_EQ((*made)->by(), CipherBy::guest_offset);
        EXPECT_EQ((*made)->kernel_name(), "aes-cbc-plain64");
        EXPECT_EQ((*made)->key().size(), 16u);
        EXPECT_OK((*made)->encrypt(1536, data));
        return data;
    };
    EXPECT_EQ(encrypted("0123456789abcdefgh"), encrypted("0123456789abcdef"));
    EXPECT_EQ(encrypted("short"), encrypted(std::string("short\0\0\0", 8)));
    EXPECT_NE(encrypted("short"), encrypted("Short"));
}

TEST(CryptoKeys, Pbkdf2Vectors) {
    // RFC 6070.
    const std::string password = "password", salt = "salt";
    Bytes key(20);
    const auto derive = [&](std::uint32_t iterations) {
        EXPECT_OK(crypto::derive_key("sha1", std::as_bytes(std::span(password)), std::as_bytes(std::span(salt)),
                                     iterations, key));
        return to_hex(key);
    };
    EXPECT_EQ(derive(1), "0c60c80f961f0e71f3a9b524af6012062fe037a6");
    EXPECT_EQ(derive(4096), "4b007901b765489abead49d926f721d065a429c1");
}

TEST(CryptoKeys, SplitAndMerge) {
    for (const char* hash : {"sha1", "sha256", "sha512"}) {
        const auto key = pattern(64, 7);
        Bytes material(64 * 4000);
        ASSERT_OK(crypto::split_key(hash, key, material));
        const auto merged = crypto::merge_key(hash, material, 64);
        ASSERT_OK(merged);
        EXPECT_EQ(to_hex(merged->span()), to_hex(key));
        material[100] ^= std::byte{1};
        const auto wrong = crypto::merge_key(hash, material, 64);
        ASSERT_OK(wrong);
        EXPECT_NE(to_hex(wrong->span()), to_hex(key));
    }
    EXPECT_FALSE(crypto::is_hash("md5"));
    EXPECT_FALSE(crypto::merge_key("sha256", Bytes(100), 64));
}

TEST(CryptoKeys, KeyFiles) {
    const TempDir directory;
    const auto read = [&](const Bytes& content) {
        write_file(directory / "key", content);
        return crypto::read_key_file(directory / "key");
    };
    const std::string text = "a secret\n";
    const auto bytes = std::as_bytes(std::span(text));
    const auto secret = read({bytes.begin(), bytes.end()});
    ASSERT_OK(secret);
    EXPECT_EQ(to_hex(secret->span()), to_hex(bytes));
    EXPECT_TRUE(fails_with(read({}), Code::invalid, "is empty"));
    EXPECT_TRUE(fails_with(read(Bytes(8193)), Code::invalid, "8192"));
    EXPECT_TRUE(fails_with(crypto::read_key_file(directory / "none"), Code::not_found, "key file"));
    EXPECT_TRUE(fails_with(crypto::read_key_file(directory.path()), Code::invalid, "not a regular file"));
    ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
    EXPECT_TRUE(fails_with(crypto::read_key_file(directory / "fifo"), Code::invalid, "not a regular file"));
}

}  // namespace
}  // namespace dmu
