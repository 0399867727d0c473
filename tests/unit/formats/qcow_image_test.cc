// SPDX-License-Identifier: GPL-2.0-or-later
// Look-up, reserve, apply, commit of qcow, one rule at a time.
#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 4096;

class QcowImage : public ::testing::Test {
protected:
    // 16 MiB in clusters of 4 KiB, tables of 512: 8 L1 entries at 48, data from 4096.
    void SetUp() override {
        ASSERT_OK(disks_.create("/m", 16 << 20, cluster));
        store_ = disks_.stores["/m"];
    }
    Result<std::unique_ptr<Image>> try_open(bool writable = true) {
        return find_format("qcow")->open(std::make_unique<MemoryFile>(store_, "m"), {writable, {}});
    }
    std::unique_ptr<Image> open(bool writable = true) {
        auto image = try_open(writable);
        EXPECT_OK(image);
        return image ? std::move(*image) : nullptr;
    }
    // Reserves and applies; gives the place.
    Place take(Image& image, std::uint64_t guest, std::uint64_t length = cluster) {
        const auto place = image.reserve({{guest}, length});
        EXPECT_OK(place);
        EXPECT_OK(image.apply(change_of(*place)));
        return *place;
    }
    static Change change_of(const Place& place) {
        return {ChangeKind::data, place.start, place.length, place.file, place.host};
    }
    // An L2 table at 4096 for L1 entry 0, with entries from its start.
    void put_table(std::initializer_list<std::uint64_t> entries, std::size_t file_bytes) {
        store_->bytes.resize(file_bytes);
        store_be<std::uint64_t>(store_->bytes, 48, 4096);
        std::size_t at = 4096;
        for (const auto entry : entries) store_be<std::uint64_t>(store_->bytes, std::exchange(at, at + 8), entry);
    }
    CheckReport check() {
        auto report = disks_.check("/m");
        EXPECT_OK(report);
        return report ? *report : CheckReport{};
    }
    MemoryDisks disks_;
    std::shared_ptr<MemoryStore> store_;
};

TEST_F(QcowImage, FreshIsUnallocatedInOneAnswer) {
    auto image = open();
    const auto extents = image->look_up({{5 << 20}, 512});
    ASSERT_OK(extents);
    ASSERT_EQ(extents->size(), 1u);
    EXPECT_EQ(extents->front().kind, ExtentKind::unallocated);
    EXPECT_EQ(extents->front().length, 11u << 20);
    EXPECT_FALSE(image->dirty());
}

TEST_F(QcowImage, AppliedIsSeenAndCommittedIsDurable) {
    auto image = open();
    const auto place = take(*image, 3 * cluster, 2 * cluster);
    EXPECT_EQ(place.length, 2 * cluster);
    EXPECT_TRUE(place.reads_as_zero);
    EXPECT_TRUE(image->dirty());
    for (int round = 0; round < 2; round++) {
        const auto extents = image->look_up({{0}, 512});
        ASSERT_OK(extents);
        // Ends with the table, or goes on through what L1 has nothing for.
        ASSERT_EQ(extents->size(), 3u);
        EXPECT_EQ((*extents)[0].length, 3 * cluster);
        EXPECT_EQ((*extents)[1].kind, ExtentKind::data);
        EXPECT_EQ((*extents)[1].host, place.host);
        EXPECT_EQ((*extents)[1].length, 2 * cluster);
        EXPECT_TRUE((*extents)[1].writable);
        EXPECT_EQ((*extents)[2].length, (16u << 20) - 5 * cluster);
        ASSERT_OK(image->commit(DataState::durable));
        EXPECT_FALSE(image->dirty());
        image = open();
    }
    image = open(false);
    EXPECT_FALSE((*image->look_up({{3 * cluster}, 512})).front().writable);
    EXPECT_EQ(check().allocated, 2u);
}

TEST_F(QcowImage, LookUpWithinAClusterStartsWhereAsked) {
    auto image = open();
    const auto place = take(*image, 0);
    const auto extents = image->look_up({{1024}, 512});
    ASSERT_OK(extents);
    EXPECT_EQ(extents->front().start.bytes, 1024u);
    EXPECT_EQ(extents->front().host.bytes, place.host.bytes + 1024);
    EXPECT_EQ(extents->front().length, cluster - 1024);
}

TEST_F(QcowImage, LookUpPastTheEnd) {
    auto image = open();
    EXPECT_TRUE(fails_with(image->look_up({{16 << 20}, 512}), Code::invalid, "past the end"));
    EXPECT_TRUE(fails_with(image->look_up({{0}, (16 << 20) + 1}), Code::invalid, "past the end"));
    EXPECT_TRUE(fails_with(image->look_up({{512}, UINT64_MAX}), Code::invalid, "past the end"));
    EXPECT_TRUE(fails_with(image->look_up({{0}, 0}), Code::invalid, "past the end"));
    EXPECT_TRUE(fails_with(image->reserve({{16 << 20}, 512}), Code::invalid, "past the end"));
    EXPECT_TRUE(fails_with(image->reserve({{0}, UINT64_MAX}), Code::invalid, "past the end"));
}

TEST_F(QcowImage, PlacesAreWholeGrainsOnceOnly) {
    auto image = open();
    const auto a = image->reserve({{100}, 5000});
    ASSERT_OK(a);
    EXPECT_EQ(a->start.bytes, 0u);
    EXPECT_EQ(a->length, 2 * cluster);
    const auto b = image->reserve({{0}, 512});
    ASSERT_OK(b);
    EXPECT_GE(b->host.bytes, a->host.bytes + a->length);
    EXPECT_FALSE(image->dirty());
}

TEST_F(QcowImage, BadEntriesAreCorrupt) {
    const struct {
        std::uint64_t entry;
        const char* message;
    } cases[] = {{512, "not aligned"},
                 {std::uint64_t{1} << 40, "past the end of the file"},
                 {(std::uint64_t{1} << 62) + 8192, "past the end of the file"},
                 {16384, "past the end of the file"},
                 {4096, "over an L2 table"},
                 {(std::uint64_t{1} << 63) | (std::uint64_t{5} << 51) | 16384, "past the end of the file"},
                 {(std::uint64_t{1} << 63) | 8192, "past the end of the file"}};
    for (const auto& c : cases) {
        put_table({8192, c.entry}, 16384);
        auto image = open();
        // Not in the way of what is good.
        const auto good = image->look_up({{0}, cluster});
        ASSERT_OK(good);
        EXPECT_EQ(good->size(), 1u);
        // What is allocated from now on must not make an entry past the end valid.
        const bool is_past = std::string(c.message).find("past") != std::string::npos;
        EXPECT_EQ(static_cast<bool>(image->reserve({{1 << 20}, 512})), !is_past);
        EXPECT_TRUE(fails_with(image->look_up({{0}, cluster + 512}), Code::corrupt, c.message)) << c.entry;
        EXPECT_TRUE(fails_with(image->reserve({{1 << 20}, 512}), Code::corrupt, "nothing is allocated"));
        EXPECT_EQ(check().corruptions, 1u) << c.entry;
        EXPECT_OK(image->close());
    }
}

TEST_F(QcowImage, EntryPastTheEndNeverBecomesValid) {
    put_table({8192, 12288, 16384, 20480}, 12288);
    auto image = open();
    take(*image, 4 << 20);
    take(*image, 5 << 20);
    EXPECT_TRUE(fails_with(image->look_up({{cluster}, 512}), Code::corrupt, "past the end"));
    EXPECT_TRUE(fails_with(image->look_up({{2 * cluster}, 512}), Code::corrupt, "past the end"));
}

TEST_F(QcowImage, DataOverL1) {
    put_table({8192}, 16384);
    // The L1 table moved to 8192.
    store_be<std::uint64_t>(store_->bytes, 40, 8192);
    store_be<std::uint64_t>(store_->bytes, 8192, 4096);
    auto image = open();
    EXPECT_TRUE(fails_with(image->look_up({{0}, 512}), Code::corrupt, "over the header"));
    EXPECT_EQ(check().corruptions, 1u);
}

TEST_F(QcowImage, ClustersUsedTwiceAreFoundByTheCheck) {
    put_table({8192, 12288, 8192}, 16384);
    EXPECT_EQ(check().corruptions, 1u);
    EXPECT_NE(check().messages.front().find("used twice"), std::string::npos);
}

TEST_F(QcowImage, LeaksAreCounted) {
    put_table({8192}, 8192 + 5 * cluster);
    EXPECT_EQ(check().corruptions, 0u);
    EXPECT_EQ(check().leaks, 4u);
    EXPECT_EQ(check().allocated, 1u);
    EXPECT_EQ(check().total, 4096u);
}

TEST_F(QcowImage, CompressedThatIsNoStream) {
    put_table({(std::uint64_t{1} << 63) | (std::uint64_t{100} << 51) | 9000, 12288}, 16384);
    auto image = open();
    const auto extents = image->look_up({{0}, 512});
    ASSERT_OK(extents);
    EXPECT_EQ((*extents)[0].kind, ExtentKind::compressed);
    EXPECT_EQ((*extents)[0].length, cluster);
    EXPECT_EQ((*extents)[1].kind, ExtentKind::data);
    Bytes buffer(512);
    EXPECT_TRUE(fails_with(image->read_compressed({0}, buffer), Code::corrupt, "can't be decompressed to 4096"));
    EXPECT_TRUE(fails_with(image->read_compressed({cluster}, buffer), Code::invalid, "is not compressed"));
    EXPECT_EQ(check().corruptions, 0u);

    // Through a chain: opaque, unreadable, and a first write refuses to lose it.
    auto chain = disks_.chain("qcow:/m", true);
    ASSERT_OK(chain);
    EXPECT_EQ((*(*chain)->look_up({{0}, 512})).front().kind, MappingKind::opaque);
    StandIn target(**chain);
    EXPECT_TRUE(fails_with(target.read({0}, buffer), Code::corrupt, "can't be decompressed"));
    EXPECT_TRUE(fails_with(target.write({0}, buffer), Code::corrupt, "nothing is allocated any more"));
    EXPECT_OK(target.read({cluster}, buffer));
}

TEST_F(QcowImage, LastClusterCutByTheFilesEnd) {
    put_table({8192}, 8192 + 1024);
    auto reader = open(false);
    const auto extents = reader->look_up({{0}, cluster});
    ASSERT_OK(extents);
    EXPECT_EQ((*extents)[0].length, 1024u);
    EXPECT_EQ((*extents)[1].kind, ExtentKind::zero);
    EXPECT_EQ((*extents)[1].length, cluster - 1024);
    reader.reset();
    auto writer = open();
    EXPECT_EQ((*writer->look_up({{0}, 512})).front().length, cluster);
    EXPECT_EQ(store_->bytes.size(), 8192 + cluster);
    writer.reset();
    put_table({8192}, 8192 + 1000);
    EXPECT_TRUE(fails_with(open(false)->look_up({{0}, 512}), Code::corrupt, "cut within a sector"));
}

TEST_F(QcowImage, ChangesThatMakeNoSense) {
    auto image = open();
    const auto place = *image->reserve({{0}, cluster});
    const auto with = [&](auto edit) {
        auto change = change_of(place);
        edit(change);
        return image->apply(change);
    };
    EXPECT_TRUE(fails_with(with([](Change& c) { c.host.bytes += 512; }), Code::invalid, "not aligned"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.host.bytes = 0; }), Code::invalid, "over the header"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.host.bytes += 1 << 30; }), Code::invalid, "past the end"));
    EXPECT_TRUE(
        fails_with(with([&](Change& c) { c.host.bytes = place.host.bytes - cluster; }), Code::invalid, "L2 table"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.start.bytes = 512; }), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.length = 512; }), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.length = UINT64_MAX - 4095; }), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.start.bytes = 16 << 20; }), Code::invalid, "whole clusters"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.file = 1; }), Code::invalid, "no file 1"));
    EXPECT_TRUE(fails_with(with([](Change& c) { c.kind = ChangeKind::zero; }), Code::unsupported, "no zero clusters"));
    EXPECT_OK(with([](Change& c) { c.kind = ChangeKind::lost; }));
    EXPECT_FALSE(image->dirty());
    EXPECT_OK(image->apply(change_of(place)));
    auto reader = open(false);
    EXPECT_TRUE(fails_with(reader->apply(change_of(place)), Code::denied, "reading only"));
    EXPECT_TRUE(fails_with(reader->reserve({{0}, 512}), Code::denied, "reading only"));
    EXPECT_OK(reader->close());
}

TEST_F(QcowImage, LastGrainMayReachPastTheDisk) {
    ASSERT_OK(disks_.create("/m", 10 * 512, cluster));
    store_ = disks_.stores["/m"];
    auto image = open();
    const auto place = image->reserve({{cluster}, 1024});
    ASSERT_OK(place);
    EXPECT_EQ(place->length, cluster);
    auto change = change_of(*place);
    change.length = 1024;  // as the kernel clips it to the device
    EXPECT_OK(image->apply(change));
    const auto extents = image->look_up({{cluster}, 512});
    ASSERT_OK(extents);
    EXPECT_EQ(extents->front().length, 1024u);
    EXPECT_OK(image->close());
    EXPECT_EQ(check().allocated, 1u);
    EXPECT_EQ(check().leaks, 0u);
}

TEST_F(QcowImage, SuccessorNeverGivesOutWhatThePredecessorDid) {
    auto first = open();
    std::vector<Place> given{take(*first, 0)};
    ASSERT_OK(first->commit(DataState::written));
    given.push_back(take(*first, cluster));
    given.push_back(*first->reserve({{4 << 20}, cluster}));
    first.reset();  // killed

    auto second = open();
    const auto fresh = second->reserve({{8 << 20}, cluster});
    ASSERT_OK(fresh);
    for (const auto& place : given) EXPECT_GE(fresh->host.bytes, place.host.bytes + place.length);
    // All of its log, what it committed too, and a write that ended after its death.
    for (const auto& place : given) EXPECT_OK(second->apply(change_of(place)));
    EXPECT_TRUE(second->dirty());
    ASSERT_OK(second->commit(DataState::written));
    for (const auto& place : given) EXPECT_OK(second->apply(change_of(place)));
    ASSERT_OK(second->close());
    EXPECT_EQ(check().corruptions, 0u);
    EXPECT_EQ(check().allocated, 3u);
    auto third = open();
    for (const auto& place : given) EXPECT_EQ((*third->look_up({place.start, 512})).front().host, place.host);
}

TEST_F(QcowImage, CloseGivesBackTheTail) {
    auto image = open();
    take(*image, 0);
    EXPECT_GE(store_->bytes.size(), 1u << 20);
    ASSERT_OK(image->close());
    EXPECT_EQ(store_->bytes.size(), 3 * cluster);
    EXPECT_EQ(check().leaks, 0u);
    EXPECT_EQ(image->allocated_bytes(), cluster);
    // Nothing was done: nothing changes.
    auto idle = open();
    ASSERT_OK(idle->close());
    EXPECT_EQ(store_->bytes.size(), 3 * cluster);
}

TEST_F(QcowImage, FullDiskGivesLessThenNothing) {
    auto image = open();
    // A table, and three clusters.
    store_->capacity = store_->bytes.size() + 4 * cluster;
    const auto some = image->reserve({{0}, 16 * cluster});
    ASSERT_OK(some);
    EXPECT_EQ(some->length, 2 * cluster);
    ASSERT_OK(image->apply(change_of(*some)));
    take(*image, 2 * cluster);
    EXPECT_TRUE(fails_with(image->reserve({{3 * cluster}, 512}), Code::no_space, ""));
    // What the guest was allowed to write can always be committed.
    ASSERT_OK(image->commit(DataState::written));
    store_->capacity = UINT64_MAX;
    take(*image, 3 * cluster);
    ASSERT_OK(image->close());
    EXPECT_EQ(check().allocated, 4u);
    EXPECT_EQ(check().corruptions, 0u);
}

TEST_F(QcowImage, SuccessorsCommitWaitsForSpace) {
    auto first = open();
    const auto place = take(*first, 0);
    first.reset();
    auto second = open();
    store_->capacity = store_->bytes.size();
    EXPECT_OK(second->apply(change_of(place)));
    EXPECT_TRUE(fails_with(second->commit(DataState::written), Code::no_space, ""));
    EXPECT_TRUE(second->dirty());
    store_->capacity = UINT64_MAX;
    ASSERT_OK(second->commit(DataState::written));
    EXPECT_FALSE(second->dirty());
    EXPECT_EQ(check().allocated, 1u);
}

TEST_F(QcowImage, CommitsAreBatched) {
    auto recording = std::make_shared<Recording>(store_->bytes);
    auto file = std::make_unique<RecordingFile>(std::make_unique<MemoryFile>(store_, "m"), recording);
    auto image = find_format("qcow")->open(std::move(file), {true, {}});
    ASSERT_OK(image);
    for (std::uint64_t i = 0; i < 200; i++) take(**image, i * cluster);
    take(**image, 2 << 20);
    auto before = recording->size();
    ASSERT_OK((*image)->commit(DataState::durable));
    // Two tables, sync, L1, sync.
    EXPECT_EQ(recording->size() - before, 5u);
    for (std::uint64_t i = 200; i < 300; i++) take(**image, i * cluster);
    before = recording->size();
    ASSERT_OK((*image)->commit(DataState::durable));
    EXPECT_EQ(recording->size() - before, 2u);
    before = recording->size();
    ASSERT_OK((*image)->commit(DataState::written));
    EXPECT_EQ(recording->size() - before, 0u);
}

TEST_F(QcowImage, WhatAPredecessorWroteIsSyncedBeforeItIsAcknowledged) {
    auto first = open();
    const auto place = take(*first, 0);
    ASSERT_OK(first->commit(DataState::written));
    first.reset();  // killed, maybe before its last sync

    auto recording = std::make_shared<Recording>(store_->bytes);
    auto file = std::make_unique<RecordingFile>(std::make_unique<MemoryFile>(store_, "m"), recording);
    auto second = find_format("qcow")->open(std::move(file), {true, {}});
    ASSERT_OK(second);
    ASSERT_OK((*second)->apply(change_of(place)));
    EXPECT_TRUE((*second)->dirty());
    const auto before = recording->size();
    ASSERT_OK((*second)->commit(DataState::durable));
    EXPECT_EQ(recording->size() - before, 1u);
    EXPECT_FALSE((*second)->dirty());
}

TEST_F(QcowImage, NeighboursInL1StayAsTheyAre) {
    auto image = open();
    const std::uint64_t reach = 2 << 20;
    const auto middle = take(*image, 3 * reach);
    ASSERT_OK(image->commit(DataState::durable));
    const auto low = take(*image, reach), high = take(*image, 6 * reach);
    ASSERT_OK(image->commit(DataState::durable));
    image = open();
    for (const auto& place : {low, middle, high})
        EXPECT_EQ((*image->look_up({place.start, 512})).front().host, place.host);
    for (const auto hole : {0, 2, 4, 5, 7})
        EXPECT_EQ((*image->look_up({{static_cast<std::uint64_t>(hole) * reach}, 512})).front().kind,
                  ExtentKind::unallocated);
    EXPECT_EQ(check().allocated, 3u);
}

TEST_F(QcowImage, ManyTablesStayBoundedAndRight) {
    // Small tables, more of them than are kept in memory.
    auto store = std::make_shared<MemoryStore>();
    MemoryFile file(store, "m");
    ASSERT_OK(find_format("qcow")->create(file, {std::uint64_t{1} << 32, 512, {}}));
    auto image = find_format("qcow")->open(std::make_unique<MemoryFile>(store, "m"), {true, {}});
    ASSERT_OK(image);
    std::vector<Place> places;
    for (std::uint64_t i = 0; i < 600; i++) {
        places.push_back(take(**image, i * (5 << 20), 512));
        if (i % 100 == 99) ASSERT_OK((*image)->commit(DataState::durable));
    }
    for (const auto& place : places) ASSERT_EQ((*(*image)->look_up({place.start, 512})).front().host, place.host);
    ASSERT_OK((*image)->close());
    const auto report = find_format("qcow")->check(file, {});
    EXPECT_TRUE(is_sound(report));
    EXPECT_EQ(report->allocated, 600u);
    EXPECT_EQ(report->leaks, 0u);
}

}  // namespace
}  // namespace dmu
