// SPDX-License-Identifier: GPL-2.0-or-later
// Each operation on any of the disk's files fails once, in turn: the request under way may
// fail, everything else is right, and the next commit makes it durable.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 4096;
constexpr std::uint64_t prime = 8191;

struct Case {
    const char* name;
    Options options;
    std::uint32_t grain;
    Code code;
    bool tear;
};

class VmdkFault : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Kind, VmdkFault,
    ::testing::Values(
        Case{"Sparse", {}, 8192, Code::io, false}, Case{"SparseTorn", {}, 65536, Code::io, true},
        Case{"SparseFull", {}, 16384, Code::no_space, false},
        Case{"Split", {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "524288"}}, 8192, Code::io, true},
        Case{"SplitLate",
             {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "524288"}, {"lazy_extents", "on"}},
             8192,
             Code::io,
             true},
        Case{"SplitLateFull",
             {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "524288"}, {"lazy_extents", "on"}},
             8192,
             Code::no_space,
             false},
        Case{"Cowd", {{"subformat", "vmfsSparse"}}, 4096, Code::io, true},
        Case{"CowdFull", {{"subformat", "vmfsSparse"}}, 512, Code::no_space, false}),
    [](const auto& info) { return info.param.name; });

// True: the fault happened.
bool run_with_fault(const Case& parameter, std::uint64_t fail_at) {
    VmdkDisks disks;
    const auto base = SectorModel::data(disk_sectors, 7);
    disks.put("/m/base-flat.vmdk", base);
    disks.put("/m/base.vmdk", descriptor_text("RW 4096 FLAT \"base-flat.vmdk\" 0\n"));
    EXPECT_OK(
        disks.create_vmdk("/m/top.vmdk", disk_sectors * sector_size, parameter.options, parameter.grain, "base.vmdk"));
    auto plan = std::make_shared<FaultPlan>();
    plan->code = parameter.code;
    plan->tear = parameter.tear;
    disks.wrap = [&](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        if (!file->name().starts_with("/m/top")) return file;
        return std::make_unique<FaultyFile>(std::move(file), plan);
    };
    auto chain = disks.chain("vmdk:/m/top.vmdk", true);
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
            // The check's own reads are not what is to fail.
            const auto wrap = std::exchange(disks.wrap, nullptr);
            EXPECT_TRUE(is_sound(disks.check_vmdk("/m/top.vmdk")));
            disks.wrap = wrap;
        }
        if (i % 5 == 2) (void)(*chain)->top().commit(DataState::written);
    }
    auto closed = (*chain)->top().close();
    if (!closed) closed = (*chain)->top().close();
    EXPECT_OK(closed);
    const bool failed = plan->failed;

    disks.wrap = nullptr;
    EXPECT_TRUE(is_sound(disks.check_vmdk("/m/top.vmdk")));
    const auto content = disks.content("vmdk:/m/top.vmdk");
    EXPECT_OK(content);
    if (content) {
        EXPECT_TRUE(model.is_current(*content));
    }
    EXPECT_EQ(disks.stores["/m/base-flat.vmdk"]->bytes, base);
    return failed;
}

TEST_P(VmdkFault, EachOperationOnce) {
    std::uint64_t at = 0;
    while (run_with_fault(GetParam(), at) && !HasFailure()) at++;
    EXPECT_GT(at, 20u);
    if (HasFailure()) FAIL() << "operation " << at;
}

TEST(VmdkFull, GoesOnWhenThereIsSpaceAgain) {
    VmdkDisks disks;
    ASSERT_OK(disks.create_vmdk("/m/d.vmdk", 64 << 20, {}));
    auto& store = *disks.stores["/m/d.vmdk"];
    store.capacity = store.bytes.size() + 5 * 65536;
    auto chain = disks.chain("vmdk:/m/d.vmdk", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    std::uint64_t written = 0;
    Status done = ok();
    while ((done = target.write({written * 65536}, pattern(65536, written)))) written++;
    EXPECT_TRUE(fails_with(done, Code::no_space, "no space"));
    EXPECT_EQ(written, 5u);
    ASSERT_OK(target.flush());
    // A discard makes room; so does the file system.
    ASSERT_OK(target.discard({{0}, 65536}));
    ASSERT_OK(target.flush());
    ASSERT_OK(target.write({40 * 65536}, pattern(65536, 40)));
    EXPECT_FALSE(target.write({41 * 65536}, pattern(65536, 41)));
    store.capacity = UINT64_MAX;
    ASSERT_OK(target.write({41 * 65536}, pattern(65536, 41)));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_sound(disks.check_vmdk("/m/d.vmdk")));
    const auto content = disks.content("vmdk:/m/d.vmdk");
    ASSERT_OK(content);
    for (const std::uint64_t at : {1u, 4u, 40u, 41u})
        EXPECT_TRUE(std::equal(content->begin() + static_cast<std::ptrdiff_t>(at * 65536),
                               content->begin() + static_cast<std::ptrdiff_t>((at + 1) * 65536),
                               pattern(65536, at).begin()))
            << at;
    EXPECT_EQ((*content)[0], std::byte{0});
}

}  // namespace
}  // namespace dmu
