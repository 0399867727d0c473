// SPDX-License-Identifier: GPL-2.0-or-later
// Leases of a qcow2 image: space for any cluster, whose refcounts are durable, with the
// tables that it may need, and what comes back of it.
#include "tests/fakes/wrapped_file.h"
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 512;
constexpr std::uint64_t table_covers = 32 << 10;  // 64 entries

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

class Qcow2Lease : public ::testing::Test {
protected:
    // 8 tables to come.
    void SetUp() override {
        ASSERT_OK(create_qcow2(disks_, "/m", 8 * table_covers, {"", cluster}));
        store_ = disks_.stores["/m"];
    }
    std::unique_ptr<Image> open(bool writable = true) {
        auto file = std::make_unique<FullFile>(std::make_unique<MemoryFile>(store_, "m"), full_);
        auto image = find_format("qcow2")->open(std::move(file), {writable, {}});
        EXPECT_OK(image);
        return image ? std::move(*image) : nullptr;
    }
    static Place lease(Image& image, std::uint64_t clusters) {
        const auto place = image.reserve_any(clusters * cluster);
        EXPECT_OK(place);
        return place ? *place : Place{};
    }
    static Status use(Image& image, std::uint64_t guest, std::uint64_t host) {
        return image.apply(Change{ChangeKind::data, {guest}, cluster, 0, {host}});
    }
    static Place part(Place place, std::uint64_t clusters) {
        place.host.bytes += clusters * cluster;
        place.length -= clusters * cluster;
        return place;
    }
    // Nothing is left to lease or reserve but what is there.
    static void use_up(Image& image) {
        while (image.reserve({{0}, cluster})) {
        }
    }
    Result<CheckReport> check() { return check_qcow2(disks_, "/m"); }

    MemoryDisks disks_;
    std::shared_ptr<MemoryStore> store_;
    std::shared_ptr<bool> full_ = std::make_shared<bool>(false);
};

TEST_F(Qcow2Lease, RefcountsAreDurableBeforeItIsGivenOut) {
    auto image = open();
    const auto place = lease(*image, 4);
    ASSERT_EQ(place.length, 4 * cluster);
    // As after a kill: the successor finds it in use, and gives nothing of it out.
    auto successor = open();
    for (int i = 0; i < 100; i++) {
        const auto other = successor->reserve({{0}, cluster});
        ASSERT_OK(other);
        EXPECT_FALSE(other->host.bytes < place.host.bytes + place.length &&
                     place.host.bytes < other->host.bytes + cluster);
    }
}

TEST_F(Qcow2Lease, CommitOfALeaseNeedsNoSpace) {
    auto image = open();
    const auto place = lease(*image, 8);
    *full_ = true;
    use_up(*image);
    // As wide apart as can be: each is the first of its table.
    for (std::uint64_t i = 0; i < 8; i++) ASSERT_OK(use(*image, i * table_covers, place.host.bytes + i * cluster));
    ASSERT_OK(image->commit(DataState::durable));
    EXPECT_TRUE(is_sound(check()));
    EXPECT_EQ(check()->allocated, 8u);
    const auto extents = image->look_up({{3 * table_covers}, cluster});
    ASSERT_OK(extents);
    EXPECT_EQ(extents->front().host.bytes, place.host.bytes + 3 * cluster);
    ASSERT_OK(image->close());
    EXPECT_TRUE(is_clean(check()));
}

TEST_F(Qcow2Lease, SecondLeaseKeepsTablesOfTheFirst) {
    auto image = open();
    const auto first = lease(*image, 2), second = lease(*image, 2);
    *full_ = true;
    use_up(*image);
    ASSERT_OK(use(*image, 0, first.host.bytes));
    ASSERT_OK(use(*image, table_covers, first.host.bytes + cluster));
    ASSERT_OK(use(*image, 2 * table_covers, second.host.bytes));
    ASSERT_OK(use(*image, 3 * table_covers, second.host.bytes + cluster));
    ASSERT_OK(image->commit(DataState::durable));
    ASSERT_OK(image->close());
    EXPECT_TRUE(is_clean(check()));
}

TEST_F(Qcow2Lease, TablesThatASnapshotSharesHaveTheirCopies) {
    auto image = open();
    const auto old = image->reserve({{0}, cluster});
    ASSERT_OK(old);
    ASSERT_OK(use(*image, 0, old->host.bytes));
    ASSERT_OK(image->snapshots()->create("s"));
    const auto place = lease(*image, 1);
    *full_ = true;
    use_up(*image);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->commit(DataState::durable));
    EXPECT_TRUE(is_sound(check()));
    ASSERT_OK(image->close());
    EXPECT_TRUE(is_clean(check()));
}

TEST_F(Qcow2Lease, FullDiskLeasesNothingAndKeepsNothingForIt) {
    auto image = open();
    (void)lease(*image, 1);
    *full_ = true;
    std::uint64_t last = 0;
    while (const auto place = image->reserve_any(64 * cluster)) last = place->length;
    EXPECT_GT(last, 0u);
    EXPECT_TRUE(fails_with(image->reserve_any(cluster), Code::no_space, "full"));
    *full_ = false;
    (void)lease(*image, 1);
    ASSERT_OK(image->close());
    EXPECT_TRUE(is_clean(check()));
}

TEST_F(Qcow2Lease, WhatComesBackIsGivenOutAgain) {
    auto image = open();
    const auto place = lease(*image, 4);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->give_back(part(place, 1)));
    EXPECT_TRUE(fails_with(image->give_back(part(place, 1)), Code::invalid, "is free"));
    const auto again = lease(*image, 3);
    EXPECT_EQ(again.host.bytes, place.host.bytes + cluster);
    EXPECT_EQ(again.length, 3 * cluster);
    EXPECT_EQ(again.reads_as_zero, place.reads_as_zero);
}

TEST_F(Qcow2Lease, CloseLeavesNoLeakWhereverItLies) {
    auto image = open();
    const auto first = lease(*image, 40);
    const auto behind = image->reserve({{table_covers}, cluster});
    ASSERT_OK(behind);
    ASSERT_OK(use(*image, table_covers, behind->host.bytes));
    ASSERT_OK(use(*image, 0, first.host.bytes + 7 * cluster));
    EXPECT_EQ(image->allocated_bytes(), 2 * cluster);
    Place head = first;
    head.length = 7 * cluster;
    ASSERT_OK(image->give_back(head));
    ASSERT_OK(image->give_back(part(first, 8)));
    ASSERT_OK(image->close());
    const auto report = check();
    EXPECT_TRUE(is_clean(report));
    EXPECT_EQ(report->allocated, 2u);
}

TEST_F(Qcow2Lease, LostSpaceIsNotGivenOutAgain) {
    auto image = open();
    const auto place = lease(*image, 2);
    ASSERT_OK(image->apply(Change{ChangeKind::lost, {0}, cluster, 0, place.host}));
    ASSERT_OK(image->give_back(part(place, 1)));
    EXPECT_EQ(lease(*image, 1).host.bytes, place.host.bytes + cluster);
    ASSERT_OK(image->close());
    EXPECT_EQ(check()->leaks, 1u);
}

TEST_F(Qcow2Lease, SuccessorGetsBackWhatItsPredecessorLeased) {
    auto image = open();
    const auto place = lease(*image, 4);
    image = open();  // as after a kill
    // The kernel took the first cluster meanwhile.
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->give_back(part(place, 1)));
    EXPECT_TRUE(fails_with(image->give_back(part(place, 1)), Code::invalid, "is free"));
    EXPECT_TRUE(fails_with(image->give_back(place), Code::invalid, "is free"));
    ASSERT_OK(image->commit(DataState::written));
    EXPECT_TRUE(is_sound(check()));
}

TEST_F(Qcow2Lease, RefusesWhatCanNotHaveBeenLeased) {
    auto image = open();
    const auto place = lease(*image, 1);
    auto wrong = place;
    wrong.host.bytes += 100;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "not aligned"));
    wrong = place;
    wrong.host.bytes += 1 << 30;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "past the end"));
    wrong = place;
    wrong.host.bytes = 0;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "metadata"));
    wrong = place;
    wrong.length = 100;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(open(false)->reserve_any(cluster), Code::denied, "reading only"));
}

TEST_F(Qcow2Lease, FreedClustersWaitForTheirRecycling) {
    auto image = open();
    const auto place = lease(*image, 1);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->commit(DataState::written));
    EXPECT_FALSE(image->wants_recycling());
    ASSERT_OK(image->apply(Change{ChangeKind::zero, {0}, cluster, 0, {}}));
    EXPECT_FALSE(image->wants_recycling());
    ASSERT_OK(image->commit(DataState::written));
    EXPECT_TRUE(image->wants_recycling());
    image->recycle();
    EXPECT_FALSE(image->wants_recycling());
}

}  // namespace
}  // namespace dmu
