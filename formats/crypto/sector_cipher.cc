// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/crypto/sector_cipher.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/core/units.h"

namespace dmu::crypto {

namespace {

constexpr std::size_t vector_bytes = 16;
constexpr std::size_t legacy_key_bytes = 16;

using Context = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;
using Vector = std::array<unsigned char, vector_bytes>;

unsigned char* raw(std::span<std::byte> bytes) {
    return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* raw(std::span<const std::byte> bytes) {
    return reinterpret_cast<const unsigned char*>(bytes.data());
}

enum class VectorKind { plain, plain64, essiv };

struct Method {
    const EVP_CIPHER* cipher = nullptr;
    VectorKind vector = VectorKind::plain64;
};

const EVP_CIPHER* aes(bool xts, std::size_t key_bytes) {
    if (xts) return key_bytes == 32 ? EVP_aes_128_xts() : key_bytes == 64 ? EVP_aes_256_xts() : nullptr;
    switch (key_bytes) {
        case 16:
            return EVP_aes_128_cbc();
        case 24:
            return EVP_aes_192_cbc();
        case 32:
            return EVP_aes_256_cbc();
        default:
            return nullptr;
    }
}

Result<Method> method_of(const std::string& name, std::size_t key_bytes) {
    static constexpr struct {
        const char* name;
        bool xts;
        VectorKind vector;
    } known[] = {{"aes-cbc-plain64", false, VectorKind::plain64},    {"aes-cbc-plain", false, VectorKind::plain},
                 {"aes-cbc-essiv:sha256", false, VectorKind::essiv}, {"aes-xts-plain64", true, VectorKind::plain64},
                 {"aes-xts-plain", true, VectorKind::plain},         {"aes-xts-essiv:sha256", true, VectorKind::essiv}};
    const auto* found =
        std::find_if(std::begin(known), std::end(known), [&](const auto& one) { return name == one.name; });
    if (found == std::end(known))
        return Error{Code::unsupported, "the cipher '" + name +
                                            "' is not supported; aes-xts and aes-cbc with plain64, "
                                            "plain or essiv:sha256 are"};
    const auto* cipher = aes(found->xts, key_bytes);
    if (cipher == nullptr)
        return Error{Code::invalid, "a key of " + std::to_string(key_bytes * 8) + " bits does not fit '" + name + "'"};
    return Method{cipher, found->vector};
}

class SectorCipher final : public Cipher {
public:
    SectorCipher(const std::string& name, std::span<const std::byte> key, CipherBy by, const Method& method)
        : name_(name), key_(key), by_(by), method_(method) {}

    Status prepare();

    CipherBy by() const override { return by_; }
    Status encrypt(std::uint64_t offset, std::span<std::byte> data) const override {
        return run(*encrypting_, offset, data);
    }
    Status decrypt(std::uint64_t offset, std::span<std::byte> data) const override {
        return run(*decrypting_, offset, data);
    }
    const std::string& kernel_name() const override { return name_; }
    std::span<const std::byte> key() const override { return key_.span(); }

private:
    Status run(EVP_CIPHER_CTX& context, std::uint64_t offset, std::span<std::byte> data) const;
    bool make_vector(std::uint64_t sector, Vector& vector) const;

    const std::string name_;
    const Secret key_;
    const CipherBy by_;
    const Method method_;
    Context encrypting_{EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free};
    Context decrypting_{EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free};
    Context essiv_{nullptr, &EVP_CIPHER_CTX_free};
};

Status SectorCipher::prepare() {
    if (!encrypting_ || !decrypting_) return library_failed();
    for (const bool encrypt : {true, false}) {
        auto* context = encrypt ? encrypting_.get() : decrypting_.get();
        if (EVP_CipherInit_ex(context, method_.cipher, nullptr, raw(key_.span()), nullptr, encrypt ? 1 : 0) != 1 ||
            EVP_CIPHER_CTX_set_padding(context, 0) != 1)
            return library_failed();
    }
    if (method_.vector != VectorKind::essiv) return ok();
    Secret hash(32);
    essiv_.reset(EVP_CIPHER_CTX_new());
    if (!essiv_ || EVP_Digest(key_.span().data(), key_.size(), raw(hash.span()), nullptr, EVP_sha256(), nullptr) != 1 ||
        EVP_CipherInit_ex(essiv_.get(), EVP_aes_256_ecb(), nullptr, raw(std::as_const(hash).span()), nullptr, 1) != 1 ||
        EVP_CIPHER_CTX_set_padding(essiv_.get(), 0) != 1)
        return library_failed();
    return ok();
}

bool SectorCipher::make_vector(std::uint64_t sector, Vector& vector) const {
    vector.fill(0);
    const unsigned bytes = method_.vector == VectorKind::plain ? 4 : 8;
    for (unsigned i = 0; i < bytes; i++) vector[i] = static_cast<unsigned char>(sector >> 8 * i);
    if (method_.vector != VectorKind::essiv) return true;
    const Vector plain = vector;
    int length = 0;
    return EVP_CipherUpdate(essiv_.get(), vector.data(), &length, plain.data(), static_cast<int>(plain.size())) == 1 &&
           length == static_cast<int>(vector.size());
}

Status SectorCipher::run(EVP_CIPHER_CTX& context, std::uint64_t offset, std::span<std::byte> data) const {
    if (offset % sector_size != 0 || data.size() % sector_size != 0)
        return Error{Code::invalid, "encryption works on whole sectors; asked for " + std::to_string(data.size()) +
                                        " bytes at byte " + std::to_string(offset)};
    for (; !data.empty(); data = data.subspan(sector_size), offset += sector_size) {
        Vector vector;
        int length = 0;
        auto* sector = raw(data.first(sector_size));
        if (!make_vector(offset / sector_size, vector) ||
            EVP_CipherInit_ex(&context, nullptr, nullptr, nullptr, vector.data(), -1) != 1 ||
            EVP_CipherUpdate(&context, sector, &length, sector, static_cast<int>(sector_size)) != 1 ||
            length != static_cast<int>(sector_size))
            return library_failed();
    }
    return ok();
}

}  // namespace

Result<std::unique_ptr<Cipher>> make_cipher(const std::string& name, std::span<const std::byte> key, CipherBy by) {
    const auto method = method_of(name, key.size());
    if (!method) return method.error();
    auto cipher = std::make_unique<SectorCipher>(name, key, by, *method);
    auto ready = cipher->prepare();
    if (!ready) return ready.error();
    return std::unique_ptr<Cipher>(std::move(cipher));
}

Result<std::unique_ptr<Cipher>> make_legacy_cipher(const Secret& password) {
    Secret key(legacy_key_bytes);
    std::memcpy(key.span().data(), password.span().data(), std::min(key.size(), password.size()));
    return make_cipher("aes-cbc-plain64", std::as_const(key).span(), CipherBy::guest_offset);
}

}  // namespace dmu::crypto
