// SPDX-License-Identifier: GPL-2.0-or-later
// LUKS headers, made and read by us and by qemu.
#include "formats/core/units.h"
#include "formats/crypto/luks.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

using crypto::Secret;

Secret secret(const std::string& text) {
    return Secret(std::as_bytes(std::span(text)));
}

crypto::LuksOptions quick(const std::string& mode = "xts-plain64", std::uint32_t key_bytes = 64,
                          const std::string& hash = "sha256") {
    crypto::LuksOptions options;
    options.mode = mode;
    options.hash = hash;
    options.key_bytes = key_bytes;
    options.iterations = 1000;
    return options;
}

class Luks : public ::testing::Test {
protected:
    void make(const crypto::LuksOptions& options) {
        auto made = crypto::create_luks(options, secret("a word"), CipherBy::host_offset);
        ASSERT_OK(made);
        ASSERT_EQ(made->bytes.size() % 4096, 0u);
        bytes_ = std::move(made->bytes);
        cipher_ = std::move(made->cipher);
    }
    Result<std::unique_ptr<Cipher>> open(const std::string& password, std::uint64_t offset = 0) {
        const auto store = std::make_shared<MemoryStore>();
        store->bytes.resize(offset);
        store->bytes.insert(store->bytes.end(), bytes_.begin(), bytes_.end());
        MemoryFile file(store, "m", false);
        return crypto::open_luks(file, offset, bytes_.size(), secret(password), CipherBy::host_offset);
    }
    Bytes bytes_;
    std::unique_ptr<Cipher> cipher_;
};

TEST_F(Luks, MadeAndOpened) {
    for (const auto& options : {quick(), quick("xts-plain64", 32), quick("cbc-plain64", 32, "sha1"),
                                quick("cbc-essiv:sha256", 16), quick("cbc-essiv:sha256", 32, "sha512")}) {
        ASSERT_NO_FATAL_FAILURE(make(options));
        const auto opened = open("a word", 65536);
        ASSERT_OK(opened);
        EXPECT_EQ((*opened)->kernel_name(), "aes-" + options.mode);
        EXPECT_TRUE(
            std::equal((*opened)->key().begin(), (*opened)->key().end(), cipher_->key().begin(), cipher_->key().end()));
        EXPECT_TRUE(fails_with(open("another"), Code::denied, "opens none of its key slots"));
    }
}

// Each rule of the decoder.
TEST_F(Luks, BadHeaders) {
    ASSERT_NO_FATAL_FAILURE(make(quick()));
    const auto good = bytes_;
    const auto with = [&](std::size_t at, std::uint32_t value) {
        bytes_ = good;
        store_be<std::uint32_t>(bytes_, at, value);
        return open("a word");
    };
    EXPECT_TRUE(fails_with(with(0, 0), Code::corrupt, "does not start with"));
    EXPECT_TRUE(fails_with(with(4, 0xbabe0002u), Code::unsupported, "version 2"));
    EXPECT_TRUE(fails_with(with(8, 0x78787878u), Code::unsupported, "xxxx-xts-plain64"));
    EXPECT_TRUE(fails_with(with(72, 0x78787878u), Code::unsupported, "hash 'xxxx56'"));
    EXPECT_TRUE(fails_with(with(108, 63), Code::corrupt, "key of 63 bytes"));
    EXPECT_TRUE(fails_with(with(108, 24), Code::unsupported, "24 bytes"));
    EXPECT_TRUE(fails_with(with(108, 0xffffffffu), Code::corrupt, "key of"));
    EXPECT_TRUE(fails_with(with(164, 0), Code::corrupt, "0 iterations"));
    EXPECT_TRUE(fails_with(with(164, 0xffffffffu), Code::corrupt, "iterations"));
    EXPECT_TRUE(fails_with(with(208 + 4, 0xffffffffu), Code::corrupt, "key slot 0 asks for"));
    EXPECT_TRUE(fails_with(with(208 + 40, 0), Code::corrupt, "outside of"));
    EXPECT_TRUE(fails_with(with(208 + 40, 0xffffffffu), Code::corrupt, "outside of"));
    EXPECT_TRUE(fails_with(with(208 + 44, 1), Code::unsupported, "1 stripes"));
    EXPECT_TRUE(fails_with(with(208, 0xdead), Code::denied, "opens none"));
    bytes_ = Bytes(good.begin(), good.begin() + 500);
    EXPECT_TRUE(fails_with(open("a word"), Code::corrupt, "fewer than 592"));
}

TEST_F(Luks, QemuReadsOurs) {
    if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    const TempDir directory;
    for (const auto& options : {quick(), quick("cbc-essiv:sha256", 32, "sha1")}) {
        ASSERT_NO_FATAL_FAILURE(make(options));
        Bytes plain = pattern(128 * 512, 3), data = plain;
        // A LUKS volume counts its sectors from the payload's start.
        ASSERT_OK(cipher_->encrypt(0, data));
        auto whole = bytes_;
        whole.insert(whole.end(), data.begin(), data.end());
        write_file(directory / "luks", whole);
        const auto ran = run_command("cd " + directory.path() +
                                     " && qemu-img convert --object secret,id=s,data='a word' --image-opts "
                                     "driver=luks,key-secret=s,file.filename=luks -O raw out");
        ASSERT_EQ(ran.status, 0) << ran.output;
        EXPECT_TRUE(read_file(directory / "out") == plain);
    }
}

TEST_F(Luks, WeReadQemus) {
    if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    const TempDir directory;
    for (const char* options : {"", ",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"}) {
        const auto ran = run_qemu("cd " + directory.path() +
                                  " && rm -f luks && qemu-img create -q --object secret,id=s,data='a word' -f luks "
                                  "-o key-secret=s,iter-time=10" +
                                  options +
                                  " luks 64k && qemu-io --object secret,id=s,data='a word' --image-opts "
                                  "driver=luks,key-secret=s,file.filename=luks -c 'write -P 0x5a 0 64k'");
        ASSERT_EQ(ran.status, 0) << ran.output;
        const auto all = read_file(directory / "luks");
        bytes_ = Bytes(all.begin(), all.end() - 65536);
        Bytes data(all.end() - 65536, all.end());
        const auto opened = open("a word");
        ASSERT_OK(opened);
        ASSERT_OK((*opened)->decrypt(0, data));
        EXPECT_EQ(data, Bytes(65536, std::byte{0x5a}));
    }
}

}  // namespace
}  // namespace dmu
