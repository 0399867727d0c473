// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img's commands on qcow2 and VMDK images, with qemu-img as the judge.
#include "tests/unit/tools/dmu_img.h"

namespace dmu {
namespace {

using ::testing::HasSubstr;

class DmuImgFormats : public DmuImg {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    }
    // The disk "model", random in places, and the words that make an image of it.
    void make_model(std::uint64_t size = 4 << 20) {
        qemu("rm -f model && truncate -s " + std::to_string(size) + " model");
        for (int i = 0; i < 12; i++) {
            const auto at = random_() % (size / 4096),
                       blocks = std::min<std::uint64_t>(1 + random_() % 30, size / 4096 - at);
            qemu("dd if=/dev/urandom of=model bs=4k conv=notrunc status=none seek=" + std::to_string(at) +
                 " count=" + std::to_string(blocks));
        }
    }
    void same(const std::string& format, const std::string& name) {
        qemu("qemu-img compare -f raw -F " + format + " model " + name);
        if (format == "qcow2") qemu("qemu-img check -q -f qcow2 " + name);
        EXPECT_EQ(img("check " + format + ":" + name).status, 0);
    }

    std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
};

// The place of its L1 table is no cluster's.
TEST_F(DmuImgFormats, ACorruptImageEndsWithTwo) {
    qemu("qemu-img create -q -f qcow2 a 1M && printf '\001' | dd of=a bs=1 seek=47 conv=notrunc status=none");
    good("create raw:b 1M");
    for (const char* command :
         {"info qcow2:a", "map qcow2:a", "check qcow2:a", "io -c 'read 0 512' qcow2:a", "convert qcow2:a raw:c",
          "compare qcow2:a raw:b", "snapshot -l qcow2:a", "resize qcow2:a 2M"})
        EXPECT_EQ(img(command).status, 2) << command;
    EXPECT_FALSE(std::filesystem::exists(directory_ / "c"));
}

TEST_F(DmuImgFormats, SnapshotsOfQcow2) {
    make_model();
    qemu("qemu-img convert -f raw -O qcow2 model a");
    good("snapshot -c first qcow2:a");
    good("io -c 'write -P 7 0 1M' qcow2:a");
    good("snapshot -c second qcow2:a");
    const auto listed = shell("qemu-img snapshot -l a").output;
    EXPECT_THAT(listed, HasSubstr("first"));
    EXPECT_THAT(listed, HasSubstr("second"));
    EXPECT_THAT(img("snapshot -l qcow2:a").output, HasSubstr("second"));
    EXPECT_EQ(info("qcow2", "a")["snapshots"].size(), 2u);
    good("snapshot -a first qcow2:a");
    same("qcow2", "a");
    good("snapshot -d second qcow2:a");
    good("snapshot -d first qcow2:a");
    same("qcow2", "a");
    EXPECT_FALSE(info("qcow2", "a").contains("snapshots"));
}

TEST_F(DmuImgFormats, LeaksAreGivenBack) {
    make_model();
    qemu("qemu-img convert -f raw -O qcow2 model a && qemu-img convert -f raw -O vmdk model b");
    // An L1 entry of qcow2 is taken out: what it named is leaked; beside the data it names, zeros are read.
    const auto a = read_file(directory_ / "a");
    const auto l1 = load_be<std::uint64_t>(a, 40);
    qemu("dd if=/dev/zero of=a bs=1 conv=notrunc status=none count=8 seek=" + std::to_string(l1));
    EXPECT_EQ(img("check qcow2:a").status, 3);
    EXPECT_EQ(img("check -r leaks qcow2:a").status, 0);
    qemu("qemu-img check -q -f qcow2 a");
    // Of VMDK a grain that nothing names, at the end.
    qemu("truncate -s +64K b");
    EXPECT_EQ(img("check vmdk:b").status, 3);
    EXPECT_EQ(img("check -r leaks vmdk:b").status, 0);
    same("vmdk", "b");
}

TEST_F(DmuImgFormats, Resize) {
    make_model();
    qemu("qemu-img convert -f raw -O qcow2 model a && qemu-img convert -f raw -O vmdk model b");
    qemu("truncate -s 9M model");
    good("resize qcow2:a 9M");
    good("resize vmdk:b 9M");
    same("qcow2", "a");
    same("vmdk", "b");
    qemu("truncate -s 2M model");
    EXPECT_EQ(img("resize qcow2:a 2M").status, 1);
    good("resize --shrink qcow2:a 2M");
    same("qcow2", "a");
    EXPECT_EQ(theirs("qcow2", "a")["virtual-size"], 2 << 20);
    EXPECT_EQ(img("resize --shrink vmdk:b 2M").status, 1);
    EXPECT_EQ(theirs("vmdk", "b")["virtual-size"], 9 << 20);
}

// What it can't do is refused before anything is changed, and it says what can be done.
TEST_F(DmuImgFormats, ResizeThatIsRefused) {
    make_model();
    const auto refused = [this](const std::string& image, const std::string& size, const char* why) {
        const auto ran = img("resize " + image + " " + size);
        EXPECT_EQ(ran.status, 1) << ran.output;
        EXPECT_THAT(ran.output, HasSubstr(why)) << image;
    };
    for (const std::string kind : {"twoGbMaxExtentSparse", "twoGbMaxExtentFlat"}) {
        good("convert -o extent_size=1048576,subformat=" + kind + " raw:model vmdk:" + kind + ".vmdk");
        refused("vmdk:" + kind + ".vmdk", "9M", "only a disk of one extent can be resized");
        same("vmdk", kind + ".vmdk");
    }
    good("convert -o subformat=vmfsSparse raw:model vmdk:cowd.vmdk");
    refused("vmdk:cowd.vmdk", "9M", "convert it");
    good("compare raw:model vmdk:cowd.vmdk");
    good("convert -o subformat=streamOptimized raw:model vmdk:stream.vmdk");
    refused("vmdk:stream.vmdk", "9M", "reading only");
    EXPECT_THAT(img("io -c 'write -P 1 0 512' vmdk:stream.vmdk").output, HasSubstr("reading only"));
    good("io -r -c 'read 0 512' vmdk:stream.vmdk");
    same("vmdk", "stream.vmdk");
    // As a backing file it does.
    good("create -b vmdk:stream.vmdk vmdk:over.vmdk");
    same("vmdk", "over.vmdk");
    good("io -c 'write -P 6 1000k 300k' vmdk:over.vmdk");
    qemu("cp model changed && qemu-io -f raw -c 'write -P 6 1000k 300k' changed >/dev/null");
    qemu("qemu-img compare -f raw -F vmdk changed over.vmdk");
    good("compare raw:changed vmdk:over.vmdk");
    same("vmdk", "stream.vmdk");
    // Its last cluster is half the backing file's.
    qemu("mv model base && head -c 3100160 base >model && qemu-img create -q -f qcow2 -b base -F raw top 3100160");
    refused("qcow2:top", "9M", "write to it before");
    same("qcow2", "top");
    good("io -c 'write -P 1 3099648 512' qcow2:top");
    qemu("qemu-io -f raw -c 'write -P 1 3099648 512' model >/dev/null && truncate -s 9M model");
    good("resize qcow2:top 9M");
    same("qcow2", "top");
}

TEST_F(DmuImgFormats, CommitAndRebase) {
    for (const std::string format : {"qcow2", "vmdk"}) {
        SCOPED_TRACE(format);
        make_model();
        qemu("rm -f base mid top && qemu-img convert -f raw -O " + format + " model base");
        qemu("qemu-img create -q -f " + format + " -b base -F " + format + " mid && qemu-img create -q -f " + format +
             " -b mid -F " + format + " top");
        const std::string writes = " -c 'write -P 9 1M 200k'", more = " -c 'write -P 4 2M 64k'";
        qemu("qemu-io -f raw" + writes + more + " model >/dev/null");
        good("io" + writes + " " + format + ":mid");
        // The overlay of a VMDK knows by the CID that its parent has changed.
        if (format == "vmdk") {
            EXPECT_EQ(img("io -c 'read 0 512' vmdk:top").status, 2);
            good("rebase -u -b vmdk:mid vmdk:top");
        }
        good("io" + more + " " + format + ":top");
        same(format, "top");
        good("commit " + format + ":top");
        same(format, "top");
        same(format, "mid");
        good("rebase -b " + format + ":base " + format + ":top");
        same(format, "top");
        EXPECT_EQ(info(format, "top")["backing-filename"], "base");
        good("rebase " + format + ":top");
        qemu("rm base mid");
        same(format, "top");
    }
}

TEST_F(DmuImgFormats, ConvertedToEachKindOfVmdk) {
    make_model();
    for (const char* kind :
         {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}) {
        SCOPED_TRACE(kind);
        const auto name = std::string(kind) + ".vmdk";
        good("convert -o subformat=" + std::string(kind) + " raw:model vmdk:" + name);
        same("vmdk", name);
        good("compare raw:model vmdk:" + name);
        EXPECT_THAT(img("info vmdk:" + name).output, HasSubstr(kind));
    }
    good("convert -o subformat=vmfsSparse raw:model vmdk:cowd.vmdk");
    good("compare raw:model vmdk:cowd.vmdk");
    EXPECT_EQ(img("check vmdk:cowd.vmdk").status, 0);
}

}  // namespace
}  // namespace dmu
