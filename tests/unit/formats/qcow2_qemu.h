// SPDX-License-Identifier: GPL-2.0-or-later
// Images in files that qemu reads and writes too, encrypted ones as well.
#pragma once

#include "tests/unit/formats/qcow2_support.h"

namespace dmu {

class QemuImages : public ::testing::Test {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    }
    std::string qemu(const std::string& command) {
        const auto ran = run_qemu("cd '" + directory_.path() + "' && " + command);
        EXPECT_EQ(ran.status, 0) << command << ": " << ran.output;
        return ran.output;
    }
    // As our and qemu's tools name an image; the key of an encrypted one is in the file "key".
    std::string spec(const std::string& name) {
        return format_ + (method_.empty() ? "" : ";key-file=" + directory_ / "key") + ":" + directory_ / name;
    }
    std::string node(const std::string& name) const {
        if (method_.empty()) return " -f " + format_ + " " + name;
        return secret() + " --image-opts driver=" + format_ + ",encrypt.format=" + method_ +
               ",encrypt.key-secret=s,file.filename=" + name;
    }
    static std::string secret() { return " --object secret,id=s,file=key"; }

    std::unique_ptr<Chain> open(const std::string& name, bool writable) {
        auto chain = Chain::open(*parse_spec(spec(name)), writable, PathPolicy{});
        EXPECT_OK(chain);
        return chain ? std::move(*chain) : nullptr;
    }
    void write_through_us(const std::string& name, Bytes& model, int count) {
        auto chain = open(name, true);
        ASSERT_NE(chain, nullptr);
        StandIn target(*chain);
        ASSERT_EQ(target.size(), model.size());
        for (int i = 0; i < count; i++) {
            const auto offset = random_() % model.size();
            const auto bytes =
                pattern(std::min<std::uint64_t>(1 + random_() % 60000, model.size() - offset), random_());
            ASSERT_OK(target.write({offset}, bytes));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
        }
        ASSERT_OK(target.flush());
        ASSERT_OK(chain->top().close());
    }
    void write_through_qemu(const std::string& name, Bytes& model, int count) {
        std::string commands;
        for (int i = 0; i < count; i++) {
            const auto first = random_() % model.size();
            const auto length = std::min<std::uint64_t>(1 + random_() % 60000, model.size() - first);
            const auto byte = 1 + random_() % 255;
            commands += " -c 'write -P " + std::to_string(byte) + " " + std::to_string(first) + " " +
                        std::to_string(length) + "'";
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), length, static_cast<std::byte>(byte));
        }
        qemu("qemu-io" + commands + node(name) + " >/dev/null");
    }
    void we_read(const std::string& name, const Bytes& model) {
        auto chain = open(name, false);
        ASSERT_NE(chain, nullptr);
        Bytes seen(model.size());
        ASSERT_OK(chain->read({0}, seen));
        EXPECT_TRUE(seen == model) << name;
    }
    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    TempDir directory_{fast_directory()};
    std::string format_ = "qcow2";
    std::string method_;  // "aes", "luks"; empty: not encrypted
};

class Qcow2Qemu : public QemuImages {
protected:
    void both_read(const std::string& name, const Bytes& model) {
        we_read(name, model);
        qemu("qemu-img check -q" + node(name));
        qemu("qemu-img convert" + node(name) + " -O raw out.raw");
        EXPECT_TRUE(read_file(directory_ / "out.raw") == model) << name;
    }
    // Half of it compresses, half does not.
    Bytes content() {
        auto bytes = pattern(1 << 20, random_());
        for (std::size_t i = 0; i < bytes.size(); i++)
            if (i / 20000 % 2) bytes[i] = static_cast<std::byte>(i / 20000);
        return bytes;
    }
};

}  // namespace dmu
