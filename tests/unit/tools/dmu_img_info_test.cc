// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img info --json beside qemu-img info --output=json, field by field, for what either
// makes. Where they differ on purpose, a test says how.
#include "tests/unit/tools/dmu_img.h"

namespace dmu {
namespace {

class DmuImgInfo : public DmuImg {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    }
    void create(const std::string& format, const std::string& options, const std::string& name = "a") const {
        qemu("rm -f " + name + " data; qemu-img create -q" +
             (options.starts_with("encrypt") ? " --object secret,id=s,file=key" : "") + " -f " + format +
             (options.empty() ? "" : " -o " + options) + " " + name + " 3M");
    }
    static void says_all_of(const Json& ours, const Json& theirs, const std::string& where) {
        if (theirs.is_object()) return says_all(ours, theirs, where);
        if (!theirs.is_array()) {
            EXPECT_EQ(ours, theirs) << where;
            return;
        }
        ASSERT_EQ(ours.size(), theirs.size()) << where << ours.dump();
        for (std::size_t i = 0; i < theirs.size(); i++)
            says_all_of(ours[i], theirs[i], where + "/" + std::to_string(i));
    }
    // All that qemu-img says is said here, and is the same.
    static void says_all(const Json& ours, const Json& theirs, const std::string& where) {
        for (const auto& [key, value] : theirs.items()) {
            // Ours is the path as the policy sees it.
            if (key == "full-backing-filename") continue;
            const auto path = where + "/" + key;
            ASSERT_TRUE(ours.contains(key)) << path << ": " << theirs.dump();
            says_all_of(ours[key], value, path);
        }
    }

    void same(const std::string& format, const std::string& what, const std::string& name = "a") const {
        says_all(info(format, name), theirs(format, name), what);
    }
};

TEST_F(DmuImgInfo, Qcow2) {
    for (const char* options : {"compat=0.10", "lazy_refcounts=on", "extended_l2=on,cluster_size=32k",
                                "refcount_bits=1", "compression_type=zstd", "data_file=data,data_file_raw=on"}) {
        qemu("rm -f a data && qemu-img create -q -f qcow2 -o " + std::string(options) + " a 3M");
        says_all(info("qcow2", "a"), theirs("qcow2", "a"), options);
    }
    qemu("qemu-img create -q -f raw base 1M && qemu-img create -q -f qcow2 -b base -F raw top 2M");
    says_all(info("qcow2", "top"), theirs("qcow2", "top"), "top");
    // Bit 0 of the incompatible features.
    qemu(
        "qemu-img create -q -f qcow2 -o lazy_refcounts=on d 1M && printf '\\001' | dd of=d bs=1 seek=79 conv=notrunc "
        "status=none");
    EXPECT_EQ(info("qcow2", "d")["dirty-flag"], true);
}

TEST_F(DmuImgInfo, Encrypted) {
    qemu("printf word >key");
    const std::string luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    for (const std::string& options :
         {luks,
          luks +
              ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512",
          std::string("encrypt.format=aes,encrypt.key-secret=s")}) {
        create("qcow2", options);
        same("qcow2", options);
    }
    EXPECT_EQ(info("qcow2", "a")["encrypted"], true);
    good("create -o encryption=luks,key-file=key,iter_time=10 qcow2:b 3M");
    same("qcow2", "ours", "b");
    const auto slots = info("qcow2", "b")["format-specific"]["data"]["encrypt"]["slots"];
    EXPECT_EQ(slots.size(), 8u);
    EXPECT_EQ(slots[0]["active"], true);
    EXPECT_EQ(slots[1]["active"], false);
    create("qcow", "encrypt.format=aes,encrypt.key-secret=s");
    same("qcow", "qcow");
}

TEST_F(DmuImgInfo, Bitmaps) {
    create("qcow2", "");
    qemu("qemu-img bitmap --add -g 128k a one && qemu-img bitmap --add --disable a two");
    same("qcow2", "bitmaps");
    const auto bitmaps = [this] { return info("qcow2", "a")["format-specific"]["data"]["bitmaps"]; };
    EXPECT_EQ(bitmaps().size(), 2u);
    EXPECT_EQ(bitmaps()[1]["flags"], Json::array());
    good("io -c 'write -P 1 0 64k' qcow2:a");
    same("qcow2", "bitmaps in use");
    EXPECT_EQ(bitmaps()[0]["flags"], (Json{"in-use", "auto"}));
    EXPECT_THAT(img("info qcow2:a").output,
                ::testing::HasSubstr("    bitmaps:\n        [0]:\n            name: one\n"));
}

// "icount" is of QEMU's own record and replay.
TEST_F(DmuImgInfo, Snapshots) {
    create("qcow2", "");
    qemu("qemu-img snapshot -c first a && qemu-img snapshot -c 'the second' a");
    good("snapshot -c third qcow2:a");
    const auto ours = info("qcow2", "a")["snapshots"];
    auto expected = theirs("qcow2", "a")["snapshots"];
    ASSERT_EQ(ours.size(), 3u);
    for (auto& snapshot : expected) snapshot.erase("icount");
    EXPECT_EQ(ours, expected);
}

TEST_F(DmuImgInfo, VmdkOfOneFile) {
    for (const std::string options :
         {"subformat=monolithicSparse", "subformat=monolithicSparse,zeroed_grain=on", "subformat=streamOptimized"}) {
        create("vmdk", options);
        same("vmdk", options);
    }
    qemu("qemu-img create -q -f vmdk -b a -F vmdk top");
    same("vmdk", "top", "top");
    for (const std::string options : {"-o subformat=streamOptimized", "--cluster-size 8k"}) {
        qemu("rm -f b");
        good("create " + options + " vmdk:b 3M");
        same("vmdk", options, "b");
    }
}

// Nothing but the descriptor is opened: what the other files take, and their grains, is
// known to qemu-img only.
TEST_F(DmuImgInfo, VmdkOfSeveralFiles) {
    const auto same_but_files = [this](const std::string& name, const std::string& what) {
        auto expected = theirs("vmdk", name);
        expected.erase("actual-size");
        expected.erase("cluster-size");
        for (auto& extent : expected["format-specific"]["data"]["extents"]) extent.erase("cluster-size");
        says_all(info("vmdk", name), expected, what);
    };
    for (const std::string kind : {"monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"}) {
        create("vmdk", "subformat=" + kind);
        same_but_files("a", kind);
        qemu("qemu-img create -q -f vmdk -o subformat=" + kind + " large 5G");
        same_but_files("large", kind + " of 5 GiB");
        qemu("rm -f large* a-*");
    }
    good("create -o subformat=vmfsSparse vmdk:c.vmdk 3M");
    same_but_files("c.vmdk", "vmfsSparse");
    good("create -o subformat=twoGbMaxExtentSparse,extent_size=1048576 vmdk:d.vmdk 3M");
    same_but_files("d.vmdk", "split by us");
    EXPECT_EQ(info("vmdk", "d.vmdk")["format-specific"]["data"]["extents"].size(), 3u);
    // Of a disk in another directory they are named with it.
    qemu("mkdir sub && mv d* sub");
    same_but_files("sub/d.vmdk", "in another directory");
    // qemu-img drops the line of an extent that is zeros; the disk is as long as all of them.
    qemu("printf 'RW 2048 ZERO\n' >>sub/d.vmdk");
    const auto data = info("vmdk", "sub/d.vmdk")["format-specific"]["data"];
    EXPECT_EQ(data["extents"].size(), 4u);
    EXPECT_EQ(data["extents"][3], (Json{{"format", "ZERO"}, {"virtual-size", 1 << 20}}));
    EXPECT_EQ(info("vmdk", "sub/d.vmdk")["virtual-size"], 4 << 20);
    EXPECT_EQ(theirs("vmdk", "sub/d.vmdk")["virtual-size"], 3 << 20);
}

}  // namespace
}  // namespace dmu
