// SPDX-License-Identifier: GPL-2.0-or-later
// The host dies after any step that the image's file saw, with any of what was not
// synced on the disk or not: the image is sound and holds what a flush acknowledged.
#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/marked.h"
#include "tests/unit/formats/qcow_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 2048;

struct Case {
    std::uint32_t cluster;
    bool backing;
    bool encrypted = false;
};

class QcowCrash : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override {
        SCOPED_TRACE("");
        base_ = Bytes(disk_sectors * sector_size);
        if (GetParam().backing) {
            base_ = marked_data(0, disk_sectors, 1);
            disks_.add("/m/base")->bytes = base_;
        }
        ASSERT_OK(create_qcow(disks_, "/m/top.qcow", disk_sectors * sector_size, GetParam().cluster,
                              GetParam().backing ? "base" : "", GetParam().encrypted ? key_.path() : ""));
        recording_ = std::make_shared<Recording>(disks_.stores["/m/top.qcow"]->bytes);
        disks_.wrap = [this](unsigned layer, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            if (layer != 0) return file;
            return std::make_unique<RecordingFile>(std::move(file), recording_);
        };
    }

    Result<std::unique_ptr<Chain>> open(bool writable) { return disks_.chain(spec_, writable); }

    // The state after a crash, opened afresh.
    void look_at(Bytes image, const MarkedModel& model) {
        MemoryDisks after;
        after.stores = disks_.stores;
        after.add("/m/top.qcow")->bytes = std::move(image);
        EXPECT_TRUE(is_sound(after.check("/m/top.qcow")));
        expect_nothing_plain(after);
        auto chain = after.chain(spec_, true);
        ASSERT_OK(chain);
        Bytes content(disk_sectors * sector_size);
        ASSERT_OK((*chain)->read({0}, content));
        EXPECT_TRUE(model.is_possible(content));
        // And it can be gone on with.
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, marked_data(0, 200, 2)));
        ASSERT_OK(target.flush());
        EXPECT_TRUE(is_sound(after.check("/m/top.qcow")));
        expect_nothing_plain(after);
    }
    void expect_nothing_plain(const MemoryDisks& after) const {
        EXPECT_FALSE(GetParam().encrypted && holds_plain_text(after.stores.at("/m/top.qcow")->bytes));
    }

    const KeyFile key_;
    const std::string spec_ =
        "qcow;backing-format=raw" + (GetParam().encrypted ? ";key-file=" + key_.path() : "") + ":/m/top.qcow";
    MemoryDisks disks_;
    Bytes base_;
    std::shared_ptr<Recording> recording_;
};

INSTANTIATE_TEST_SUITE_P(Geometry, QcowCrash,
                         ::testing::Values(Case{512, true}, Case{4096, false}, Case{4096, true}, Case{65536, true},
                                           Case{512, true, true}, Case{4096, false, true}, Case{65536, true, true}));

TEST_P(QcowCrash, AnywhereAnyhow) {
    const auto seed = test_seed();
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    auto chain = open(true);
    ASSERT_OK(chain);
    auto target = std::make_unique<StandIn>(**chain);
    MarkedModel model(base_);
    std::uint64_t write = 3;
    std::size_t looked_at = 0;
    for (int operation = 0; operation < 40; operation++) {
        const auto kind = random() % 8;
        const auto before = model;
        if (kind == 0) {
            ASSERT_OK(target->flush());
        } else if (kind == 1) {
            ASSERT_OK((*chain)->top().commit(DataState::written));
        } else if (kind == 2) {
            // The mapper dies and a successor goes on, with the log of the kernel.
            const auto log = target->log();
            chain = open(true);
            ASSERT_OK(chain);
            target = std::make_unique<StandIn>(**chain);
            ASSERT_OK(target->adopt(log));
        } else {
            const auto sector = random() % disk_sectors;
            const auto count = 1 + random() % std::min<std::uint64_t>(disk_sectors - sector, 150);
            ASSERT_OK(target->write({sector * sector_size}, model.begun(sector, count, write++)));
        }
        // Every step of this operation; before it ends, what it does is not acknowledged.
        for (; looked_at < recording_->size(); looked_at++)
            for (int sample = 0; sample < 2; sample++)
                look_at(recording_->replay_crashed(looked_at + 1, random), model);
        look_at(recording_->replay(looked_at), model);
        if (kind == 0) {
            model.flushed();
            look_at(recording_->replay_crashed(looked_at, random), model);
        }
        if (HasFailure()) FAIL() << "operation " << operation << ", step " << looked_at;
    }
    ASSERT_OK((*chain)->top().close());
    for (; looked_at <= recording_->size(); looked_at++) look_at(recording_->replay_crashed(looked_at, random), model);
}

}  // namespace
}  // namespace dmu
