// SPDX-License-Identifier: GPL-2.0-or-later
// A qcow2 image in memory beside an array of bytes, which says what must be read of it.
#pragma once

#include "tests/unit/formats/qcow2_support.h"

namespace dmu {

class Qcow2BesideModel : public ::testing::TestWithParam<Qcow2Variant> {
protected:
    void create(std::uint64_t size, std::uint64_t base_size) {
        std::optional<BackingReference> backing;
        model_.resize(size);
        if (GetParam().backing) {
            const auto base = pattern(base_size, random_());
            disks_.add("/m/base")->bytes = base;
            std::copy_n(base.begin(), std::min(base_size, size), model_.begin());
            backing = BackingReference{"base", "raw"};
        }
        ASSERT_OK(create_qcow2(disks_, path_, size, GetParam(), backing));
    }
    void open() {
        target_.reset();
        auto chain = disks_.chain("qcow2:" + path_, true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        begin();
        ASSERT_EQ(target_->size(), model_.size());
    }
    // Knows nothing of what look-up has said before.
    void begin() {
        target_ = std::make_unique<StandIn>(*chain_);
        if (random_() % 2) target_->lease_ahead(1 + random_() % 200000);
    }
    void write(std::uint64_t offset, std::uint64_t length) {
        const auto bytes = pattern(length, random_());
        ASSERT_OK(target_->write({offset}, bytes));
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void discard(std::uint64_t offset, std::uint64_t length) {
        const auto& info = chain_->top().info();
        ASSERT_OK(target_->discard({{offset}, length}));
        if (!info.discards_to_zero) return;
        const auto start = align_up(offset, info.grain);
        const auto end = offset + length == model_.size() ? model_.size() : align_down(offset + length, info.grain);
        for (auto at = start; at < end; at++) model_[at] = std::byte{0};
    }
    // A range within the disk.
    std::pair<std::uint64_t, std::uint64_t> somewhere(std::uint64_t longest) {
        const auto offset = random_() % model_.size();
        return {offset, std::min<std::uint64_t>(1 + random_() % longest, model_.size() - offset)};
    }
    // The mapper has died; the kernel's log and leases go to another one.
    void succeed() {
        const auto log = target_->log();
        const auto lease = target_->lease();
        open();
        ASSERT_OK(target_->adopt(log, lease));
        leaks_ = true;
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    const std::string path_ = "/m/top.qcow2";
    MemoryDisks disks_;
    Bytes model_;
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
    std::map<std::string, Bytes> saved_;  // snapshots by name
    bool leaks_ = false;
};

}  // namespace dmu
