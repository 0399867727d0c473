// SPDX-License-Identifier: GPL-2.0-or-later
// The host dies after any step that the image's file saw, with any of what was not
// synced on the disk or not: the image is sound and holds what a flush acknowledged.
#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 1024;

class Qcow2Crash : public ::testing::TestWithParam<Qcow2Variant> {
protected:
    void SetUp() override {
        base_ = Bytes(disk_sectors * sector_size);
        std::optional<BackingReference> backing;
        if (GetParam().backing) {
            base_ = SectorModel::data(disk_sectors, 7);
            disks_.add("/m/base")->bytes = base_;
            backing = BackingReference{"base", "raw"};
        }
        ASSERT_OK(create_qcow2(disks_, "/m/top.qcow2", disk_sectors * sector_size, GetParam(), backing));
        if (starts_dirty()) {
            auto chain = disks_.chain(spec_, true);
            ASSERT_OK(chain);
            StandIn target(**chain);
            ASSERT_OK(target.write({100 * sector_size}, SectorModel::data(300, 8)));
            ASSERT_OK(target.discard({{200 * sector_size}, 60 * sector_size}));
            ASSERT_OK((*chain)->top().close());
            base_.resize(disk_sectors * sector_size);
            ASSERT_OK((*chain)->read({0}, base_));
            make_dirty(disks_.stores["/m/top.qcow2"]->bytes, random_);
        }
        recording_ = std::make_shared<Recording>(disks_.stores["/m/top.qcow2"]->bytes);
        disks_.wrap = [this](unsigned layer, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            if (layer != 0) return file;
            return std::make_unique<RecordingFile>(std::move(file), recording_);
        };
    }

    bool starts_dirty() const { return GetParam().name.starts_with("Dirty"); }

    void open() {
        target_.reset();
        auto chain = disks_.chain(spec_, true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        target_ = std::make_unique<StandIn>(*chain_);
        if (random_() % 2) target_->lease_ahead(1 + random_() % 40000);
    }

    // The state after a crash, opened afresh.
    void look_at(Bytes image, const SectorModel& model) {
        MemoryDisks after;
        after.stores = disks_.stores;
        after.add("/m/top.qcow2")->bytes = std::move(image);
        if (is_dirty(after.stores["/m/top.qcow2"]->bytes))
            EXPECT_TRUE(starts_dirty());
        else
            EXPECT_TRUE(is_sound(check_qcow2(after, "/m/top.qcow2")));
        auto chain = after.chain(spec_, true);
        ASSERT_OK(chain);
        Bytes content(disk_sectors * sector_size);
        ASSERT_OK((*chain)->read({0}, content));
        EXPECT_TRUE(model.is_possible(content));
        // And it can be gone on with.
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, SectorModel::data(200, 1)));
        ASSERT_OK(target.flush());
        ASSERT_OK(finish_work((*chain)->top()));
        EXPECT_TRUE(is_sound(check_qcow2(after, "/m/top.qcow2")));
    }

    // Every step since the last time; what an operation does is not acknowledged before it ends.
    void look_at_new_steps(const SectorModel& model) {
        for (; looked_at_ < recording_->size(); looked_at_++)
            for (int sample = 0; sample < 2; sample++)
                look_at(recording_->replay_crashed(looked_at_ + 1, random_), model);
        look_at(recording_->replay(looked_at_), model);
    }

    void do_something(SectorModel& model) {
        const auto kind = random_() % 9;
        if (chain_->top().has_work() && random_() % 8 == 0) {
            ASSERT_OK(chain_->top().work());
        } else if (kind == 0) {
            ASSERT_OK(target_->flush());
            look_at_new_steps(model);
            model.flushed();
            look_at(recording_->replay_crashed(looked_at_, random_), model);
        } else if (kind == 1) {
            ASSERT_OK(chain_->top().commit(DataState::written));
        } else if (kind == 2) {
            // The mapper dies and a successor goes on, with the log of the kernel.
            const auto log = target_->log();
            const auto lease = target_->lease();
            ASSERT_NO_FATAL_FAILURE(open());
            ASSERT_OK(target_->adopt(log, lease));
        } else if (kind == 3) {
            discard(model);
        } else if (kind == 4) {
            ASSERT_OK(target_->give_back());
        } else {
            const auto sector = random_() % disk_sectors;
            const auto count = 1 + random_() % std::min<std::uint64_t>(disk_sectors - sector, 150);
            model.begun(sector, count, stamp_);
            ASSERT_OK(target_->write({sector * sector_size}, SectorModel::data(count, stamp_++)));
        }
        look_at_new_steps(model);
    }

    void discard(SectorModel& model) {
        const auto& info = chain_->top().info();
        const auto grain = info.grain / sector_size, grains = disk_sectors / grain;
        if (!info.discards_to_zero || grains == 0) return;
        const auto first = random_() % grains, count = 1 + random_() % (grains - first);
        model.begun(first * grain, count * grain, 0);
        ASSERT_OK(target_->discard({{first * grain * sector_size}, count * grain * sector_size}));
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    const std::string spec_ = "qcow2:/m/top.qcow2";
    MemoryDisks disks_;
    Bytes base_;
    std::shared_ptr<Recording> recording_;
    std::size_t looked_at_ = 0;
    SectorModel::Stamp stamp_ = 100;
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
};

std::vector<Qcow2Variant> crash_variants() {
    return {{"Small", 512, {}, true},
            {"V2", 4096, {{"compat", "0.10"}}, false},
            {"Backing", 4096, {}, true},
            {"Narrow", 512, {{"refcount_bits", "1"}}, true},
            {"Wide", 512, {{"refcount_bits", "64"}}, false},
            {"ExtendedL2", 16384, {{"extended_l2", "on"}}, true},
            {"Large", 65536, {}, true},
            {"Dirty", 4096, {}, true},
            {"DirtySmall", 512, {{"refcount_bits", "64"}}, false},
            {"DirtyExtendedL2", 16384, {{"extended_l2", "on"}}, true}};
}
INSTANTIATE_TEST_SUITE_P(Variant, Qcow2Crash, ::testing::ValuesIn(crash_variants()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Qcow2Crash, AnywhereAnyhow) {
    ASSERT_NO_FATAL_FAILURE(open());
    SectorModel model(base_);
    for (int operation = 0; operation < 25; operation++) {
        ASSERT_NO_FATAL_FAILURE(do_something(model)) << operation;
        if (HasFailure()) FAIL() << "operation " << operation << ", step " << looked_at_;
    }
    ASSERT_OK(finish_work(chain_->top()));
    ASSERT_OK(chain_->top().close());
    look_at_new_steps(model);
    EXPECT_TRUE(is_sound(check_qcow2(disks_, "/m/top.qcow2")));
}

// Snapshots: whatever is there afterwards, the disk reads as it did before or after.
TEST_P(Qcow2Crash, WhileSnapshotsAreMade) {
    ASSERT_NO_FATAL_FAILURE(open());
    SectorModel model(base_);
    auto* snapshots = chain_->top().snapshots();
    model.begun(10, 90, 50);
    ASSERT_OK(target_->write({10 * sector_size}, SectorModel::data(90, 50)));
    ASSERT_OK(target_->flush());
    model.flushed();
    looked_at_ = recording_->size();
    if (GetParam().name == "Narrow") {
        // Of 1 bit: nothing can be shared, and nothing has changed.
        ASSERT_TRUE(fails_with(snapshots->create("a"), Code::unsupported, "refcounts"));
        look_at_new_steps(model);
        return;
    }
    ASSERT_OK(snapshots->create("a"));
    look_at_new_steps(model);
    target_ = std::make_unique<StandIn>(*chain_);
    model.begun(40, 90, 51);
    ASSERT_OK(target_->write({40 * sector_size}, SectorModel::data(90, 51)));
    ASSERT_OK(target_->flush());
    look_at_new_steps(model);
    // Back: what was written since is gone, or not yet.
    ASSERT_OK(snapshots->apply("a"));
    look_at_new_steps(model);
    ASSERT_OK(snapshots->remove("a"));
    look_at_new_steps(model);
    ASSERT_OK(chain_->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks_, "/m/top.qcow2")));
}

}  // namespace
}  // namespace dmu
