// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against an array of bytes, for every variant of the format, with
// mappers that die, images that are opened again, and snapshots; at the end qemu reads
// the image too, and finds nothing wrong.
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

class Qcow2Random : public ::testing::TestWithParam<Qcow2Variant> {
protected:
    void make() {
        std::optional<BackingReference> backing;
        const std::uint64_t sectors = 6000 + random_() % 100;
        model_.resize(sectors * 512);
        if (GetParam().backing) {
            const auto base = pattern((3000 + random_() % 6000) * 512, random_());
            disks_.add("/m/base")->bytes = base;
            std::copy_n(base.begin(), std::min(base.size(), model_.size()), model_.begin());
            backing = BackingReference{"base", "raw"};
        }
        ASSERT_OK(create_qcow2(disks_, "/m/top.qcow2", model_.size(), GetParam(), backing));
        ASSERT_TRUE(is_clean(check_qcow2(disks_, "/m/top.qcow2")));
    }
    void open() {
        target_.reset();
        auto chain = disks_.chain("qcow2:/m/top.qcow2", true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        target_ = std::make_unique<StandIn>(*chain_);
        if (random_() % 2) target_->lease_ahead(1 + random_() % 200000);
        ASSERT_EQ(target_->size(), model_.size());
    }
    void write_something() {
        const bool large = random_() % 8 == 0;
        auto offset = random_() % model_.size();
        auto length = std::min<std::uint64_t>(1 + random_() % (large ? 300000 : 9000), model_.size() - offset);
        if (random_() % 2) {
            offset = align_down(offset, 512);
            length = std::min(align_up(length, 512), model_.size() - offset);
        }
        const auto bytes = pattern(length, random_());
        ASSERT_OK(target_->write({offset}, bytes));
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void discard_something() {
        const auto& info = chain_->top().info();
        const auto offset = random_() % model_.size();
        const auto length = std::min<std::uint64_t>(1 + random_() % 400000, model_.size() - offset);
        ASSERT_OK(target_->discard({{offset}, length}));
        if (!info.discards_to_zero) return;
        const auto start = align_up(offset, info.grain);
        const auto end = offset + length == model_.size() ? model_.size() : align_down(offset + length, info.grain);
        for (auto at = start; at < end; at++) model_[at] = std::byte{0};
    }
    void read_something() {
        const auto offset = random_() % model_.size();
        Bytes seen(std::min<std::uint64_t>(1 + random_() % 50000, model_.size() - offset));
        ASSERT_OK(target_->read({offset}, seen));
        ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset)))
            << offset;
    }
    void succeed() {
        const auto log = target_->log();
        const auto lease = target_->lease();
        open();
        ASSERT_OK(target_->adopt(log, lease));
        leaks_ = true;
    }
    void use_snapshots() {
        auto* snapshots = chain_->top().snapshots();
        if (GetParam().has("data_file")) return;
        const bool narrow = GetParam().name == "Refcount1" || GetParam().name == "Refcount2";
        const auto kind = random_() % 4;
        if (saved_.empty() || kind < 2) {
            const auto name = "s" + std::to_string(next_snapshot_++);
            const auto done = snapshots->create(name);
            // Refcounts too narrow for a second user.
            if (!done && narrow) {
                ASSERT_EQ(done.error().code, Code::unsupported) << done.error().message;
                return;
            }
            ASSERT_OK(done);
            saved_[name] = model_;
        } else {
            auto which = saved_.begin();
            std::advance(which, random_() % saved_.size());
            if (kind == 2) {
                const auto done = snapshots->apply(which->first);
                if (!done && narrow) {
                    ASSERT_EQ(done.error().code, Code::unsupported) << done.error().message;
                    return;
                }
                ASSERT_OK(done);
                model_ = which->second;
            } else {
                ASSERT_OK(snapshots->remove(which->first));
                saved_.erase(which);
            }
        }
        // What look-up said before is void.
        target_ = std::make_unique<StandIn>(*chain_);
        if (random_() % 2) target_->lease_ahead(1 + random_() % 200000);
    }
    void do_something() {
        const auto kind = random_() % 24;
        if (kind < 9) return write_something();
        if (kind < 15) return read_something();
        if (kind < 17) return discard_something();
        if (kind == 17) ASSERT_OK(target_->flush());
        if (kind == 18) ASSERT_OK(chain_->top().commit(DataState::written));
        if (kind == 19) return succeed();
        if (kind == 20) {
            if (random_() % 2) ASSERT_OK(target_->give_back());
            ASSERT_OK(chain_->top().close());
            return open();
        }
        if (kind == 21 && random_() % 2) use_snapshots();
    }
    void look_with_qemu() {
        if (!has_qemu()) return;
        QemuView qemu(disks_);
        const auto verdict = qemu.check("top.qcow2");
        EXPECT_EQ(verdict.status, 0) << verdict.output;
        EXPECT_TRUE(qemu.content("top.qcow2") == model_);
        for (const auto& [name, content] : saved_) {
            const auto ran =
                run_command("cd '" + qemu.directory.path() + "' && qemu-img convert -f qcow2 -l snapshot.name=" + name +
                            " -O raw top.qcow2 snap.raw");
            EXPECT_EQ(ran.status, 0) << ran.output;
            EXPECT_TRUE(read_file(qemu.directory / "snap.raw") == content) << name;
        }
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    MemoryDisks disks_;
    Bytes model_;
    std::map<std::string, Bytes> saved_;
    int next_snapshot_ = 0;
    bool leaks_ = false;
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
};

INSTANTIATE_TEST_SUITE_P(Variant, Qcow2Random, ::testing::ValuesIn(qcow2_variants()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Qcow2Random, AgreesWithTheModelAndQemu) {
    ASSERT_NO_FATAL_FAILURE(make());
    ASSERT_NO_FATAL_FAILURE(open());
    for (int i = 0; i < 150; i++) ASSERT_NO_FATAL_FAILURE(do_something()) << i;
    Bytes seen(model_.size());
    ASSERT_OK(target_->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    ASSERT_OK(chain_->top().close());
    target_.reset();
    chain_.reset();
    if (leaks_) {
        EXPECT_TRUE(is_sound(check_qcow2(disks_, "/m/top.qcow2")));
        EXPECT_TRUE(is_clean(check_qcow2(disks_, "/m/top.qcow2", Repair::leaks)));
    }
    EXPECT_TRUE(is_clean(check_qcow2(disks_, "/m/top.qcow2")));
    auto reader = disks_.chain("qcow2:/m/top.qcow2", false);
    ASSERT_OK(reader);
    std::fill(seen.begin(), seen.end(), std::byte{0x77});
    ASSERT_OK((*reader)->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    look_with_qemu();
}

}  // namespace
}  // namespace dmu
