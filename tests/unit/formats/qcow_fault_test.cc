// SPDX-License-Identifier: GPL-2.0-or-later
// Each operation on the image's file fails once, in turn: the request under way may
// fail, everything else is right, and the next commit makes it durable.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/model.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 4096;
constexpr std::uint64_t prime = 8191;

struct Case {
    std::uint32_t cluster;
    Code code;
    bool tear;
};

class QcowFault : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kind, QcowFault,
                         ::testing::Values(Case{512, Code::io, false}, Case{4096, Code::io, true},
                                           Case{4096, Code::no_space, false}, Case{65536, Code::io, true}));

// True: the fault happened.
bool run_with_fault(const Case& parameter, std::uint64_t fail_at) {
    MemoryDisks disks;
    const auto base = SectorModel::data(disk_sectors, 7);
    disks.add("/m/base")->bytes = base;
    EXPECT_OK(disks.create("/m/top.qcow", disk_sectors * sector_size, parameter.cluster, "base"));
    auto plan = std::make_shared<FaultPlan>();
    plan->code = parameter.code;
    plan->tear = parameter.tear;
    disks.wrap = [&](unsigned layer, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        if (layer != 0) return file;
        return std::make_unique<FaultyFile>(std::move(file), plan);
    };
    const std::string spec = "qcow;backing-format=raw:/m/top.qcow";
    auto chain = disks.chain(spec, true);
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
        auto done = target.write({sector * sector_size}, SectorModel::data(count, stamp));
        // As a guest does that got an error: again.
        if (!done) done = target.write({sector * sector_size}, SectorModel::data(count, stamp));
        EXPECT_OK(done);
        stamp++;
        if (i % 4 == 3) {
            auto flushed = target.flush();
            if (!flushed) flushed = target.flush();
            EXPECT_OK(flushed);
            model.flushed();
            EXPECT_TRUE(is_sound(disks.check("/m/top.qcow")));
        }
        if (i % 5 == 2) (void)(*chain)->top().commit(DataState::written);
    }
    auto closed = (*chain)->top().close();
    if (!closed) closed = (*chain)->top().close();
    EXPECT_OK(closed);
    const bool failed = plan->failed;

    EXPECT_TRUE(is_sound(disks.check("/m/top.qcow")));
    disks.wrap = nullptr;
    auto again = disks.chain(spec, false);
    EXPECT_OK(again);
    Bytes content(disk_sectors * sector_size);
    EXPECT_OK((*again)->read({0}, content));
    EXPECT_TRUE(model.is_current(content));
    EXPECT_EQ(disks.stores["/m/base"]->bytes, base);
    return failed;
}

TEST_P(QcowFault, EachOperationOnce) {
    std::uint64_t at = 0;
    while (run_with_fault(GetParam(), at) && !HasFailure()) at++;
    EXPECT_GT(at, 20u);
    if (HasFailure()) FAIL() << "operation " << at;
}

TEST(QcowFault, ReadsWhileOpeningSayWhatFailed) {
    for (std::uint64_t at = 0; at < 3; at++) {
        MemoryDisks disks;
        ASSERT_OK(disks.create("/m/top", 1 << 20, 4096, "x"));
        auto plan = std::make_shared<FaultPlan>();
        plan->fail_at = at;
        auto file = std::make_unique<FaultyFile>(std::make_unique<MemoryFile>(disks.stores["/m/top"], "/m/top"), plan);
        EXPECT_TRUE(fails_with(find_format("qcow")->open(std::move(file), {true, {}}), Code::io, "/m/top"));
    }
}

}  // namespace
}  // namespace dmu
