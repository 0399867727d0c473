// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against an array of bytes, for every kind of disk that is written,
// with mappers that die and images that are opened again; at the end qemu reads the disk
// too, writes to it, and we read that.
#include "tests/unit/formats/qemu_on_disks.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

struct Case {
    const char* name;
    Options options;
    std::uint32_t grain;
    bool backing, zeroing;
};

class VmdkRandom : public ::testing::TestWithParam<Case> {
protected:
    void make() {
        const auto& how = GetParam();
        const auto sectors = 9000 + random_() % 100;
        model_.resize(sectors * 512);
        if (how.backing) {
            ASSERT_OK(disks_.create_vmdk("/m/base.vmdk", 6000 * 512, {}, 8192));
            spec_ = "vmdk:/m/base.vmdk";
            Bytes rest(model_.begin() + 6000 * 512, model_.end());
            model_.resize(6000 * 512);
            open();
            for (int i = 0; i < 20; i++) write_something();
            ASSERT_OK(chain_->top().close());
            model_.resize(sectors * 512);
        }
        ASSERT_OK(
            disks_.create_vmdk("/m/d.vmdk", sectors * 512, how.options, how.grain, how.backing ? "base.vmdk" : ""));
        for (auto& [path, store] : disks_.stores) store->zeroing = how.zeroing;
        spec_ = "vmdk:/m/d.vmdk";
    }
    void open() {
        target_.reset();
        auto chain = disks_.chain(spec_, true);
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
        const auto bytes = pattern(length, random_());
        ASSERT_OK(target_->write({offset}, bytes));
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void discard_something() {
        const auto grain = chain_->top().info().grain;
        const auto first = random_() % (model_.size() / grain), count = 1 + random_() % 20;
        const auto start = first * grain, end = std::min<std::uint64_t>(start + count * grain, model_.size());
        ASSERT_OK(target_->discard({{start}, end - start}));
        if (!chain_->top().info().discards_to_zero) return;
        const auto whole = end == model_.size() ? end : align_down(end, grain);
        std::fill(model_.begin() + static_cast<std::ptrdiff_t>(start),
                  model_.begin() + static_cast<std::ptrdiff_t>(whole), std::byte{0});
    }
    void read_something() {
        const auto offset = random_() % model_.size();
        Bytes seen(std::min<std::uint64_t>(1 + random_() % 50000, model_.size() - offset));
        ASSERT_OK(target_->read({offset}, seen));
        ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset)))
            << offset;
        ASSERT_TRUE(is_same_alone(*chain_, {{offset}, seen.size()})) << offset;
    }
    void step() {
        const auto kind = random_() % 22;
        if (kind < 9) return write_something();
        if (kind < 15) return read_something();
        if (kind < 18) return discard_something();
        if (kind == 18) ASSERT_OK(target_->flush());
        if (kind == 19) ASSERT_OK(chain_->top().commit(DataState::written));
        if (kind == 20) {
            const auto log = target_->log();
            const auto lease = target_->lease();
            open();
            ASSERT_OK(target_->adopt(log, lease));
        }
        if (kind == 21) {
            if (random_() % 2) ASSERT_OK(target_->give_back());
            ASSERT_OK(chain_->top().close());
            open();
        }
    }
    void exchange_with_qemu() {
        // It drops the lines of extents that are not made yet, and shifts the others.
        const auto& descriptor = disks_.stores["/m/d.vmdk"]->bytes;
        const std::string text(reinterpret_cast<const char*>(descriptor.data()),
                               std::min<std::size_t>(descriptor.size(), 4096));
        const bool whole = text.find(" ZERO") == std::string::npos;
        EXPECT_TRUE(whole || std::string(GetParam().name).find("Late") != std::string::npos);
        if (!whole) return;
        QemuOnDisks qemu(disks_);
        EXPECT_TRUE(qemu.content("vmdk", "d.vmdk") == model_);
        // Of COWD it does not move the first free sector. It fills a grain of a second extent from
        // where the backing file has the first one's.
        const std::string name = GetParam().name;
        if (name.starts_with("Cowd") || (name.starts_with("Split") && GetParam().backing)) return;
        qemu.write("vmdk", "d.vmdk", 512, 12, model_, random_);
        EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
        const auto content = disks_.content(spec_);
        ASSERT_OK(content);
        EXPECT_TRUE(*content == model_);
    }

    VmdkDisks disks_;
    std::string spec_;
    Bytes model_;
    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
};

std::vector<Case> cases() {
    const Options sparse{}, zeroed{{"zeroed_grain", "on"}};
    const Options split{{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}};
    Options split_zeroed = split;
    split_zeroed.push_back({"zeroed_grain", "on"});
    Options split_late = split, split_zeroed_late = split_zeroed;
    split_late.push_back({"lazy_extents", "on"});
    split_zeroed_late.push_back({"lazy_extents", "on"});
    return {
        {"Sparse8K", sparse, 8192, false, true},
        {"Sparse64K", sparse, 65536, false, false},
        {"SparseBacked", sparse, 8192, true, false},
        {"ZeroedBacked", zeroed, 16384, true, true},
        {"Zeroed", zeroed, 8192, false, false},
        {"Split", split, 8192, false, true},
        {"SplitLate", split_late, 8192, false, true},
        {"SplitLateBacked", split_zeroed_late, 8192, true, false},
        {"SplitBacked", split_zeroed, 65536, true, false},
        {"Cowd512", {{"subformat", "vmfsSparse"}}, 512, false, true},
        {"CowdBacked", {{"subformat", "vmfsSparse"}}, 512, true, false},
        {"Cowd8K", {{"subformat", "vmfsSparse"}}, 8192, true, true},
        {"Flat", {{"subformat", "monolithicFlat"}}, 0, false, true},
        {"SplitFlat", {{"subformat", "twoGbMaxExtentFlat"}, {"extent_size", "1048576"}}, 0, false, true},
        {"Vmfs", {{"subformat", "vmfs"}}, 0, false, true},
    };
}
INSTANTIATE_TEST_SUITE_P(Kind, VmdkRandom, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(VmdkRandom, AgreesWithTheModel) {
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed_));
    ASSERT_NO_FATAL_FAILURE(make());
    ASSERT_NO_FATAL_FAILURE(open());
    for (int i = 0; i < 150; i++) ASSERT_NO_FATAL_FAILURE(step()) << i;
    Bytes seen(model_.size());
    ASSERT_OK(target_->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    ASSERT_OK(chain_->top().close());
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/d.vmdk")));
    const auto content = disks_.content(spec_);
    ASSERT_OK(content);
    EXPECT_TRUE(*content == model_);
    // A repair of what is right changes nothing but leaks.
    const auto repaired = disks_.check_vmdk("/m/d.vmdk", Repair::all);
    EXPECT_TRUE(is_sound(repaired));
    const auto after = disks_.content(spec_);
    ASSERT_OK(after);
    EXPECT_TRUE(*after == model_);
    if (has_qemu()) exchange_with_qemu();
}

}  // namespace
}  // namespace dmu
