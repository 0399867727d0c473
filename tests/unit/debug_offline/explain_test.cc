// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/explain.h"

#include <cstring>

#include "formats/core/endian.h"
#include "tests/unit/debug_offline/support.h"
#include "tools/debug/offline/journal_block.h"

namespace dmu::debug {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Explain : public ::testing::Test {
protected:
    void shell(const std::string& command) const {
        const auto whole =
            "cd '" + directory_.path() + "' && export PATH=$PATH:/sbin:/usr/sbin && (" + command + ") >out 2>&1";
        ASSERT_EQ(std::system(whole.c_str()), 0) << command << ": " << text_of(read_file(directory_ / "out"));
    }
    static bool has(const std::string& program) {
        return std::system(("PATH=$PATH:/sbin:/usr/sbin command -v " + program + " >/dev/null").c_str()) == 0;
    }
    static std::string text_of(const Bytes& bytes) {
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    std::unique_ptr<Explainer> open(const std::string& path) {
        auto opened = open_explainer(path);
        EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
        return std::move(*opened);
    }
    // Where debugfs says that a file's first block is.
    std::uint64_t block_of(const std::string& image, const std::string& file) {
        shell("debugfs -R 'blocks " + file + "' " + image + " 2>/dev/null >where");
        return std::stoull(text_of(read_file(directory_ / "where")));
    }
    TempDir directory_;
    std::string image_ = directory_ / "image";
};

// debugfs is the judge: what it says where things are.
TEST_F(Explain, Ext4) {
    if (!has("mke2fs") || !has("debugfs")) GTEST_SKIP() << "no mke2fs and debugfs";
    shell(
        "truncate -s 32M image && mke2fs -q -t ext4 -b 4096 image && echo hello >h && mkdir d && "
        "debugfs -w -R 'mkdir sub' image && debugfs -w -R 'write h /sub/hello.txt' image");
    const auto explainer = open(image_);
    EXPECT_EQ(explainer->line(2, 2), "ext4 super block");
    EXPECT_EQ(explainer->line(8, 8), "ext4 group descriptors");
    EXPECT_EQ(explainer->line(block_of(image_, "sub/hello.txt") * 8, 8), "ext4 file /sub/hello.txt (inode 13)");
    EXPECT_EQ(explainer->line(block_of(image_, "sub") * 8, 8), "ext4 directory /sub (inode 12)");
    EXPECT_EQ(explainer->line(block_of(image_, "/") * 8, 8), "ext4 directory / (inode 2)");
    EXPECT_EQ(explainer->line(block_of(image_, "<8>") * 8, 8), "ext4 journal block 0: super block, empty");
    shell("dumpe2fs image 2>/dev/null | sed -n 's/.*Block bitmap at \\([0-9]*\\).*/\\1/p' | head -1 >where");
    const auto bitmap = std::stoull(text_of(read_file(directory_ / "where")));
    EXPECT_EQ(explainer->line(bitmap * 8, 8), "ext4 block bitmap of group 0");
    shell("dumpe2fs image 2>/dev/null | sed -n 's/.*Inode table at \\([0-9]*\\)-.*/\\1/p' | head -1 >where");
    const auto table = std::stoull(text_of(read_file(directory_ / "where")));
    EXPECT_EQ(explainer->line(table * 8, 8), "ext4 inodes 1-16 (/, <resize>, <journal>, /lost+found, ...)");
    EXPECT_EQ(explainer->line(table * 8 + 16, 64), "ext4 inode table of group 0");
    // All of the device, without gaps.
    std::uint64_t at = 0;
    for (const auto& part : explainer->explain(0, 65536)) {
        EXPECT_EQ(part.sector, at);
        at += part.sectors;
    }
    EXPECT_EQ(at, 65536u);
    // Parts of blocks, too.
    const auto parts = explainer->explain(0, 3);
    ASSERT_EQ(parts.size(), 1u);
    EXPECT_EQ(parts[0].sectors, 3u);
}

TEST_F(Explain, ASecondLookIsAnew) {
    if (!has("mke2fs")) GTEST_SKIP() << "no mke2fs";
    shell("truncate -s 8M image");
    const auto explainer = open(image_);
    EXPECT_EQ(explainer->line(2, 2), "no file system that is known");
    shell("mke2fs -q -t ext4 image");
    explainer->refresh();
    EXPECT_EQ(explainer->line(2, 2), "ext4 super block");
}

TEST_F(Explain, Xfs) {
    if (!has("mkfs.xfs")) GTEST_SKIP() << "no mkfs.xfs";
    shell("truncate -s 400M image && mkfs.xfs -q image");
    const auto explainer = open(image_);
    EXPECT_EQ(explainer->line(0, 1), "XFS super block of group 0");
    EXPECT_EQ(explainer->line(2, 1), "XFS inode header (AGI) of group 0");
    shell("xfs_db -r -c 'sb 0' -c 'p logstart logblocks agblklog agblocks' image >where");
    const auto text = text_of(read_file(directory_ / "where"));
    const auto value = [&](const std::string& name) {
        return std::stoull(text.substr(text.find(name + " = ") + name.size() + 3));
    };
    const auto packed = value("logstart");
    const auto block = (packed >> value("agblklog")) * value("agblocks") + (packed & ((1ull << value("agblklog")) - 1));
    EXPECT_EQ(explainer->line(block * 8, value("logblocks") * 8), "XFS log");
    EXPECT_NE(explainer->line(block * 8 - 8, 8), "XFS log");
}

TEST_F(Explain, PartitionsOfAnMbr) {
    if (!has("mke2fs")) GTEST_SKIP() << "no mke2fs";
    Bytes mbr(512);
    const auto entry = [&](std::size_t number, std::uint32_t start, std::uint32_t sectors) {
        const auto at = 446 + 16 * number;
        mbr[at + 4] = std::byte{0x83};
        store_le(std::span(mbr), at + 8, start);
        store_le(std::span(mbr), at + 12, sectors);
    };
    entry(0, 2048, 16384);
    entry(1, 20480, 4096);
    mbr[510] = std::byte{0x55}, mbr[511] = std::byte{0xaa};
    write_file(image_, mbr);
    shell("truncate -s 16M image && mke2fs -q -t ext4 -b 1024 -E offset=1048576 image 8M");
    const auto explainer = open(image_);
    EXPECT_EQ(explainer->line(0, 1), "partition table (MBR)");
    EXPECT_EQ(explainer->line(1, 10), "unused");
    EXPECT_EQ(explainer->line(2050, 2), "partition 1: ext4 super block");
    EXPECT_EQ(explainer->line(20480, 8), "partition 2: no file system that is known");
    EXPECT_EQ(explainer->line(0, 2052), "partition table (MBR); unused; partition 1: boot block; ...");
}

std::uint32_t crc32(std::span<const std::byte> bytes) {
    std::uint32_t crc = ~0u;
    for (const auto byte : bytes) {
        crc ^= std::to_integer<std::uint32_t>(byte);
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0u);
    }
    return ~crc;
}

// libblkid checks the sums.
TEST_F(Explain, PartitionsOfAGpt) {
    if (!has("mke2fs")) GTEST_SKIP() << "no mke2fs";
    constexpr std::uint64_t last = 32767;
    Bytes table(34 * 512);
    const auto entries = std::span(table).subspan(1024);
    const auto entry = [&](std::size_t number, std::uint64_t start, std::uint64_t sectors) {
        const auto one = entries.subspan(128 * number);
        one[0] = one[16] = static_cast<std::byte>(number + 1);  // type and partition
        store_le(one, 32, start);
        store_le(one, 40, start + sectors - 1);
    };
    entry(0, 2048, 16384);
    entry(1, 20480, 4096);
    const auto header = std::span(table).subspan(512, 92);
    std::memcpy(header.data(), "EFI PART", 8);
    store_le<std::uint32_t>(header, 8, 0x10000);
    store_le<std::uint32_t>(header, 12, 92);
    store_le<std::uint64_t>(header, 24, 1);
    store_le<std::uint64_t>(header, 32, last);
    store_le<std::uint64_t>(header, 40, 34);
    store_le<std::uint64_t>(header, 48, last - 33);
    header[56] = std::byte{1};
    store_le<std::uint64_t>(header, 72, 2);
    store_le<std::uint32_t>(header, 80, 128);
    store_le<std::uint32_t>(header, 84, 128);
    store_le<std::uint32_t>(header, 88, crc32(entries));
    store_le<std::uint32_t>(header, 16, crc32(header));
    table[446 + 4] = std::byte{0xee};
    store_le<std::uint32_t>(std::span(table), 446 + 8, 1);
    store_le<std::uint32_t>(std::span(table), 446 + 12, last);
    table[510] = std::byte{0x55}, table[511] = std::byte{0xaa};
    write_file(image_, table);
    shell("truncate -s 16M image && mke2fs -q -t ext4 -b 1024 -E offset=1048576 image 8M");
    const auto explainer = open(image_);
    EXPECT_EQ(explainer->line(0, 34), "protective MBR; GPT header; GPT entries");
    EXPECT_EQ(explainer->line(34, 8), "unused");
    EXPECT_EQ(explainer->line(2050, 2), "partition 1: ext4 super block");
    EXPECT_EQ(explainer->line(20480, 8), "partition 2: no file system that is known");
    EXPECT_EQ(explainer->line(last - 32, 33), "GPT entries (backup); GPT header (backup)");
}

TEST_F(Explain, WhatIsNotThere) {
    EXPECT_EQ(open_explainer(directory_ / "none").error().code, Code::not_found);
}

Bytes journal_block(std::uint32_t kind, std::uint32_t transaction) {
    Bytes block(1024);
    store_be<std::uint32_t>(block, 0, 0xc03b3998);
    store_be<std::uint32_t>(block, 4, kind);
    store_be<std::uint32_t>(block, 8, transaction);
    return block;
}

TEST(JournalBlock, SaysItsKind) {
    const JournalFormat format;
    EXPECT_EQ(format.examine(journal_block(2, 7)).text, "commit of transaction 7");
    EXPECT_EQ(format.examine(Bytes(1024)).text, "");
    EXPECT_EQ(format.examine(Bytes(12)).text, "");
}

TEST(JournalBlock, ListsTheTagsOfADescriptor) {
    // The oldest form: number, flags; a UUID of 16 bytes behind the first.
    auto old = journal_block(1, 3);
    store_be<std::uint32_t>(old, 12, 100);
    store_be<std::uint32_t>(old, 12 + 8 + 16, 200);
    store_be<std::uint16_t>(old, 12 + 8 + 16 + 6, 2 | 8);
    EXPECT_THAT(JournalFormat{}.examine(old).blocks, ElementsAre(100, 200));
    // Version 3: number, flags, upper half, checksum.
    auto wide = journal_block(1, 3);
    store_be<std::uint32_t>(wide, 12, 5);
    store_be<std::uint32_t>(wide, 16, 2);
    store_be<std::uint32_t>(wide, 28, 6);
    store_be<std::uint32_t>(wide, 32, 2 | 8);
    store_be<std::uint32_t>(wide, 36, 1);
    EXPECT_THAT((JournalFormat{true, false, true}.examine(wide).blocks), ElementsAre(5, (1ull << 32) + 6));
    // Without an end it ends with the block.
    EXPECT_EQ((JournalFormat{true, false, true}.examine(journal_block(1, 3)).blocks.size()), 32u);
}

TEST(JournalBlock, ListsRevokedBlocks) {
    auto block = journal_block(5, 9);
    store_be<std::uint32_t>(block, 12, 16 + 8);
    store_be<std::uint32_t>(block, 16, 77);
    store_be<std::uint32_t>(block, 20, 78);
    const auto kind = JournalFormat{}.examine(block);
    EXPECT_EQ(kind.text, "revocation of transaction 9");
    EXPECT_THAT(kind.blocks, ElementsAre(77, 78));
    store_be<std::uint32_t>(block, 12, UINT32_MAX);
    EXPECT_EQ(JournalFormat{}.examine(block).blocks.size(), (1024u - 16) / 4);
}

}  // namespace
}  // namespace dmu::debug
