// SPDX-License-Identifier: GPL-2.0-or-later
// As qcow2_crash_test, for images with external data files, ciphers, compressed clusters,
// bitmaps and snapshots, each with its own promise.
#include "tests/unit/formats/joint_recording.h"
#include "tests/unit/formats/qcow2_features.h"

namespace dmu {
namespace {

constexpr auto sectors = FeatureDisk::sectors;

class Qcow2FeatureCrash : public ::testing::TestWithParam<Qcow2Feature> {
protected:
    void SetUp() override {
        if (!disk_.make(GetParam())) GTEST_SKIP() << "no qemu-img";
        model_.emplace(disk_.start);
        for (const auto& path : disk_.files()) recording_.add(path, disk_.disks.stores[path]->bytes);
        disk_.disks.wrap = [this](unsigned, std::unique_ptr<BlockFile> file) {
            return recording_.wrap(std::move(file));
        };
        open();
    }
    bool has(Extra extra) const { return GetParam().extra == extra; }

    void open() {
        target_.reset();
        auto chain = disk_.disks.chain(disk_.spec(), true);
        ASSERT_OK(chain);
        chain_ = std::move(*chain);
        begin();
    }
    void begin() {
        target_ = std::make_unique<StandIn>(*chain_);
        if (random_() % 2) target_->lease_ahead(1 + random_() % 40000);
    }

    // --- what must hold of a state, opened afresh ---

    ::testing::AssertionResult is_possible(const Bytes& content) const {
        if (instead_ && content == *instead_) return ::testing::AssertionSuccess();
        return model_->is_possible(content);
    }
    void look_at(const JointRecording::Files& files) {
        MemoryDisks after;
        after.stores = disk_.disks.stores;
        for (const auto& [path, bytes] : files) after.add(path)->bytes = bytes;
        EXPECT_TRUE(is_sound(check_qcow2(after, FeatureDisk::path)));
        disk_.expect_nothing_plain(after);
        const bool for_qemu = looked_++ % 50 == 7;
        if (for_qemu) disk_.ask_qemu(after, [this](const Bytes& content) { return is_possible(content); });
        auto chain = after.chain(disk_.spec(), true);
        ASSERT_OK(chain);
        Bytes content(disk_.start.size());
        ASSERT_OK((*chain)->read({0}, content));
        EXPECT_TRUE(is_possible(content));
        disk_.expect_marked_or_unchanged(after, content);
        EXPECT_TRUE(!GetParam().variant.has("data_file_raw") || after.stores["/m/data.raw"]->bytes == content)
            << "not what the raw file holds";
        go_on(**chain, after);
        if (HasFailure()) return;
        if (for_qemu) disk_.ask_qemu(after, [](const Bytes&) { return ::testing::AssertionSuccess(); });
        look_at_snapshots(after);
    }
    void go_on(Chain& chain, MemoryDisks& after) {
        StandIn target(chain);
        const auto data = marked_data(0, 200, most_marked - 1);
        ASSERT_OK(target.write({0}, data));
        ASSERT_OK(target.write({(sectors - 150) * sector_size}, marked_data(sectors - 150, 150, most_marked - 1)));
        ASSERT_OK(target.flush());
        ASSERT_OK(chain.top().close());
        EXPECT_TRUE(is_sound(check_qcow2(after, FeatureDisk::path)));
        disk_.expect_nothing_plain(after);
        Bytes seen(data.size());
        ASSERT_OK(chain.read({0}, seen));
        EXPECT_TRUE(seen == data);
    }
    // All that there must be, none that there must not, each with its content, whatever was
    // written to the disk after the crash.
    void look_at_snapshots(MemoryDisks& after) {
        if (!GetParam().snapshots || (changing_.empty() && !instead_ && looked_ % 4 != 0)) return;
        auto chain = after.chain(disk_.spec(), true);
        ASSERT_OK(chain);
        auto* snapshots = (*chain)->top().snapshots();
        std::set<std::string> there;
        for (const auto& snapshot : snapshots->list()) there.insert(snapshot.name);
        for (const auto& [name, content] : saved_)
            EXPECT_TRUE(name == changing_ || there.count(name) != 0) << "snapshot " << name << " is lost";
        for (const auto& name : there) {
            ASSERT_EQ(saved_.count(name), 1u) << "snapshot " << name << " is still there";
            ASSERT_OK(snapshots->apply(name));
            Bytes seen(disk_.start.size());
            ASSERT_OK((*chain)->read({0}, seen));
            EXPECT_TRUE(seen == saved_[name]) << "snapshot " << name;
        }
        for (const auto& name : there) ASSERT_OK(snapshots->remove(name));
        ASSERT_OK((*chain)->top().close());
        EXPECT_TRUE(is_sound(check_qcow2(after, FeatureDisk::path)));
    }
    // Every step since the last time; what an operation does is not acknowledged before it ends.
    void look_at_new_steps() {
        for (; seen_ < recording_.size() && !HasFailure(); seen_++)
            for (int sample = 0; sample < 2; sample++) look_at(recording_.replay_crashed(seen_ + 1, random_));
        if (!HasFailure()) look_at(recording_.replay(seen_));
    }
    // As after an acknowledgement.
    void look_again() {
        for (int sample = 0; sample < 2 && !HasFailure(); sample++) look_at(recording_.replay_crashed(seen_, random_));
    }

    // --- the workload ---

    void write() {
        const auto sector = random_() % sectors;
        const auto count = 1 + random_() % std::min<std::uint64_t>(sectors - sector, 150);
        ASSERT_OK(target_->write({sector * sector_size}, model_->begun(sector, count, write_++)));
    }
    void discard() {
        const auto& info = chain_->top().info();
        const auto grain = info.grain / sector_size, grains = sectors / grain;
        if (!info.discards_to_zero) return;
        const auto first = random_() % grains, count = 1 + random_() % (grains - first);
        model_->begun_zeros(first * grain, count * grain);
        ASSERT_OK(target_->discard({{first * grain * sector_size}, count * grain * sector_size}));
    }
    void flush() {
        ASSERT_OK(target_->flush());
        look_at_new_steps();
        model_->flushed();
        look_again();
    }
    // As a conversion does: not through the map, in a row.
    void write_compressed() {
        const auto cluster = chain_->top().info().grain / sector_size;
        auto at = align_down(random_() % sectors, cluster);
        for (int i = 0; i < 5 && at < sectors; i++, at += cluster)
            ASSERT_OK(chain_->top().write_compressed({at * sector_size}, model_->begun(at, cluster, write_++)));
        ASSERT_OK(chain_->top().commit(DataState::written));
        begin();
    }
    // The mapper dies and a successor goes on, with the log of the kernel.
    void succeed() {
        const auto log = target_->log();
        const auto lease = target_->lease();
        ASSERT_NO_FATAL_FAILURE(open());
        ASSERT_OK(target_->adopt(log, lease));
    }
    void make_snapshot() {
        changing_ = "s" + std::to_string(write_++);
        Bytes now(disk_.start.size());
        ASSERT_OK(target_->read({0}, now));
        saved_[changing_] = now;
        ASSERT_OK(chain_->top().snapshots()->create(changing_));
        look_at_new_steps();
        // It is durable, and with it what it was made of.
        changing_.clear();
        model_->flushed();
        look_again();
    }
    void apply_snapshot(const std::string& name) {
        instead_ = saved_[name];
        ASSERT_OK(chain_->top().snapshots()->apply(name));
        look_at_new_steps();
        model_.emplace(*instead_);
        instead_.reset();
        look_again();
    }
    void remove_snapshot(const std::string& name) {
        changing_ = name;
        ASSERT_OK(chain_->top().snapshots()->remove(name));
        look_at_new_steps();
        saved_.erase(name);
        changing_.clear();
        look_again();
    }
    void use_snapshots() {
        const auto kind = random_() % 4;
        if (saved_.empty() || (kind < 2 && saved_.size() < 3)) {
            ASSERT_NO_FATAL_FAILURE(make_snapshot());
        } else {
            auto which = saved_.begin();
            std::advance(which, random_() % saved_.size());
            const auto name = which->first;
            if (kind == 2)
                ASSERT_NO_FATAL_FAILURE(apply_snapshot(name));
            else
                ASSERT_NO_FATAL_FAILURE(remove_snapshot(name));
        }
        begin();
    }
    void do_something() {
        const auto kind = random_() % 12;
        if (kind == 0) return flush();
        if (kind == 1) ASSERT_OK(chain_->top().commit(DataState::written));
        if (kind == 2) return succeed();
        if (kind == 3) ASSERT_OK(target_->give_back());
        if (kind == 4) return discard();
        if (kind == 5 && has(Extra::compressed)) return write_compressed();
        if (kind >= 9 && GetParam().snapshots) return use_snapshots();
        if (kind >= 5) return write();
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    FeatureDisk disk_;
    JointRecording recording_;
    std::size_t seen_ = 0;      // steps
    std::uint64_t looked_ = 0;  // states
    std::uint64_t write_ = 3;
    std::optional<MarkedModel> model_;
    std::optional<Bytes> instead_;        // or this, as a whole
    std::map<std::string, Bytes> saved_;  // snapshots by name
    std::string changing_;                // the one that may be there or not
    std::unique_ptr<Chain> chain_;
    std::unique_ptr<StandIn> target_;
};

std::vector<Qcow2Feature> features() {
    const Options file{{"data_file", "data.raw"}};
    const Options raw{{"data_file", "data.raw"}, {"data_file_raw", "on"}};
    return {{{"DataFile", 4096, file, true}},
            {{"DataFileRaw", 4096, raw}},
            {{"DataFileExtended", 16384, {{"data_file", "data.raw"}, {"extended_l2", "on"}}}},
            {{"Aes", 4096, {}, true}, "aes"},
            {{"Luks", 65536, {}, true}, "luks"},
            {{"LuksSnapshots", 4096}, "luks", Extra::none, true},
            {{"LuksDataFile", 4096, file}, "luks"},
            {{"Compressed", 4096, {}, true}, "", Extra::compressed},
            {{"CompressedSmall", 512}, "", Extra::compressed},
            {{"CompressedZstd", 65536, {{"compression_type", "zstd"}}, true}, "", Extra::compressed},
            {{"CompressedSnapshots", 4096}, "", Extra::compressed, true},
            {{"Bitmaps", 4096}, "", Extra::bitmaps},
            {{"BitmapsSnapshots", 65536}, "", Extra::bitmaps, true},
            {{"UnknownAutoclear", 4096}, "", Extra::unknown_autoclear},
            {{"Snapshots", 4096, {}, true}, "", Extra::none, true},
            {{"SnapshotsSmall", 512, {{"refcount_bits", "64"}}, true}, "", Extra::none, true},
            {{"SnapshotsExtended", 16384, {{"extended_l2", "on"}}, true}, "", Extra::none, true}};
}
INSTANTIATE_TEST_SUITE_P(Variant, Qcow2FeatureCrash, ::testing::ValuesIn(features()),
                         [](const auto& info) { return info.param.variant.name; });

TEST_P(Qcow2FeatureCrash, AnywhereAnyhow) {
    const bool costly = GetParam().encryption == "luks" || GetParam().variant.cluster == 512;
    const int operations = costly ? 12 : 20;
    for (int operation = 0; operation < operations; operation++) {
        ASSERT_NO_FATAL_FAILURE(do_something()) << operation;
        look_at_new_steps();
        if (HasFailure()) FAIL() << "operation " << operation << ", step " << seen_;
    }
    ASSERT_NO_FATAL_FAILURE(flush());
    ASSERT_OK(chain_->top().close());
    look_at_new_steps();
}

}  // namespace
}  // namespace dmu
