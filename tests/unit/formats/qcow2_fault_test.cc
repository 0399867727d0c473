// SPDX-License-Identifier: GPL-2.0-or-later
// Each operation on the image's file fails once, in turn: the request under way may
// fail, everything else is right, and the next commit makes it durable.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 4096;
constexpr std::uint64_t prime = 8191;

struct Case {
    const char* name;
    Qcow2Variant variant;
    Code code;
    bool tear;
    bool dirty = false;
};

class Qcow2Fault : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Kind, Qcow2Fault,
    ::testing::Values(Case{"Small", {"", 512, {}, true}, Code::io, false},
                      Case{"Torn", {"", 4096, {}, true}, Code::io, true},
                      Case{"Full", {"", 4096, {{"refcount_bits", "64"}}, true}, Code::no_space, false},
                      Case{"ExtendedL2", {"", 16384, {{"extended_l2", "on"}}, true}, Code::io, true},
                      Case{"Large", {"", 65536, {}, true}, Code::no_space, true},
                      Case{"Dirty", {"", 4096, {}, true}, Code::io, true, true},
                      Case{"DirtyFull", {"", 512, {{"refcount_bits", "64"}}, true}, Code::no_space, false, true}),
    [](const auto& info) { return std::string(info.param.name); });

// Twice: as a guest does that got an error.
template <typename Do>
void again(const Do& request) {
    Status done = request();
    if (!done) done = request();
    EXPECT_OK(done);
}

// True: the fault happened.
bool run_with_fault(const Case& parameter, std::uint64_t fail_at) {
    MemoryDisks disks;
    const auto base = SectorModel::data(disk_sectors, 7);
    disks.add("/m/base")->bytes = base;
    EXPECT_OK(create_qcow2(disks, "/m/top.qcow2", disk_sectors * sector_size, parameter.variant,
                           BackingReference{"base", "raw"}));
    auto& image = disks.stores["/m/top.qcow2"]->bytes;
    std::mt19937_64 random(fail_at);
    if (parameter.dirty) make_dirty(image, random);
    const auto judge = [&] {
        if (!is_dirty(image)) {
            EXPECT_TRUE(is_sound(check_qcow2(disks, "/m/top.qcow2")));
        }
    };
    auto plan = std::make_shared<FaultPlan>();
    plan->code = parameter.code;
    plan->tear = parameter.tear;
    disks.wrap = [&](unsigned layer, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        if (layer != 0) return file;
        return std::make_unique<FaultyFile>(std::move(file), plan);
    };
    auto chain = disks.chain("qcow2:/m/top.qcow2", true);
    EXPECT_OK(chain);
    if (!chain) return false;
    StandIn target(**chain);
    SectorModel model(base);
    plan->count = 0;
    plan->fail_at = fail_at;

    std::uint64_t stamp = 100;
    for (int i = 0; i < 12; i++) {
        const auto sector = (static_cast<std::uint64_t>(i) * prime) % (disk_sectors - 40);
        const auto count = 1 + static_cast<std::uint64_t>(i) * 3;
        model.begun(sector, count, stamp);
        again([&] { return target.write({sector * sector_size}, SectorModel::data(count, stamp)); });
        stamp++;
        if (i % 4 == 3) {
            again([&] { return target.flush(); });
            model.flushed();
            judge();
        }
        if (i % 3 == 1) again([&] { return (*chain)->top().work(); });
        if (i == 7) {
            model.begun(1024, 1024, 0);
            again([&] { return target.discard({{1024 * sector_size}, 1024 * sector_size}); });
        }
        if (i % 5 == 2) (void)(*chain)->top().commit(DataState::written);
    }
    again([&] { return finish_work((*chain)->top()); });
    EXPECT_FALSE((*chain)->top().has_work());
    again([&] { return (*chain)->top().close(); });
    const bool failed = plan->failed;

    EXPECT_FALSE(is_dirty(image));
    EXPECT_TRUE(is_sound(check_qcow2(disks, "/m/top.qcow2")));
    disks.wrap = nullptr;
    auto reader = disks.chain("qcow2:/m/top.qcow2", false);
    EXPECT_OK(reader);
    if (!reader) return false;
    Bytes content(disk_sectors * sector_size);
    EXPECT_OK((*reader)->read({0}, content));
    EXPECT_TRUE(model.is_current(content));
    EXPECT_EQ(disks.stores["/m/base"]->bytes, base);
    return failed;
}

TEST_P(Qcow2Fault, EachOperationOnce) {
    std::uint64_t at = 0;
    while (run_with_fault(GetParam(), at) && !HasFailure()) at++;
    EXPECT_GT(at, 20u);
    if (HasFailure()) FAIL() << "operation " << at;
}

// A device's refcounts are made while it is opened: that fails as a whole, and can be tried again.
TEST(Qcow2FaultDirty, OnABlockDevice) {
    MemoryDisks disks;
    ASSERT_OK(create_qcow2(disks, "/m/top.qcow2", 1 << 20, {"", 4096}));
    const auto model = pattern(1 << 20, 1);
    {
        auto chain = disks.chain("qcow2:/m/top.qcow2", true);
        ASSERT_OK(chain);
        ASSERT_OK(StandIn(**chain).write({0}, model));
        ASSERT_OK((*chain)->top().close());
    }
    auto& store = *disks.stores["/m/top.qcow2"];
    std::mt19937_64 random(1);
    make_dirty(store.bytes, random);
    store.bytes.resize(4 << 20);
    store.fixed_size = true;
    const auto dirty = store.bytes;
    std::uint64_t at = 0;
    for (bool failed = true; failed && !HasFailure(); at++) {
        SCOPED_TRACE("operation " + std::to_string(at));
        store.bytes = dirty;
        auto plan = std::make_shared<FaultPlan>();
        plan->fail_at = at;
        plan->tear = true;
        disks.wrap = [&](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            return std::make_unique<FaultyFile>(std::move(file), plan);
        };
        auto chain = disks.chain("qcow2:/m/top.qcow2", true);
        failed = plan->failed;
        plan->fail_at = UINT64_MAX;
        EXPECT_TRUE(failed ? fails_with(chain, Code::io, "made to fail") : ::testing::AssertionResult(!!chain));
        if (failed) chain = disks.chain("qcow2:/m/top.qcow2", true);
        ASSERT_OK(chain);
        EXPECT_FALSE(is_dirty(store.bytes));
        EXPECT_TRUE(is_sound(check_qcow2(disks, "/m/top.qcow2")));
        Bytes seen(model.size());
        ASSERT_OK((*chain)->read({0}, seen));
        EXPECT_TRUE(seen == model);
    }
    EXPECT_GT(at, 10u);
}

TEST(Qcow2Full, GoesOnWhenThereIsRoomAgain) {
    MemoryDisks disks;
    ASSERT_OK(create_qcow2(disks, "/m/top.qcow2", 16 << 20, {"", 65536}));
    auto& store = *disks.stores["/m/top.qcow2"];
    store.capacity = 3 << 20;
    auto chain = disks.chain("qcow2:/m/top.qcow2", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    std::uint64_t written = 0;
    Status done;
    while (done && written < 16 << 20) {
        done = target.write({written}, pattern(65536, written));
        if (done) written += 65536;
    }
    EXPECT_TRUE(fails_with(done, Code::no_space, ""));
    EXPECT_GT(written, 2u << 20);  // all the room was used
    ASSERT_OK(target.flush());
    EXPECT_TRUE(is_sound(check_qcow2(disks, "/m/top.qcow2")));
    store.capacity = UINT64_MAX;
    for (; written < 16 << 20; written += 65536) ASSERT_OK(target.write({written}, pattern(65536, written)));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks, "/m/top.qcow2")));
    Bytes seen(65536);
    for (std::uint64_t at = 0; at < 16 << 20; at += 65536) {
        ASSERT_OK((*disks.chain("qcow2:/m/top.qcow2", false))->read({at}, seen));
        ASSERT_TRUE(seen == pattern(65536, at)) << at;
    }
}

TEST(Qcow2Full, OnABlockDevice) {
    MemoryDisks disks;
    auto store = disks.add("/m/top.qcow2");
    store->bytes.resize(4 << 20, std::byte{0x5a});
    store->fixed_size = true;
    store->zeroing = false;
    MemoryFile file(store, "/m/top.qcow2");
    CreateOptions options;
    options.virtual_size = 8 << 20;
    ASSERT_OK(find_format("qcow2")->create(file, options));
    auto chain = disks.chain("qcow2:/m/top.qcow2", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    std::uint64_t written = 0;
    Status done;
    while (done && written < 8 << 20) {
        done = target.write({written + 4096}, pattern(4096, written));
        if (done) written += 65536;
    }
    EXPECT_TRUE(fails_with(done, Code::no_space, ""));
    EXPECT_GT(written, 3u << 20);
    ASSERT_OK(target.flush());
    // A discard makes room.
    ASSERT_OK(target.discard({{0}, 1 << 20}));
    ASSERT_OK(target.flush());
    for (std::uint64_t at = 0; at < 1 << 20; at += 65536) ASSERT_OK(target.write({at + 4096}, pattern(4096, at)));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks, "/m/top.qcow2")));
    Bytes seen(65536);
    ASSERT_OK((*disks.chain("qcow2:/m/top.qcow2", false))->read({0}, seen));
    Bytes expected(65536);
    const auto bytes = pattern(4096, 0);
    std::copy(bytes.begin(), bytes.end(), expected.begin() + 4096);
    EXPECT_TRUE(seen == expected);
}

}  // namespace
}  // namespace dmu
