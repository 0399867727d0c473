// SPDX-License-Identifier: GPL-2.0-or-later
// Leases of a VMDK disk of one sparse extent: space for any grain, with the tables that
// it may need, and what comes back of it.
#include "tests/fakes/wrapped_file.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

class FullFile final : public WrappedFile {
public:
    FullFile(std::unique_ptr<BlockFile> file, std::shared_ptr<bool> full)
        : WrappedFile(std::move(file)), full_(std::move(full)) {}
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        if (*full_) return Error{Code::no_space, "full"};
        return WrappedFile::allocate(offset, length);
    }

private:
    std::shared_ptr<bool> full_;
};

struct Case {
    const char* name;
    Options options;
    std::uint32_t grain;
    std::uint64_t table_covers;
    std::string extent;
};

class VmdkLease : public ::testing::TestWithParam<Case> {
protected:
    // 4 tables: of COWD they are to come.
    void SetUp() override {
        ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 4 * covers(), GetParam().options, GetParam().grain));
        disks_.wrap = [this](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            return std::make_unique<FullFile>(std::move(file), full_);
        };
        open();
    }
    void open() {
        auto chain = disks_.chain("vmdk:/m/d.vmdk", true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        ASSERT_OK(image().begin_writing());
    }
    std::uint64_t grain() const { return GetParam().grain; }
    std::uint64_t covers() const { return GetParam().table_covers; }
    Image& image() { return chain_->top(); }
    Place lease(std::uint64_t grains) {
        const auto place = image().reserve_any(grains * grain());
        EXPECT_OK(place);
        return place ? *place : Place{};
    }
    Status use(std::uint64_t guest, const Place& place, std::uint64_t skip = 0) {
        return image().apply(
            Change{ChangeKind::data, {guest}, grain(), place.file, {place.host.bytes + skip * grain()}});
    }
    Place part(Place place, std::uint64_t grains) {
        place.host.bytes += grains * grain();
        place.length -= grains * grain();
        return place;
    }
    void expect_clean(std::uint64_t allocated) {
        const auto report = disks_.check_vmdk("/m/d.vmdk");
        ASSERT_TRUE(is_sound(report));
        EXPECT_EQ(report->allocated, allocated);
        EXPECT_EQ(report->leaks, 0u) << joined(report->messages);
    }

    VmdkDisks disks_;
    std::shared_ptr<bool> full_ = std::make_shared<bool>(false);
    std::unique_ptr<Chain> chain_;
};

INSTANTIATE_TEST_SUITE_P(
    Kind, VmdkLease,
    ::testing::Values(Case{"Sparse", {}, 8192, 4 << 20, "/m/d.vmdk"},
                      Case{"Cowd", {{"subformat", "vmfsSparse"}}, 512, 2 << 20, "/m/d-delta.vmdk"},
                      Case{"CowdLarge", {{"subformat", "vmfsSparse"}}, 65536, 256 << 20, "/m/d-delta.vmdk"}),
    [](const auto& info) { return info.param.name; });

TEST_P(VmdkLease, CommitOfALeaseNeedsNoSpace) {
    const auto place = lease(4);
    ASSERT_EQ(place.length, 4 * grain());
    *full_ = true;
    for (std::uint64_t i = 0; i < 4; i++) ASSERT_OK(use(i * covers(), place, i));
    ASSERT_OK(image().commit(DataState::durable));
    const auto extents = image().look_up({{2 * covers()}, grain()});
    ASSERT_OK(extents);
    EXPECT_EQ(extents->front().kind, ExtentKind::data);
    EXPECT_EQ(extents->front().host.bytes, place.host.bytes + 2 * grain());
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
}

TEST_P(VmdkLease, NothingUsedLeavesTheFileAsItWas) {
    const auto before = disks_.stores[GetParam().extent]->bytes.size();
    const auto allocated = image().allocated_bytes();
    ASSERT_OK(image().give_back(lease(16)));
    EXPECT_EQ(image().allocated_bytes(), allocated);
    ASSERT_OK(image().close());
    EXPECT_EQ(disks_.stores[GetParam().extent]->bytes.size(), align_up(before, grain()));
    expect_clean(0);
}

TEST_P(VmdkLease, CloseCutsOffWhatCameBack) {
    const auto place = lease(16);
    ASSERT_OK(use(0, place));
    ASSERT_OK(image().commit(DataState::written));
    ASSERT_OK(image().give_back(part(place, 1)));
    ASSERT_OK(image().close());
    EXPECT_EQ(disks_.stores[GetParam().extent]->bytes.size(), place.host.bytes + grain());
    // What COWD's first free sector says is the file's end again.
    if (GetParam().extent != "/m/d.vmdk") {
        EXPECT_EQ(load_le<std::uint32_t>(disks_.stores[GetParam().extent]->bytes, 28),
                  (place.host.bytes + grain()) / sector_size);
    }
}

TEST_P(VmdkLease, WhatComesBackIsGivenOutAgain) {
    const auto place = lease(4);
    ASSERT_OK(use(0, place));
    ASSERT_OK(image().give_back(part(place, 1)));
    EXPECT_TRUE(fails_with(image().give_back(part(place, 1)), Code::invalid, "is free"));
    const auto again = lease(2);
    EXPECT_EQ(again.host.bytes, place.host.bytes + grain());
    EXPECT_EQ(again.length, 2 * grain());
    EXPECT_EQ(lease(2).host.bytes, place.host.bytes + 3 * grain());
    EXPECT_GE(lease(1).host.bytes, place.host.bytes + 4 * grain());
}

TEST_P(VmdkLease, LostSpaceIsNotGivenOutAgain) {
    const auto place = lease(2);
    ASSERT_OK(image().apply(Change{ChangeKind::lost, {0}, grain(), place.file, place.host}));
    ASSERT_OK(image().give_back(part(place, 1)));
    EXPECT_EQ(lease(1).host.bytes, place.host.bytes + grain());
    EXPECT_GE(lease(1).host.bytes, place.host.bytes + 2 * grain());
}

TEST_P(VmdkLease, SuccessorGetsBackWhatItsPredecessorLeased) {
    const auto place = lease(4);
    ASSERT_NO_FATAL_FAILURE(open());  // as after a kill
    ASSERT_OK(use(0, place));
    ASSERT_OK(image().give_back(part(place, 1)));
    EXPECT_EQ(lease(3).host.bytes, place.host.bytes + grain());
    ASSERT_OK(image().commit(DataState::written));
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
}

TEST_P(VmdkLease, RefusesWhatCanNotHaveBeenLeased) {
    const auto place = lease(1);
    auto wrong = place;
    wrong.host.bytes += 100;
    EXPECT_TRUE(fails_with(image().give_back(wrong), Code::invalid, "whole grains"));
    wrong = place;
    wrong.length = 1 << 30;
    EXPECT_TRUE(fails_with(image().give_back(wrong), Code::invalid, "past the end"));
    wrong = place;
    wrong.host.bytes = 0;
    EXPECT_TRUE(fails_with(image().give_back(wrong), Code::invalid, "header"));
    wrong = place;
    wrong.file = 7;
    EXPECT_TRUE(fails_with(image().give_back(wrong), Code::invalid, "no extent"));
}

TEST(VmdkLeases, OfSeveralExtentsThereAreNone) {
    VmdkDisks disks;
    ASSERT_OK(disks.create_vmdk("/m/d.vmdk", 4 << 20,
                                {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}}, 8192));
    auto chain = disks.chain("vmdk:/m/d.vmdk", true);
    ASSERT_OK(chain);
    ASSERT_OK((*chain)->top().begin_writing());
    EXPECT_TRUE(fails_with((*chain)->top().reserve_any(8192), Code::unsupported, "its own part"));
    const auto extents = (*chain)->top().look_up({{0}, 8192});
    ASSERT_OK(extents);
    EXPECT_FALSE(extents->front().leasable);
}

}  // namespace
}  // namespace dmu
