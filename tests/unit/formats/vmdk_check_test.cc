// SPDX-License-Identifier: GPL-2.0-or-later
// What a check finds and a repair mends; each damage is made by hand.
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

// Sectors of the image: 0 header, 1 descriptor, 21 redundant directory, 22 its two tables,
// 30 directory, 31 its tables, 48 grains.
constexpr std::size_t rgd = 21, rgt = 22, gd = 30, gt = 31, grains = 48;

class VmdkCheck : public ::testing::Test {
protected:
    void SetUp() override {
        disks_.put("/m/d.vmdk", encode_hosted_extent(some_content(10000, 16, 3, disk_), {2, 7, descriptor_text("")}));
        const auto report = check();
        EXPECT_EQ(report.corruptions + report.leaks, 0u) << joined(report.messages);
        EXPECT_EQ(report.total, 625u);
        EXPECT_GT(report.allocated, 100u);
    }
    CheckReport check(Repair repair = Repair::none) {
        const auto report = disks_.check_vmdk("/m/d.vmdk", repair);
        EXPECT_OK(report);
        return report ? *report : CheckReport{};
    }
    Bytes& raw() { return disks_.stores["/m/d.vmdk"]->bytes; }
    void is_whole() {
        const auto report = check();
        EXPECT_EQ(report.corruptions + report.leaks, 0u) << joined(report.messages);
        const auto content = disks_.content("vmdk:/m/d.vmdk");
        ASSERT_OK(content);
        EXPECT_TRUE(*content == disk_);
    }
    VmdkDisks disks_;
    Bytes disk_;
};

TEST_F(VmdkCheck, AnEntryFromTheOtherCopy) {
    for (const auto table : {gt, rgt}) {
        put_le<std::uint32_t>(raw(), table * 512 + 624 % 512 * 4 + 2048, 0xffffff);
        EXPECT_EQ(check().corruptions, 1u);
        EXPECT_EQ(check(Repair::leaks).corruptions_fixed, 0u);
        EXPECT_EQ(check(Repair::all).corruptions_fixed, 1u);
        is_whole();
    }
}

TEST_F(VmdkCheck, ATableFromTheOtherCopy) {
    for (const auto directory : {gd, rgd}) {
        put_le<std::uint32_t>(raw(), directory * 512, 0xffffff);
        EXPECT_GE(check().corruptions, 1u);
        EXPECT_GE(check(Repair::all).corruptions_fixed, 1u);
        const auto content = disks_.content("vmdk:/m/d.vmdk");
        ASSERT_OK(content);
        EXPECT_TRUE(*content == disk_);
        EXPECT_EQ(check().corruptions, 0u);
    }
}

TEST_F(VmdkCheck, BothCopiesOfATableLost) {
    put_le<std::uint32_t>(raw(), gd * 512, 0xffffff);
    put_le<std::uint32_t>(raw(), rgd * 512, 0xffffff);
    const auto report = check(Repair::all);
    EXPECT_EQ(report.corruptions, 2u);
    EXPECT_EQ(report.corruptions_fixed, 0u);
}

TEST_F(VmdkCheck, CopiesThatDiffer) {
    put_le<std::uint32_t>(raw(), rgt * 512, 1);
    put_le<std::uint32_t>(raw(), rgt * 512 + 4, 0);
    auto report = check();
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_EQ(report.leaks, 1u);
    EXPECT_EQ(check(Repair::leaks).leaks_fixed, 1u);
    is_whole();
}

// Opened for writing, a table whose copies differ is written to both when it changes.
TEST_F(VmdkCheck, CopiesThatDifferAreOneAfterAWrite) {
    put_le<std::uint32_t>(raw(), rgt * 512, 1);
    auto chain = disks_.chain("vmdk:/m/d.vmdk", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    std::uint64_t at = 0;
    while (at < 400 && !std::all_of(disk_.begin() + static_cast<std::ptrdiff_t>(at * 8192),
                                    disk_.begin() + static_cast<std::ptrdiff_t>((at + 1) * 8192),
                                    [](std::byte b) { return b == std::byte{0}; }))
        at++;
    ASSERT_OK(target.write({at * 8192}, pattern(8192, 1)));
    put_bytes(disk_, at * 8192, pattern(8192, 1));
    ASSERT_OK((*chain)->top().close());
    is_whole();
}

TEST_F(VmdkCheck, AGrainUsedTwice) {
    std::size_t used = 0;
    for (std::size_t i = 0; i < 512 && used < 2; i++)
        for (const auto table : {gt, rgt})
            if (load_le<std::uint32_t>(raw(), table * 512 + i * 4) > 1) {
                put_le<std::uint32_t>(raw(), table * 512 + i * 4, grains);
                used += table == rgt ? 1 : 0;
            }
    EXPECT_EQ(check().corruptions, 1u);
    EXPECT_EQ(check(Repair::all).corruptions_fixed, 0u);
    EXPECT_EQ(check().corruptions, 1u);
}

TEST_F(VmdkCheck, SpaceAtTheEnd) {
    raw().resize(raw().size() + 5 * 8192);
    EXPECT_EQ(check().leaks, 5u);
    EXPECT_EQ(check(Repair::leaks).leaks_fixed, 5u);
    is_whole();
}

TEST_F(VmdkCheck, EveryExtentOfADisk) {
    VmdkDisks disks;
    ASSERT_OK(disks.create_vmdk("/m/t.vmdk", 4 << 20,
                                {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}}, 8192));
    put_le<std::uint32_t>(disks.stores["/m/t-s003.vmdk"]->bytes, 20, 7);
    const auto report = disks.check_vmdk("/m/t.vmdk");
    ASSERT_OK(report);
    EXPECT_EQ(report->corruptions, 1u);
    EXPECT_NE(joined(report->messages).find("t-s003.vmdk"), std::string::npos);
    disks.stores.erase("/m/t-s002.vmdk");
    EXPECT_TRUE(fails_with(disks.check_vmdk("/m/t.vmdk"), Code::not_found, "s002"));
}

TEST_F(VmdkCheck, CompressedGrainsThatOverlap) {
    Bytes disk;
    const auto content = some_content(1000, 128, 1, disk);
    disks_.put("/m/d.vmdk", encode_stream(content, descriptor_text("")));
    EXPECT_EQ(check().corruptions, 0u);
    put_le<std::uint32_t>(raw(), 128 * 512 + 8, 65600);
    EXPECT_EQ(check().corruptions, content.grains.size() > 1 ? 0u : 1u);
    put_le<std::uint32_t>(raw(), 128 * 512 + 8, 69000);
    EXPECT_EQ(check().corruptions, 1u);
}

}  // namespace
}  // namespace dmu
