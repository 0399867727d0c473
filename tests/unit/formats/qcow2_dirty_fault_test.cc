// SPDX-License-Identifier: GPL-2.0-or-later
// The disk is full, or broken, from some point on while a dirty image's refcounts are made:
// what was acknowledged stays, the mark stays, anybody can go on from there; and where the
// fault ends, so does the work.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/model.h"
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_sectors = 8192;
constexpr std::uint64_t prime = 4093;

struct Fault {
    const char* name;
    Qcow2Variant variant;
    Code code;
    unsigned kinds;
    bool tear = false;
};

constexpr unsigned growth = FaultPlan::allocations | FaultPlan::truncations;

class Qcow2DirtyLasting : public ::testing::TestWithParam<Fault> {
protected:
    // With data and a snapshot of some of it.
    void make() {
        MemoryDisks disks;
        ASSERT_OK(create_qcow2(disks, path_, disk_sectors * sector_size, GetParam().variant));
        auto chain = disks.chain("qcow2:" + path_, true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        const auto put = [&](std::uint64_t sector, std::uint64_t count, std::uint64_t stamp) {
            model_.begun(sector, count, stamp);
            ASSERT_OK(target.write({sector * sector_size}, SectorModel::data(count, stamp)));
        };
        put(0, 600, 1);
        put(1500, 200, 2);
        ASSERT_OK(target.flush());
        ASSERT_OK((*chain)->top().snapshots()->create("s"));
        StandIn after(**chain);
        ASSERT_OK(after.write({300 * sector_size}, SectorModel::data(100, 3)));
        model_.begun(300, 100, 3);
        ASSERT_OK((*chain)->top().close());
        model_.flushed();
        image_ = disks.stores[path_]->bytes;
    }
    // True: it came to the fault.
    bool run(std::uint64_t fail_at);
    void use(Chain& chain, StandIn& target, SectorModel& model);
    bool refused(const Status& done) const {
        if (done) return false;
        EXPECT_TRUE(fails_with(done, GetParam().code, path_ + ": "));
        EXPECT_TRUE(plan_->failed);
        return true;
    }
    void judge_what_is_left(const Bytes& left, const SectorModel& model);
    void judge_by_qemu(const Bytes& left, const SectorModel& model);

    struct Write {
        std::uint64_t sector, count, stamp;
    };
    const std::string path_ = "/m/top.qcow2";
    Bytes image_;
    SectorModel model_{SectorModel::data(disk_sectors, 0)};
    std::shared_ptr<FaultPlan> plan_;
    std::vector<Write> failed_;
};
INSTANTIATE_TEST_SUITE_P(
    Kind, Qcow2DirtyLasting,
    ::testing::Values(Fault{"Full", {"", 512, {{"refcount_bits", "64"}}}, Code::no_space, growth},
                      Fault{"FullForAll", {"", 4096}, Code::no_space, growth | FaultPlan::writes, true},
                      Fault{"Broken", {"", 4096}, Code::io, FaultPlan::all},
                      Fault{"BrokenWrites", {"", 1024}, Code::io, growth | FaultPlan::writes | FaultPlan::syncs, true}),
    [](const auto& info) { return std::string(info.param.name); });

void Qcow2DirtyLasting::use(Chain& chain, StandIn& target, SectorModel& model) {
    for (std::uint64_t i = 0; i < 12; i++) {
        const Write write{i * prime % (disk_sectors - 300), 150 + i * 10, 100 + i};
        model.begun(write.sector, write.count, write.stamp);
        if (refused(target.write({write.sector * sector_size}, SectorModel::data(write.count, write.stamp)))) {
            model.failed(write.sector, write.count);
            failed_.push_back(write);
        }
        if (i % 4 == 3 && !refused(target.flush())) model.flushed();
        if (i % 2 == 1) (void)refused(chain.top().work());
    }
    while (chain.top().has_work() && !refused(chain.top().work())) {
    }
}

// Killed here. The next one finds a dirty image as any other.
void Qcow2DirtyLasting::judge_what_is_left(const Bytes& left, const SectorModel& model) {
    MemoryDisks disks;
    disks.add(path_)->bytes = left;
    Bytes content(disk_sectors * sector_size);
    const bool dirty = is_dirty(left);
    if (!dirty) {
        EXPECT_TRUE(is_sound(check_qcow2(disks, path_)));
    }
    auto chain = disks.chain("qcow2:" + path_, false);
    ASSERT_OK(chain);
    ASSERT_OK((*chain)->read({0}, content));
    EXPECT_TRUE(model.is_possible(content));
    chain = disks.chain("qcow2:" + path_, true);
    ASSERT_OK(chain);
    EXPECT_EQ((*chain)->top().has_work(), dirty);
    ASSERT_OK(finish_work((*chain)->top()));
    ASSERT_OK((*chain)->top().close());
    const auto report = check_qcow2(disks, path_);
    EXPECT_TRUE(dirty ? is_clean(report) : is_sound(report));
    ASSERT_OK((*chain)->read({0}, content));
    EXPECT_TRUE(model.is_possible(content));
}

// As it lies there, then with its refcounts made by qemu.
void Qcow2DirtyLasting::judge_by_qemu(const Bytes& left, const SectorModel& model) {
    MemoryDisks disks;
    disks.add(path_)->bytes = left;
    QemuView qemu(disks);
    EXPECT_TRUE(model.is_possible(qemu.content("top.qcow2")));
    const auto repaired = run_command("qemu-img check -q -r all -f qcow2 " + qemu.directory / "top.qcow2");
    EXPECT_EQ(repaired.status, 0) << repaired.output;
    const auto checked = qemu.check("top.qcow2");
    EXPECT_EQ(checked.status, 0) << checked.output;
    EXPECT_TRUE(model.is_possible(qemu.content("top.qcow2")));
}

bool Qcow2DirtyLasting::run(std::uint64_t fail_at) {
    MemoryDisks disks;
    auto& image = disks.add(path_)->bytes;
    image = image_;
    std::mt19937_64 random(fail_at);
    make_dirty(image, random);
    plan_ = std::make_shared<FaultPlan>();
    plan_->kinds = GetParam().kinds;
    plan_->code = GetParam().code;
    plan_->tear = GetParam().tear;
    plan_->lasting = true;
    disks.wrap = [&](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
        return std::make_unique<FaultyFile>(std::move(file), plan_);
    };
    auto chain = disks.chain("qcow2:" + path_, true);
    EXPECT_OK(chain);
    if (!chain) return false;
    auto& top = (*chain)->top();
    auto model = model_;
    StandIn target(**chain);
    plan_->count = 0;
    plan_->fail_at = fail_at;
    failed_.clear();
    use(**chain, target, model);
    // The guest goes, or does not come that far.
    if (fail_at % 2 == 0 && !refused(top.close())) model.flushed();
    // Where the last write of all failed, the disk has it, and not we.
    if (top.has_work() && GetParam().code == Code::no_space) {
        EXPECT_TRUE(is_dirty(image));
    }
    judge_what_is_left(image, model);
    if (fail_at % 32 == 0 && has_qemu()) judge_by_qemu(image, model);

    const bool failed = plan_->failed;
    plan_->fail_at = UINT64_MAX;
    for (const auto& write : failed_) {
        model.begun(write.sector, write.count, write.stamp);
        EXPECT_OK(target.write({write.sector * sector_size}, SectorModel::data(write.count, write.stamp)));
    }
    EXPECT_OK(target.flush());
    EXPECT_OK(finish_work(top));
    EXPECT_OK(top.close());
    EXPECT_FALSE(is_dirty(image));
    // The places of data that could not be written are not used again.
    EXPECT_TRUE(is_sound(check_qcow2(disks, path_)));
    EXPECT_TRUE(is_clean(check_qcow2(disks, path_, GetParam().kinds == growth ? Repair::none : Repair::leaks)));
    Bytes content(disk_sectors * sector_size);
    EXPECT_OK((*chain)->read({0}, content));
    EXPECT_TRUE(model.is_current(content));
    return failed;
}

TEST_P(Qcow2DirtyLasting, FromEachOperationOn) {
    ASSERT_NO_FATAL_FAILURE(make());
    std::uint64_t at = 0;
    while (run(at) && !HasFailure()) at++;
    EXPECT_GT(at, GetParam().kinds == growth ? 1u : 20u);
    if (HasFailure()) FAIL() << "operation " << at;
}

}  // namespace
}  // namespace dmu
