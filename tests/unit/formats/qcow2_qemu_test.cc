// SPDX-License-Identifier: GPL-2.0-or-later
// qemu as the maker of images: compressed, preallocated, with snapshots and bitmaps; read
// and written by us, and found right by it afterwards.
#include "tests/unit/formats/qcow2_qemu.h"

namespace dmu {
namespace {

TEST_F(Qcow2Qemu, CompressedByIt) {
    for (const char* how : {"zlib", "zstd"}) {
        auto model = content();
        write_file(directory_ / "in.raw", model);
        qemu(std::string("qemu-img convert -c -f raw -O qcow2 -o cluster_size=16k,compression_type=") + how +
             " in.raw c.qcow2");
        both_read("c.qcow2", model);
        write_through_us("c.qcow2", model, 12);
        both_read("c.qcow2", model);
    }
}

TEST_F(Qcow2Qemu, CompressedByUs) {
    for (const char* how : {"zlib", "zstd"}) {
        qemu(std::string("qemu-img create -q -f qcow2 -o cluster_size=16k,compression_type=") + how + " u.qcow2 1M");
        auto model = content();
        {
            auto chain = open("u.qcow2", true);
            ASSERT_NE(chain, nullptr);
            for (std::uint64_t at = 0; at < model.size(); at += 16384)
                ASSERT_OK(chain->top().write_compressed({at}, std::span(model).subspan(at, 16384)));
            ASSERT_OK(chain->top().close());
        }
        EXPECT_LT(std::filesystem::file_size(directory_ / "u.qcow2"), model.size());
        both_read("u.qcow2", model);
        write_through_us("u.qcow2", model, 12);
        both_read("u.qcow2", model);
    }
}

TEST_F(Qcow2Qemu, PlacesKeptForTheFirstWrite) {
    // Zero clusters that keep their place.
    qemu(
        "qemu-img create -q -f qcow2 z.qcow2 1M && qemu-io -c 'write -P 1 0 1M' -c 'write -z 0 512k' z.qcow2 "
        ">/dev/null");
    Bytes model(1 << 20, std::byte{1});
    std::fill_n(model.begin(), 512 << 10, std::byte{0});
    const auto before = std::filesystem::file_size(directory_ / "z.qcow2");
    {
        auto chain = open("z.qcow2", true);
        const auto extents = chain->top().look_up({{0}, 65536});
        ASSERT_OK(extents);
        EXPECT_EQ(extents->front().kind, ExtentKind::zero);
        EXPECT_FALSE(extents->front().leasable);
    }
    write_through_us("z.qcow2", model, 12);
    both_read("z.qcow2", model);
    EXPECT_EQ(std::filesystem::file_size(directory_ / "z.qcow2"), align_up(before, 65536));
}

TEST_F(Qcow2Qemu, ItsSnapshotsAndSubclusters) {
    qemu(
        "qemu-img create -q -f qcow2 -o extended_l2=on s.qcow2 1M && qemu-io -c 'write -P 1 0 300k' s.qcow2 "
        ">/dev/null && qemu-img snapshot -c one s.qcow2");
    Bytes model(1 << 20);
    std::fill_n(model.begin(), 300 << 10, std::byte{1});
    const auto old = model;
    write_through_us("s.qcow2", model, 12);
    both_read("s.qcow2", model);
    {
        auto chain = open("s.qcow2", true);
        ASSERT_OK(chain->top().snapshots()->create("two"));
        ASSERT_OK(chain->top().snapshots()->apply("one"));
        ASSERT_OK(chain->top().close());
    }
    both_read("s.qcow2", old);
    qemu("qemu-img snapshot -a two s.qcow2 && qemu-img snapshot -d one s.qcow2");
    both_read("s.qcow2", model);
}

TEST_F(Qcow2Qemu, ItsBitmapsAreMarkedInUse) {
    qemu("qemu-img create -q -f qcow2 b.qcow2 1M && qemu-img bitmap --add b.qcow2 backup");
    Bytes model(1 << 20);
    EXPECT_EQ(qemu("qemu-img info b.qcow2").find("in-use"), std::string::npos);
    write_through_us("b.qcow2", model, 3);
    EXPECT_NE(qemu("qemu-img info b.qcow2").find("in-use"), std::string::npos);
    both_read("b.qcow2", model);
}

TEST_F(Qcow2Qemu, Resized) {
    for (const std::uint64_t size : {3ull << 20, (70ull << 20) + 512, 1ull << 20, 100ull * 512}) {
        qemu("rm -f r.qcow2 && qemu-img create -q -f qcow2 -o cluster_size=4k r.qcow2 2097664");
        Bytes model(2097664);
        write_through_us("r.qcow2", model, 40);
        {
            auto chain = open("r.qcow2", true);
            ASSERT_OK(chain->top().resize(size));
            EXPECT_EQ(chain->top().info().virtual_size, size);
            ASSERT_OK(chain->top().close());
        }
        model.resize(size);
        both_read("r.qcow2", model);
        write_through_us("r.qcow2", model, 10);
        both_read("r.qcow2", model);
    }
}

TEST_F(Qcow2Qemu, ImageOfAnotherMaker) {
    const char* set = std::getenv("DMU_SAMPLES");
    const auto source = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path().parent_path();
    const auto samples = set != nullptr ? std::filesystem::path(set) : source.parent_path() / "shared" / "samples";
    const auto sample = samples / "dfvfs-ext2.qcow2";
    if (!std::filesystem::exists(sample)) GTEST_SKIP() << "no " << sample << "; DMU_SAMPLES names the directory";
    std::filesystem::copy_file(sample, directory_ / "s.qcow2");
    auto chain = open("s.qcow2", false);
    ASSERT_NE(chain, nullptr);
    Bytes content(chain->top().info().virtual_size);
    EXPECT_EQ(content.size(), 4194304u);
    ASSERT_OK(chain->read({0}, content));
    write_file(directory_ / "s.raw", content);
    const auto sum = run_command("sha256sum '" + (directory_ / "s.raw") + "'").output.substr(0, 64);
    EXPECT_EQ(sum, "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80");
    write_through_us("s.qcow2", content, 10);
    both_read("s.qcow2", content);
}

}  // namespace
}  // namespace dmu
