// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against an array of bytes, for every cluster size, over one to
// three layers, with mappers that die and images that are opened again; at the end qemu
// reads the image too, writes to it, and we read that.
#include "tests/unit/formats/qemu_on_disks.h"

namespace dmu {
namespace {

struct Case {
    std::uint32_t cluster;
    unsigned layers;
    bool zeroing;  // fresh space reads as zeros
};

class QcowRandom : public ::testing::TestWithParam<Case> {
protected:
    // Layers of other cluster sizes and lengths, each with some content of its own.
    void make_layers(std::mt19937_64& random) {
        for (unsigned layer = 0; layer < GetParam().layers; layer++) {
            const bool is_top = layer + 1 == GetParam().layers;
            const auto cluster = is_top ? GetParam().cluster : 512u << random() % 8;
            const auto sectors = is_top ? 6000 + random() % 100 : 3000 + random() % 6000;
            const auto path = "/m/" + std::to_string(layer) + ".qcow";
            ASSERT_OK(
                disks_.create(path, sectors * 512, cluster, layer == 0 ? "" : std::to_string(layer - 1) + ".qcow"));
            disks_.stores[path]->zeroing = GetParam().zeroing;
            spec_ = "qcow:" + path;
            model_.resize(sectors * 512);
            if (is_top) return;
            open();
            for (int i = 0; i < 20; i++) write_something(random);
            ASSERT_OK(chain_->top().close());
        }
    }
    void open() {
        target_.reset();
        auto chain = disks_.chain(spec_, true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        target_ = std::make_unique<StandIn>(*chain_);
        target_->lease_ahead(lease_bytes_);
        ASSERT_EQ(target_->size(), model_.size());
    }
    void write_something(std::mt19937_64& random) {
        const bool large = random() % 8 == 0;
        auto offset = random() % model_.size();
        auto length = std::min<std::uint64_t>(1 + random() % (large ? 300000 : 9000), model_.size() - offset);
        if (random() % 2) {
            offset = align_down(offset, 512);
            length = std::min(align_up(length, 512), model_.size() - offset);
        }
        const auto bytes = pattern(length, random());
        ASSERT_OK(target_->write({offset}, bytes));
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void read_something(std::mt19937_64& random) {
        const auto offset = random() % model_.size();
        Bytes seen(std::min<std::uint64_t>(1 + random() % 50000, model_.size() - offset));
        ASSERT_OK(target_->read({offset}, seen));
        ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset)))
            << offset;
        ASSERT_TRUE(is_same_alone(*chain_, {{offset}, seen.size()})) << offset;
    }
    void succeed() {
        const auto log = target_->log();
        const auto lease = target_->lease();
        open();
        ASSERT_OK(target_->adopt(log, lease));
    }
    void exchange_with_qemu(std::mt19937_64& random) {
        QemuOnDisks qemu(disks_);
        const auto name = std::filesystem::path(spec_.substr(5)).filename().string();
        EXPECT_TRUE(qemu.content("qcow", name) == model_);
        // Of clusters larger than a sector it zero-fills what it does not write, whatever the
        // backing file holds: it writes whole ones there.
        qemu.write("qcow", name, GetParam().layers == 1 ? 512 : GetParam().cluster, 12, model_, random);
        EXPECT_TRUE(is_sound(disks_.check(spec_.substr(5))));
        auto reader = disks_.chain(spec_, false);
        ASSERT_OK(reader);
        Bytes seen(model_.size());
        ASSERT_OK((*reader)->read({0}, seen));
        EXPECT_TRUE(seen == model_);
    }

    const std::uint64_t seed_ = test_seed();
    const std::uint64_t lease_bytes_ = seed_ % 2 * 100000;
    MemoryDisks disks_;
    std::string spec_;
    Bytes model_;
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
};

std::vector<Case> cases() {
    std::vector<Case> all;
    for (std::uint32_t cluster = 512; cluster <= 65536; cluster *= 2)
        for (unsigned layers = 1; layers <= 3; layers++) all.push_back({cluster, layers, layers != 2});
    return all;
}
INSTANTIATE_TEST_SUITE_P(Shape, QcowRandom, ::testing::ValuesIn(cases()), [](const auto& info) {
    return "Cluster" + std::to_string(info.param.cluster) + "Layers" + std::to_string(info.param.layers);
});

TEST_P(QcowRandom, AgreesWithTheModel) {
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed_));
    std::mt19937_64 random(seed_);
    ASSERT_NO_FATAL_FAILURE(make_layers(random));
    ASSERT_NO_FATAL_FAILURE(open());
    for (int i = 0; i < 150; i++) {
        const auto kind = random() % 20;
        if (kind < 9)
            ASSERT_NO_FATAL_FAILURE(write_something(random));
        else if (kind < 16)
            ASSERT_NO_FATAL_FAILURE(read_something(random));
        else if (kind == 16)
            ASSERT_OK(target_->flush());
        else if (kind == 17)
            ASSERT_OK(chain_->top().commit(DataState::written));
        else if (kind == 18)
            ASSERT_NO_FATAL_FAILURE(succeed());
        else if (random() % 2) {
            ASSERT_OK(chain_->top().close());
            ASSERT_NO_FATAL_FAILURE(open());
        }
    }
    Bytes seen(model_.size());
    ASSERT_OK(target_->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    ASSERT_OK(chain_->top().close());
    for (const auto& [path, store] : disks_.stores) EXPECT_TRUE(is_sound(disks_.check(path))) << path;
    auto reader = disks_.chain(spec_, false);
    ASSERT_OK(reader);
    ASSERT_OK((*reader)->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    if (has_qemu()) exchange_with_qemu(random);
}

}  // namespace
}  // namespace dmu
