// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against an array of bytes, for every variant of the format, with
// mappers that die, images that are opened again, and snapshots; at the end qemu reads
// the image too, and finds nothing wrong.
#include "tests/unit/formats/qcow2_model.h"

namespace dmu {
namespace {

class Qcow2Random : public Qcow2BesideModel {
protected:
    void make() {
        const auto size = (6000 + random_() % 100) * 512;
        create(size, (3000 + random_() % 6000) * 512);
        ASSERT_TRUE(is_clean(check_qcow2(disks_, path_)));
    }
    void write_something() {
        auto [offset, length] = somewhere(random_() % 8 == 0 ? 300000 : 9000);
        if (random_() % 2) {
            offset = align_down(offset, 512);
            length = std::min(align_up(length, 512), model_.size() - offset);
        }
        write(offset, length);
    }
    void discard_something() {
        const auto [offset, length] = somewhere(400000);
        discard(offset, length);
    }
    void read_something() {
        const auto [offset, length] = somewhere(50000);
        Bytes seen(length);
        ASSERT_OK(target_->read({offset}, seen));
        ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset)))
            << offset;
        ASSERT_TRUE(is_same_alone(*chain_, {{offset}, length})) << offset;
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
        begin();
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

    int next_snapshot_ = 0;
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
        EXPECT_TRUE(is_sound(check_qcow2(disks_, path_)));
        EXPECT_TRUE(is_clean(check_qcow2(disks_, path_, Repair::leaks)));
    }
    EXPECT_TRUE(is_clean(check_qcow2(disks_, path_)));
    auto reader = disks_.chain("qcow2:" + path_, false);
    ASSERT_OK(reader);
    std::fill(seen.begin(), seen.end(), std::byte{0x77});
    ASSERT_OK((*reader)->read({0}, seen));
    EXPECT_TRUE(seen == model_);
    look_with_qemu();
}

}  // namespace
}  // namespace dmu
