// SPDX-License-Identifier: GPL-2.0-or-later
// What a compressed cluster of zstd may hold: frames that no writer we know makes, but
// that readers of frames take. qemu is the judge of each.
#include <zstd.h>

#include "tests/unit/formats/qcow2_qemu.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 65536;

Bytes joined_bytes(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}

Bytes frame(std::span<const std::byte> content, bool checksum = false, bool says_size = true) {
    const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, checksum ? 1 : 0);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_contentSizeFlag, says_size ? 1 : 0);
    Bytes out(ZSTD_compressBound(content.size()));
    out.resize(ZSTD_compress2(context.get(), out.data(), out.size(), content.data(), content.size()));
    return out;
}

Bytes skippable(unsigned kind, const Bytes& content) {
    Bytes out(8);
    for (unsigned i = 0; i < 4; i++) {
        out[i] = static_cast<std::byte>((0x184d2a50 + kind) >> 8 * i);
        out[4 + i] = static_cast<std::byte>(content.size() >> 8 * i);
    }
    return joined_bytes({out, content});
}

class Qcow2Zstd : public Qcow2Qemu {
protected:
    // The second cluster's stream becomes this one; its length counts in sectors from the
    // sector it starts in.
    void put(const Bytes& stream) {
        qemu(
            "rm -f z && qemu-img create -q -f qcow2 -o compression_type=zstd z 1M && "
            "qemu-io -f qcow2 -c 'write -c -P 1 0 64k' -c 'write -c -P 2 64k 64k' z >/dev/null");
        auto raw = read_file(directory_ / "z");
        const auto l1 = load_be<std::uint64_t>(raw, 40);
        const auto entry = (load_be<std::uint64_t>(raw, l1) & 0x00fffffffffffe00) + 8;
        auto word = load_be<std::uint64_t>(raw, entry);
        ASSERT_EQ(word >> 62, 1u);
        const auto offset = word & ((1ull << 54) - 1);
        ASSERT_LE(offset % cluster + stream.size(), cluster);
        const auto more = (offset % 512 + stream.size() - 1) / 512;
        raw.resize(align_up(std::max<std::uint64_t>(raw.size(), offset + stream.size()), 512));
        std::copy(stream.begin(), stream.end(), raw.begin() + static_cast<std::ptrdiff_t>(offset));
        store_be<std::uint64_t>(raw, entry, 1ull << 62 | more << 54 | offset);
        write_file(directory_ / "z", raw);
    }
    // The cluster's content; or nothing, where both say that it is broken.
    std::optional<Bytes> seen_by_both() {
        const auto theirs = run_command("cd '" + directory_.path() + "' && qemu-img convert -f qcow2 -O raw z out.raw");
        auto chain = open("z", false);
        if (chain == nullptr) return std::nullopt;
        Bytes ours(cluster), before(cluster);
        EXPECT_OK(chain->read({0}, before));
        EXPECT_EQ(before, Bytes(cluster, std::byte{1}));
        const auto done = chain->read({cluster}, ours);
        EXPECT_EQ(static_cast<bool>(done), theirs.status == 0) << theirs.output;
        if (!done) {
            EXPECT_EQ(done.error().code, Code::corrupt) << done.error().message;
            return std::nullopt;
        }
        const auto out = read_file(directory_ / "out.raw");
        EXPECT_TRUE(std::equal(ours.begin(), ours.end(), out.begin() + cluster));
        return ours;
    }
    // Compresses, but not to nothing.
    Bytes cluster_of_text() {
        Bytes bytes(cluster);
        for (auto& byte : bytes) byte = static_cast<std::byte>('a' + random_() % 4);
        return bytes;
    }
    const Bytes content_ = cluster_of_text();
    std::span<const std::byte> part(std::size_t from, std::size_t to) const {
        return std::span(content_).subspan(from, to - from);
    }
};

TEST_F(Qcow2Zstd, SeveralFrames) {
    Bytes many;
    for (std::size_t at = 0; at < cluster; at += 2048) {
        const auto next = frame(part(at, at + 2048), at % 4096 == 0, at % 8192 == 0);
        many.insert(many.end(), next.begin(), next.end());
    }
    const auto cut = 1 + random_() % (cluster - 1);
    const std::pair<const char*, Bytes> streams[] = {
        {"one", frame(content_)},
        {"with a checksum", frame(content_, true)},
        {"of a size not said", frame(content_, true, false)},
        {"two", joined_bytes({frame(part(0, cluster / 2)), frame(part(cluster / 2, cluster))})},
        {"two, cut anywhere", joined_bytes({frame(part(0, cut), true), frame(part(cut, cluster), false, false)})},
        {"an empty one between", joined_bytes({frame(part(0, 1000)), frame({}), frame(part(1000, cluster))})},
        {"many", many},
        {"something behind", joined_bytes({frame(content_), pattern(100, 1)})},
        {"another frame behind", joined_bytes({frame(content_), frame(content_)})},
    };
    for (const auto& [name, stream] : streams) {
        SCOPED_TRACE(name);
        ASSERT_NO_FATAL_FAILURE(put(stream));
        EXPECT_EQ(seen_by_both(), content_);
    }
    // And what is written over it.
    auto model = read_file(directory_ / "out.raw");
    write_through_us("z", model, 8);
    both_read("z", model);
}

TEST_F(Qcow2Zstd, SkippableFrames) {
    const std::pair<const char*, Bytes> streams[] = {
        {"first", joined_bytes({skippable(0, pattern(300, 1)), frame(content_)})},
        {"between",
         joined_bytes({frame(part(0, 30000)), skippable(15, pattern(5, 2)), frame(part(30000, cluster), true)})},
        {"empty", joined_bytes({skippable(7, {}), skippable(7, {}), frame(content_), skippable(7, {})})},
    };
    for (const auto& [name, stream] : streams) {
        SCOPED_TRACE(name);
        ASSERT_NO_FATAL_FAILURE(put(stream));
        EXPECT_EQ(seen_by_both(), content_);
    }
}

TEST_F(Qcow2Zstd, BrokenStreams) {
    auto larger = content_;
    larger.resize(cluster + 1);
    auto whole = frame(content_, true);
    auto wrong = whole;
    wrong.back() ^= std::byte{1};
    const auto second = frame(part(30000, cluster));
    const std::pair<const char*, Bytes> streams[] = {
        {"too short", frame(part(0, cluster - 1))},
        {"too long", frame(larger)},
        {"too long by its second frame", joined_bytes({frame(part(0, 1000)), frame(content_)})},
        {"cut", Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() - 600))},
        {"the second cut", joined_bytes({frame(part(0, 30000)), Bytes(second.begin(), second.end() - 600), Bytes(20)})},
        {"garbage between", joined_bytes({frame(part(0, 30000)), pattern(8, 1), second})},
        {"a wrong checksum", wrong},
        {"only skipped", skippable(3, pattern(100, 3))},
        {"a skippable one without an end",
         joined_bytes({Bytes{std::byte{0x50}, std::byte{0x2a}, std::byte{0x4d}, std::byte{0x18}, std::byte{0xff},
                             std::byte{0xff}, std::byte{0xff}, std::byte{0x7f}},
                       frame(content_)})},
        {"no frame", pattern(3000, 4)},
    };
    for (const auto& [name, stream] : streams) {
        SCOPED_TRACE(name);
        ASSERT_NO_FATAL_FAILURE(put(stream));
        EXPECT_EQ(seen_by_both(), std::nullopt);
    }
}

}  // namespace
}  // namespace dmu
