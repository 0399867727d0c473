// SPDX-License-Identifier: GPL-2.0-or-later
// Leases of a qcow image: space for any cluster, with the tables that it may need, and
// what comes back of it.
#include "tests/fakes/wrapped_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 4096;
constexpr std::uint64_t table_covers = 2 << 20;  // 512 entries

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

class QcowLease : public ::testing::Test {
protected:
    // 16 MiB: 8 tables to come.
    void SetUp() override {
        ASSERT_OK(disks_.create("/m", 16 << 20, cluster));
        store_ = disks_.stores["/m"];
    }
    std::unique_ptr<Image> open(bool writable = true) {
        auto file = std::make_unique<FullFile>(std::make_unique<MemoryFile>(store_, "m"), full_);
        auto image = find_format("qcow")->open(std::move(file), {writable, {}});
        EXPECT_OK(image);
        return image ? std::move(*image) : nullptr;
    }
    static Place lease(Image& image, std::uint64_t bytes) {
        const auto place = image.reserve_any(bytes);
        EXPECT_OK(place);
        return place ? *place : Place{};
    }
    static Status use(Image& image, std::uint64_t guest, std::uint64_t host) {
        return image.apply({ChangeKind::data, {guest}, cluster, 0, {host}});
    }
    static Place part(Place place, std::uint64_t from) {
        place.host.bytes += from;
        place.length -= from;
        return place;
    }
    void expect_clean(std::uint64_t allocated) {
        const auto report = disks_.check("/m");
        ASSERT_OK(report);
        EXPECT_EQ(report->corruptions, 0u);
        EXPECT_EQ(report->allocated, allocated);
    }
    MemoryDisks disks_;
    std::shared_ptr<MemoryStore> store_;
    std::shared_ptr<bool> full_ = std::make_shared<bool>(false);
};

TEST_F(QcowLease, CommitOfALeaseNeedsNoSpace) {
    auto image = open();
    const auto place = lease(*image, 8 * cluster);
    ASSERT_EQ(place.length, 8 * cluster);
    *full_ = true;
    // As wide apart as can be: each is the first of its table.
    for (std::uint64_t i = 0; i < 8; i++) ASSERT_OK(use(*image, i * table_covers, place.host.bytes + i * cluster));
    ASSERT_OK(image->commit(DataState::durable));
    expect_clean(8);
    const auto extents = image->look_up({{3 * table_covers}, cluster});
    ASSERT_OK(extents);
    EXPECT_EQ(extents->front().kind, ExtentKind::data);
    EXPECT_EQ(extents->front().host.bytes, place.host.bytes + 3 * cluster);
}

TEST_F(QcowLease, SecondLeaseKeepsTablesOfTheFirst) {
    auto image = open();
    const auto first = lease(*image, 2 * cluster);
    const auto second = lease(*image, 2 * cluster);
    *full_ = true;
    ASSERT_OK(use(*image, 0, first.host.bytes));
    ASSERT_OK(use(*image, table_covers, first.host.bytes + cluster));
    ASSERT_OK(use(*image, 2 * table_covers, second.host.bytes));
    ASSERT_OK(use(*image, 3 * table_covers, second.host.bytes + cluster));
    ASSERT_OK(image->commit(DataState::durable));
    expect_clean(4);
}

TEST_F(QcowLease, FullDiskLeasesLessOrNothing) {
    auto image = open();
    *full_ = true;
    EXPECT_TRUE(fails_with(image->reserve_any(cluster), Code::no_space, "full"));
    *full_ = false;
    const auto place = lease(*image, cluster);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->commit(DataState::durable));
    expect_clean(1);
}

TEST_F(QcowLease, WhatComesBackIsGivenOutAgain) {
    auto image = open();
    const auto place = lease(*image, 4 * cluster);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->give_back(part(place, cluster)));
    const auto again = lease(*image, 2 * cluster);
    EXPECT_EQ(again.host.bytes, place.host.bytes + cluster);
    EXPECT_EQ(again.length, 2 * cluster);
    EXPECT_EQ(again.reads_as_zero, place.reads_as_zero);
    const auto rest = lease(*image, 2 * cluster);
    EXPECT_EQ(rest.host.bytes, place.host.bytes + 3 * cluster);
    EXPECT_EQ(rest.length, cluster);
    EXPECT_GE(lease(*image, cluster).host.bytes, place.host.bytes + 4 * cluster);
}

TEST_F(QcowLease, CloseCutsOffWhatCameBack) {
    auto image = open();
    const auto place = lease(*image, 16 * cluster);
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->give_back(part(place, cluster)));
    ASSERT_OK(image->close());
    EXPECT_EQ(store_->bytes.size(), place.host.bytes + cluster);
    expect_clean(1);
}

TEST_F(QcowLease, NothingUsedLeavesTheFileAsItWas) {
    const auto before = store_->bytes;
    auto image = open();
    const auto place = lease(*image, 16 * cluster);
    ASSERT_OK(image->give_back(place));
    EXPECT_EQ(image->allocated_bytes(), 0u);
    ASSERT_OK(image->close());
    EXPECT_EQ(store_->bytes.size(), align_up(before.size(), cluster));
    expect_clean(0);
}

TEST_F(QcowLease, LostSpaceIsNotGivenOutAgain) {
    auto image = open();
    const auto place = lease(*image, 2 * cluster);
    ASSERT_OK(image->apply({ChangeKind::lost, {0}, cluster, 0, place.host}));
    ASSERT_OK(image->give_back(part(place, cluster)));
    EXPECT_EQ(lease(*image, cluster).host.bytes, place.host.bytes + cluster);
    EXPECT_GE(lease(*image, cluster).host.bytes, place.host.bytes + 2 * cluster);
}

TEST_F(QcowLease, SuccessorGetsBackWhatItsPredecessorLeased) {
    auto image = open();
    const auto place = lease(*image, 4 * cluster);
    image = open();  // as after a kill
    // The kernel took the first cluster meanwhile.
    ASSERT_OK(use(*image, 0, place.host.bytes));
    ASSERT_OK(image->give_back(part(place, cluster)));
    EXPECT_EQ(lease(*image, 3 * cluster).host.bytes, place.host.bytes + cluster);
    ASSERT_OK(image->commit(DataState::written));
    expect_clean(1);
}

TEST_F(QcowLease, RefusesWhatCanNotHaveBeenLeased) {
    auto image = open();
    const auto place = lease(*image, cluster);
    auto wrong = place;
    wrong.host.bytes += 512;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "not aligned"));
    wrong = place;
    wrong.length = 1 << 30;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "past the end"));
    wrong = place;
    wrong.host.bytes = 0;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "header"));
    wrong = place;
    wrong.length = 100;
    EXPECT_TRUE(fails_with(image->give_back(wrong), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(open(false)->reserve_any(cluster), Code::denied, "reading only"));
}

}  // namespace
}  // namespace dmu
