// SPDX-License-Identifier: GPL-2.0-or-later
// As qcow2_fault_test, for images with external data files, ciphers, compressed clusters,
// bitmaps and snapshots: each operation on any of their files fails once, in turn.
#include "tests/fakes/faulty_file.h"
#include "tests/unit/formats/qcow2_features.h"

namespace dmu {
namespace {

constexpr auto sectors = FeatureDisk::sectors;

struct Case {
    Qcow2Feature feature;
    Code code;
    bool tear;
    bool twice = false;  // the next operation after it fails too
};

void PrintTo(const Case& parameter, std::ostream* out) {
    *out << parameter.feature.variant.name;
}

// A disk, its files, and what the guest did, under one fault.
class FaultyRun {
public:
    FaultyRun(FeatureDisk& disk, const Case& parameter, std::uint64_t fail_at)
        : disk_(disk), feature_(parameter.feature), fail_at_(fail_at) {
        plan_->code = next_->code = parameter.code;
        plan_->tear = parameter.tear;
        plan_->fail_at = fail_at;
        if (parameter.twice) next_->fail_at = fail_at;
        disk_.reset();
        disk_.disks.wrap = [this](unsigned, std::unique_ptr<BlockFile> file) -> std::unique_ptr<BlockFile> {
            if (file->name() == "/m/base") return file;
            // The inner one does not see what failed in the outer one.
            return std::make_unique<FaultyFile>(std::make_unique<FaultyFile>(std::move(file), next_), plan_);
        };
    }
    // Opening too: what fails says so, and the next attempt succeeds.
    void go() {
        again([&] {
            auto opened = disk_.disks.chain(disk_.spec(), true);
            if (!opened) return Status(opened.error());
            chain_ = std::move(*opened);
            return ok();
        });
        if (!chain_) return;
        target_.emplace(*chain_);
        for (int i = 0; i < 9 && !::testing::Test::HasFailure(); i++) {
            write(static_cast<std::uint64_t>(i) * 331 % (sectors - 40), 1 + static_cast<std::uint64_t>(i) * 3);
            if (i == 2 || i == 6) flush();
            if (i == 4) discard();
            if (feature_.extra == Extra::compressed && i % 3 == 1) write_compressed(static_cast<std::uint64_t>(i));
            if (feature_.snapshots) use_snapshots(i);
        }
        again([&] { return target_->flush(); });
        again([&] { return chain_->top().close(); });
    }
    // True: the fault happened.
    bool judge() {
        const bool failed = plan_->failed;
        EXPECT_TRUE(!failed || errors_ != 0 || plan_->code == Code::no_space) << "nobody was told";
        disk_.disks.wrap = nullptr;
        chain_.reset();
        look();
        const auto content = disk_.read(disk_.disks);
        EXPECT_TRUE(model_->is_current(content));
        disk_.expect_marked_or_unchanged(disk_.disks, content);
        EXPECT_TRUE(!feature_.variant.has("data_file_raw") || disk_.disks.stores["/m/data.raw"]->bytes == content);
        if (fail_at_ % 40 == 5)
            disk_.ask_qemu(disk_.disks, [this](const Bytes& seen) { return model_->is_current(seen); });
        look_at_snapshots();
        return failed;
    }

private:
    // Once more: as a guest or an administrator does that got an error.
    template <typename Do>
    void again(const Do& request) {
        Status done = request();
        for (int i = 0; !done && i < 2; i++) {
            errors_++;
            EXPECT_TRUE(done.error().code == plan_->code) << done.error().message;
            look();
            done = request();
        }
        EXPECT_OK(done);
    }
    // At any time, as it lies there.
    void look() {
        EXPECT_TRUE(is_sound(check_qcow2(disk_.disks, FeatureDisk::path)));
        disk_.expect_nothing_plain(disk_.disks);
    }
    void write(std::uint64_t sector, std::uint64_t count) {
        const auto data = model_->begun(sector, count, write_++);
        again([&] { return target_->write({sector * sector_size}, data); });
    }
    void flush() {
        again([&] { return target_->flush(); });
        model_->flushed();
        look();
    }
    void discard() {
        if (!chain_->top().info().discards_to_zero) return;
        model_->begun_zeros(256, 128);
        again([&] { return target_->discard({{256 * sector_size}, 128 * sector_size}); });
    }
    void write_compressed(std::uint64_t i) {
        const auto cluster = feature_.variant.cluster / sector_size;
        auto at = align_down(i * 100, cluster);
        for (int j = 0; j < 3; j++, at += cluster) {
            const auto data = model_->begun(at, cluster, write_++);
            again([&] { return chain_->top().write_compressed({at * sector_size}, data); });
        }
        again([&] { return chain_->top().commit(DataState::written); });
        target_.emplace(*chain_);
    }

    bool there(const std::string& name) {
        for (const auto& snapshot : chain_->top().snapshots()->list())
            if (snapshot.name == name) return true;
        return false;
    }
    void use_snapshots(int i) {
        auto* snapshots = chain_->top().snapshots();
        const auto name = i < 5 ? "one" : "two";
        if (i == 1 || i == 5) {
            // What failed has made none.
            again([&] {
                saved_[name] = read_through();
                auto done = snapshots->create(name);
                EXPECT_EQ(there(name), static_cast<bool>(done));
                if (!done) go_on();
                return done;
            });
        } else if (i == 3) {
            again([&] {
                auto done = snapshots->apply("one");
                const bool applied = read_through() == saved_["one"];
                EXPECT_TRUE(applied || !done);
                if (applied) model_.emplace(saved_["one"]);
                if (!done) go_on();
                return done;
            });
        } else if (i == 7) {
            again([&] {
                auto done = there("one") ? snapshots->remove("one") : ok();
                if (!done) go_on();
                return done;
            });
            saved_.erase("one");
        } else {
            return;
        }
        target_.emplace(*chain_);
    }
    // Between a failure and the next attempt the guest writes, and is told that it is durable:
    // it is, whatever happens then.
    void go_on() {
        target_.emplace(*chain_);
        EXPECT_TRUE(model_->is_current(read_through()));
        const auto data = model_->begun(120, 60, write_++);
        again([&] { return target_->write({120 * sector_size}, data); });
        again([&] { return target_->flush(); });
        look();
        MemoryDisks seen = disk_.disks;
        seen.wrap = nullptr;
        EXPECT_TRUE(model_->is_current(disk_.read(seen))) << "after a failure";
    }
    Bytes read_through() {
        Bytes now(disk_.start.size());
        again([&] { return chain_->read({0}, now); });
        return now;
    }
    void look_at_snapshots() {
        for (const auto& [name, content] : saved_) {
            auto chain = disk_.disks.chain(disk_.spec(), true);
            EXPECT_OK(chain);
            EXPECT_OK((*chain)->top().snapshots()->apply(name));
            Bytes seen(content.size());
            EXPECT_OK((*chain)->read({0}, seen));
            EXPECT_TRUE(seen == content) << name;
            EXPECT_OK((*chain)->top().close());
        }
        if (!saved_.empty()) look();
    }

    FeatureDisk& disk_;
    const Qcow2Feature feature_;
    const std::uint64_t fail_at_;
    std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
    std::shared_ptr<FaultPlan> next_ = std::make_shared<FaultPlan>();
    std::optional<MarkedModel> model_{disk_.start};
    std::map<std::string, Bytes> saved_;
    std::uint64_t write_ = 3;
    int errors_ = 0;
    std::unique_ptr<Chain> chain_;
    std::optional<StandIn> target_;
};

class Qcow2FeatureFault : public ::testing::TestWithParam<Case> {};

std::vector<Case> cases() {
    const Options file{{"data_file", "data.raw"}};
    const Options raw{{"data_file", "data.raw"}, {"data_file_raw", "on"}};
    return {{{{"DataFile", 4096, file, true}}, Code::io, true},
            {{{"DataFileFull", 16384, file}}, Code::no_space, false},
            {{{"DataFileRaw", 4096, raw}}, Code::io, true},
            {{{"Aes", 4096, {}, true}, "aes"}, Code::io, true},
            {{{"Luks", 4096, {}, true}, "luks"}, Code::no_space, false},
            {{{"Compressed", 4096, {}, true}, "", Extra::compressed}, Code::io, true},
            {{{"CompressedFull", 4096}, "", Extra::compressed}, Code::no_space, false},
            {{{"Bitmaps", 4096}, "", Extra::bitmaps}, Code::io, false},
            {{{"Snapshots", 4096, {}, true}, "", Extra::none, true}, Code::io, false},
            {{{"SnapshotsTorn", 4096}, "", Extra::none, true}, Code::io, true},
            {{{"SnapshotsTwice", 4096, {}, true}, "", Extra::none, true}, Code::io, false, true},
            {{{"SnapshotsFull", 512, {{"refcount_bits", "64"}}}, "", Extra::none, true}, Code::no_space, false},
            {{{"SnapshotsCompressed", 16384}, "", Extra::compressed, true}, Code::io, false}};
}
INSTANTIATE_TEST_SUITE_P(Kind, Qcow2FeatureFault, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.feature.variant.name; });

TEST_P(Qcow2FeatureFault, EachOperationOnce) {
    FeatureDisk disk;
    if (!disk.make(GetParam().feature)) GTEST_SKIP() << "no qemu-img";
    for (std::uint64_t at = 0;; at++) {
        SCOPED_TRACE("operation " + std::to_string(at));
        FaultyRun run(disk, GetParam(), at);
        run.go();
        if (!run.judge() || HasFailure()) {
            EXPECT_GT(at, 15u);
            return;
        }
    }
}

}  // namespace
}  // namespace dmu
