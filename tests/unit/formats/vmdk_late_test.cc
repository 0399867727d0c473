// SPDX-License-Identifier: GPL-2.0-or-later
// Extents of a split disk that are made when they are first written to.
#include "tests/unit/formats/joint_recording.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t extent_bytes = 1 << 20, disk_bytes = 4 * extent_bytes;

Options lazy(const std::string& zeroed = "off") {
    return {{"subformat", "twoGbMaxExtentSparse"},
            {"extent_size", std::to_string(extent_bytes)},
            {"lazy_extents", "on"},
            {"zeroed_grain", zeroed}};
}

class VmdkLate : public ::testing::Test {
protected:
    void make(const Options& options = lazy(), const std::string& backing = "") {
        ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", disk_bytes, options, 8192, backing));
    }
    void make_overlay(const std::string& zeroed) {
        base_ = pattern(disk_bytes, 9);
        disks_.put("/m/base-flat.vmdk", base_);
        disks_.put("/m/base.vmdk", descriptor_text("RW 8192 FLAT \"base-flat.vmdk\" 0\n"));
        make(lazy(zeroed), "base.vmdk");
    }
    std::unique_ptr<Chain> open(bool writable = true) {
        auto chain = disks_.chain("vmdk:/m/d.vmdk", writable);
        EXPECT_OK(chain);
        return chain ? std::move(*chain) : nullptr;
    }
    bool is_there(int number) const { return disks_.stores.count("/m/d-s00" + std::to_string(number) + ".vmdk") != 0; }
    std::string text() const {
        const auto& bytes = disks_.stores.at("/m/d.vmdk")->bytes;
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    void replace_in_text(const std::string& from, const std::string& to) {
        auto changed = text();
        changed.replace(changed.find(from), from.size(), to);
        disks_.put("/m/d.vmdk", changed);
    }

    VmdkDisks disks_;
    Bytes base_;
};

TEST_F(VmdkLate, OnlyTheFirstIsMade) {
    make();
    EXPECT_TRUE(is_there(1));
    EXPECT_FALSE(is_there(2) || is_there(3) || is_there(4));
    EXPECT_NE(text().find("ddb.dmuMade = \"1000\""), std::string::npos);
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
    const auto content = disks_.content("vmdk:/m/d.vmdk");
    ASSERT_OK(content);
    EXPECT_EQ(*content, Bytes(disk_bytes));
    EXPECT_FALSE(is_there(2));
    const auto chain = open();
    EXPECT_EQ(chain->files().size(), 2u);
}

TEST_F(VmdkLate, TheFirstWriteMakesIt) {
    make();
    auto chain = open();
    StandIn target(*chain);
    // Over the border of two that are not there.
    const auto bytes = pattern(5000, 1);
    ASSERT_OK(target.write({2 * extent_bytes - 2500}, bytes));
    EXPECT_TRUE(is_there(2) && is_there(3));
    EXPECT_FALSE(is_there(4));
    EXPECT_NE(text().find("ddb.dmuMade = \"1110\""), std::string::npos);
    // Their places among the files are those of their lines.
    EXPECT_EQ(chain->top().files()[3]->name(), "/m/d-s003.vmdk");
    ASSERT_OK(target.flush());
    ASSERT_OK(chain->top().close());
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
    auto content = disks_.content("vmdk:/m/d.vmdk");
    ASSERT_OK(content);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), content->begin() + 2 * extent_bytes - 2500));
}

TEST_F(VmdkLate, UntilThenTheParentIsRead) {
    make_overlay("on");
    auto chain = open();
    StandIn target(*chain);
    Bytes seen(disk_bytes);
    ASSERT_OK(target.read({0}, seen));
    EXPECT_TRUE(seen == base_);
    ASSERT_OK(target.write({3 * extent_bytes + 100}, pattern(10, 2)));
    // Zeros over a parent must be said, in an extent; without one they are there already.
    ASSERT_OK(target.discard({{2 * extent_bytes}, 8192}));
    EXPECT_TRUE(is_there(3) && is_there(4));
    EXPECT_FALSE(is_there(2));
    const auto some = pattern(10, 2);
    std::copy(some.begin(), some.end(), base_.begin() + 3 * extent_bytes + 100);
    std::fill_n(base_.begin() + 2 * extent_bytes, 8192, std::byte{0});
    ASSERT_OK(target.flush());
    const auto content = disks_.content("vmdk:/m/d.vmdk");
    ASSERT_OK(content);
    EXPECT_TRUE(*content == base_);
}

TEST_F(VmdkLate, DiscardWithoutAParentMakesNothing) {
    make();
    auto chain = open();
    StandIn target(*chain);
    ASSERT_OK(target.discard({{0}, disk_bytes}));
    ASSERT_OK(target.flush());
    EXPECT_FALSE(is_there(2) || is_there(3) || is_there(4));
}

TEST_F(VmdkLate, OneThatWasMadeAndIsMissingIsAnError) {
    make();
    auto chain = open();
    ASSERT_OK(StandIn(*chain).write({extent_bytes}, pattern(512, 1)));
    ASSERT_OK(chain->top().close());
    disks_.stores.erase("/m/d-s002.vmdk");
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::not_found, "d-s002"));
    EXPECT_FALSE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
}

TEST_F(VmdkLate, WhatIsInTheWayIsNotOverwritten) {
    make();
    disks_.put("/m/d-s002.vmdk", Bytes(100 << 20));
    EXPECT_FALSE(disks_.chain("vmdk:/m/d.vmdk", true));
    disks_.stores.erase("/m/d-s002.vmdk");
    auto chain = open();
    const auto other = pattern(8192, 5);
    disks_.put("/m/d-s002.vmdk", other);
    EXPECT_TRUE(fails_with(StandIn(*chain).write({extent_bytes}, pattern(512, 1)), Code::busy, "d-s002.vmdk"));
    EXPECT_EQ(disks_.stores["/m/d-s002.vmdk"]->bytes, other);
    // Gone again, all is well.
    disks_.stores.erase("/m/d-s002.vmdk");
    EXPECT_OK(StandIn(*chain).write({extent_bytes}, pattern(512, 1)));
}

TEST_F(VmdkLate, WrongDigitsAreRefused) {
    make();
    for (const std::string wrong : {"0000", "100", "10000", "1200"}) {
        const auto before = text();
        replace_in_text("\"1000\"", "\"" + wrong + "\"");
        EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::corrupt, "ddb.dmuMade")) << wrong;
        disks_.put("/m/d.vmdk", before);
    }
    replace_in_text("RW 2048 SPARSE \"d-s004.vmdk\"", "RW 2048 ZERO");
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::corrupt, "SPARSE and access RW"));
}

TEST_F(VmdkLate, OptionIsForSplitSparseDisksOnly) {
    EXPECT_TRUE(
        fails_with(disks_.create_vmdk("/m/a.vmdk", disk_bytes, {{"lazy_extents", "on"}}), Code::invalid, "come later"));
    EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/b.vmdk", disk_bytes, {{"lazy_extents", "maybe"}}), Code::invalid,
                           "not valid"));
}

TEST_F(VmdkLate, AHostMayDieAtAnyStep) {
    const auto seed = test_seed();
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    make();
    JointRecording recording;
    for (const std::string path : {"/m/d.vmdk", "/m/d-s001.vmdk"}) recording.add(path, disks_.stores[path]->bytes);
    disks_.wrap = [&](unsigned, std::unique_ptr<BlockFile> file) {
        recording.add(file->name(), disks_.stores[file->name()]->bytes);
        return recording.wrap(std::move(file));
    };
    auto chain = open();
    StandIn target(*chain);
    SectorModel model{Bytes(disk_bytes)};
    std::size_t looked_at = 0;
    const auto look = [&] {
        for (; looked_at < recording.size() && !HasFailure(); looked_at++) {
            VmdkDisks after;
            for (const auto& [path, bytes] : recording.replay_crashed(looked_at + 1, random))
                after.add(path)->bytes = bytes;
            ASSERT_TRUE(is_sound(after.check_vmdk("/m/d.vmdk"))) << looked_at;
            auto opened = after.chain("vmdk:/m/d.vmdk", true);
            ASSERT_OK(opened);
            Bytes content(disk_bytes);
            ASSERT_OK((*opened)->read({0}, content));
            ASSERT_TRUE(model.is_possible(content)) << looked_at;
            // And it can be gone on with, in each extent.
            StandIn successor(**opened);
            for (std::uint64_t at = 0; at < disk_bytes; at += extent_bytes)
                ASSERT_OK(successor.write({at + 4096}, SectorModel::data(1, 1)));
            ASSERT_OK(successor.flush());
            ASSERT_TRUE(is_sound(after.check_vmdk("/m/d.vmdk"))) << looked_at;
        }
    };
    std::uint64_t stamp = 100;
    for (const std::uint64_t sector : {10u, 2047u, 6500u, 3000u}) {
        model.begun(sector, 3, stamp);
        ASSERT_OK(target.write({sector * sector_size}, SectorModel::data(3, stamp++)));
        look();
        ASSERT_OK(target.flush());
        look();
        model.flushed();
    }
    ASSERT_OK(chain->top().close());
    look();
    EXPECT_GT(looked_at, 40u);
}

}  // namespace
}  // namespace dmu
