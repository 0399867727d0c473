// SPDX-License-Identifier: GPL-2.0-or-later
// The host dies after any step that any of the disk's files saw, with any of what was not
// synced on the disk or not: the disk is sound and holds what a flush acknowledged.
#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 2048;

struct Case {
    const char* name;
    Options options;
    std::uint32_t grain;
    bool backing;
};

class VmdkCrash : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override {
        base_ = Bytes(disk_sectors * sector_size);
        if (GetParam().backing) {
            base_ = SectorModel::data(disk_sectors, 7);
            disks_.put("/m/base-flat.vmdk", base_);
            disks_.put("/m/base.vmdk", descriptor_text("RW 2048 FLAT \"base-flat.vmdk\" 0\n"));
        }
        ASSERT_OK(disks_.create_vmdk("/m/top.vmdk", disk_sectors * sector_size, GetParam().options, GetParam().grain,
                                     GetParam().backing ? "base.vmdk" : ""));
        for (const auto& [path, store] : disks_.stores)
            if (path.starts_with("/m/top")) recordings_[path] = std::make_shared<Recording>(store->bytes);
        disks_.wrap = [this](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            const auto found = recordings_.find(file->name());
            if (found == recordings_.end()) return file;
            return std::make_unique<RecordingFile>(std::move(file), found->second);
        };
    }

    std::map<std::string, std::size_t> now() const {
        std::map<std::string, std::size_t> steps;
        for (const auto& [path, recording] : recordings_) steps[path] = recording->size();
        return steps;
    }

    // The state after a crash, opened afresh.
    void look_at(const std::map<std::string, std::size_t>& steps, const SectorModel& model) {
        VmdkDisks after;
        after.stores = disks_.stores;
        for (const auto& [path, count] : steps)
            after.add(path)->bytes = recordings_.at(path)->replay_crashed(count, random_);
        EXPECT_TRUE(is_sound(after.check_vmdk("/m/top.vmdk")));
        auto chain = after.chain("vmdk:/m/top.vmdk", true);
        ASSERT_OK(chain);
        Bytes content(disk_sectors * sector_size);
        ASSERT_OK((*chain)->read({0}, content));
        EXPECT_TRUE(model.is_possible(content));
        // And it can be gone on with.
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, SectorModel::data(200, 1)));
        ASSERT_OK(target.flush());
        EXPECT_TRUE(is_sound(after.check_vmdk("/m/top.vmdk")));
        // Repaired, the copies of the tables are one again.
        ASSERT_OK((*chain)->top().close());
        ASSERT_OK(after.check_vmdk("/m/top.vmdk", Repair::leaks));
        const auto again = after.check_vmdk("/m/top.vmdk");
        ASSERT_OK(again);
        EXPECT_EQ(joined(again->messages).find("differ"), std::string::npos) << joined(again->messages);
    }

    // Every step between, one file's after another's: any other order is some crash's too.
    void look_between(std::map<std::string, std::size_t> from, const SectorModel& model) {
        for (const auto& [path, end] : now())
            while (from[path] < end) {
                from[path]++;
                for (int sample = 0; sample < 2 && !HasFailure(); sample++) look_at(from, model);
            }
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    VmdkDisks disks_;
    Bytes base_;
    std::map<std::string, std::shared_ptr<Recording>> recordings_;
};

INSTANTIATE_TEST_SUITE_P(
    Kind, VmdkCrash,
    ::testing::Values(Case{"Sparse", {}, 8192, false}, Case{"SparseBacked", {}, 16384, true},
                      Case{"Zeroed", {{"zeroed_grain", "on"}}, 8192, true},
                      Case{"Split", {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "524288"}}, 8192, true},
                      Case{"Cowd", {{"subformat", "vmfsSparse"}}, 4096, true},
                      Case{"Cowd512", {{"subformat", "vmfsSparse"}}, 512, false}),
    [](const auto& info) { return info.param.name; });

TEST_P(VmdkCrash, AnywhereAnyhow) {
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed_));
    auto chain = disks_.chain("vmdk:/m/top.vmdk", true);
    ASSERT_OK(chain);
    auto target = std::make_unique<StandIn>(**chain);
    target->lease_ahead(random_() % 2 * 30000);
    SectorModel model(base_);
    std::uint64_t stamp = 100;
    const auto grain_sectors = (*chain)->top().info().grain / sector_size;
    auto looked_at = now();
    for (int operation = 0; operation < 24; operation++) {
        const auto kind = random_() % 9;
        if (kind == 0) {
            ASSERT_OK(target->flush());
        } else if (kind == 1) {
            ASSERT_OK((*chain)->top().commit(DataState::written));
        } else if (kind == 2) {
            // The mapper dies and a successor goes on, with the log of the kernel.
            const auto log = target->log();
            const auto lease = target->lease();
            chain = disks_.chain("vmdk:/m/top.vmdk", true);
            ASSERT_OK(chain);
            target = std::make_unique<StandIn>(**chain);
            ASSERT_OK(target->adopt(log, lease));
            target->lease_ahead(random_() % 2 * 30000);
        } else if (kind == 4) {
            ASSERT_OK(target->give_back());
        } else if (kind == 3 && (*chain)->top().info().discards_to_zero) {
            const auto first = random_() % (disk_sectors / grain_sectors) * grain_sectors;
            const auto count = std::min(grain_sectors * (1 + random_() % 4), disk_sectors - first);
            model.begun(first, count, 0);
            ASSERT_OK(target->discard({{first * sector_size}, count * sector_size}));
        } else {
            const auto sector = random_() % disk_sectors;
            const auto count = 1 + random_() % std::min<std::uint64_t>(disk_sectors - sector, 150);
            model.begun(sector, count, stamp);
            ASSERT_OK(target->write({sector * sector_size}, SectorModel::data(count, stamp++)));
        }
        look_between(looked_at, model);
        looked_at = now();
        if (kind == 0) {
            model.flushed();
            look_at(looked_at, model);
        }
        if (HasFailure()) FAIL() << "operation " << operation;
    }
    ASSERT_OK((*chain)->top().close());
    look_between(looked_at, model);
}

}  // namespace
}  // namespace dmu
