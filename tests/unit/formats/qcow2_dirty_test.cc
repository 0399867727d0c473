// SPDX-License-Identifier: GPL-2.0-or-later
// Images that their writers left dirty: used at once, space only from past the file's end,
// refcounts made anew meanwhile; what comes out is what others would have made.
#include "tests/unit/formats/qcow2_model.h"
#include "tests/unit/formats/qcow2_qemu.h"

namespace dmu {
namespace {

std::vector<Qcow2Variant> dirty_variants() {
    auto variants = qcow2_variants();
    std::erase_if(variants, [](const Qcow2Variant& variant) { return variant.is_v2(); });
    return variants;
}

class Qcow2DirtyRandom : public Qcow2BesideModel {
protected:
    void make() {
        create(3000 * 512, 1000 * 512);
        open();
        for (int i = 0; i < 20; i++) {
            change_something();
            if (i % 8 == 7) save_snapshot();
        }
        ASSERT_OK(target_->flush());
        ASSERT_OK(chain_->top().close());
    }
    // The end of the file moves up: what is written from now on lies in another window of refcounts.
    void stretch(std::uint64_t bytes) {
        auto& image = disks_.stores[path_]->bytes;
        image.resize(image.size() + bytes);
    }
    void make_it_dirty() {
        target_.reset();
        chain_.reset();
        make_dirty(disks_.stores[path_]->bytes, random_);
        open();
        ASSERT_TRUE(chain_->top().has_work());
    }
    void change_something() {
        const auto [offset, length] = somewhere(90000);
        if (random_() % 3 != 0)
            write(offset, length);
        else
            discard(offset, length);
    }
    void save_snapshot() {
        if (GetParam().has("data_file")) return;
        ASSERT_OK(target_->flush());
        // Refcounts too narrow for a second user have none.
        const auto name = "s" + std::to_string(saved_.size());
        const auto done = chain_->top().snapshots()->create(name);
        ASSERT_TRUE(done || done.error().code == Code::unsupported) << done.error().message;
        if (done) saved_[name] = model_;
        begin();
    }
    void use_while_rebuilding(int operations) {
        for (int i = 0; i < operations && !HasFailure(); i++) {
            const auto kind = random_() % 8;
            if (kind == 0)
                ASSERT_OK(target_->flush());
            else if (kind == 1)
                ASSERT_OK(chain_->top().commit(DataState::written));
            else if (kind == 2 && random_() % 4 == 0)
                succeed();
            else if (kind < 4)
                ASSERT_OK(chain_->top().work());
            else
                change_something();
        }
    }
    void judge() {
        ASSERT_OK(finish_work(chain_->top()));
        ASSERT_OK(chain_->top().close());
        const auto& image = disks_.stores[path_]->bytes;
        EXPECT_FALSE(is_dirty(image));
        const auto report = check_qcow2(disks_, path_);
        EXPECT_TRUE(leaks_ ? is_sound(report) : is_clean(report));
        Bytes seen(model_.size());
        ASSERT_OK((*disks_.chain("qcow2:" + path_, false))->read({0}, seen));
        EXPECT_TRUE(seen == model_);
        for (const auto& [name, content] : saved_) {
            open();
            const auto done = chain_->top().snapshots()->apply(name);
            // Refcounts too narrow for one user more.
            if (!done && GetParam().name == "Refcount2") continue;
            ASSERT_OK(done);
            ASSERT_OK(chain_->read({0}, seen));
            EXPECT_TRUE(seen == content) << name;
        }
    }
};
INSTANTIATE_TEST_SUITE_P(Variant, Qcow2DirtyRandom, ::testing::ValuesIn(dirty_variants()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Qcow2DirtyRandom, UsedWhileRefcountsAreMade) {
    ASSERT_NO_FATAL_FAILURE(make());
    ASSERT_NO_FATAL_FAILURE(make_it_dirty());
    ASSERT_NO_FATAL_FAILURE(use_while_rebuilding(60));
    judge();
}

// Left in the middle, as by a kill of the host or a disk that is taken away; then again.
TEST_P(Qcow2DirtyRandom, BegunAnew) {
    ASSERT_NO_FATAL_FAILURE(make());
    ASSERT_NO_FATAL_FAILURE(make_it_dirty());
    ASSERT_NO_FATAL_FAILURE(use_while_rebuilding(static_cast<int>(random_() % 10)));
    ASSERT_OK(target_->flush());
    if (random_() % 2) ASSERT_OK(chain_->top().close());
    const bool left = chain_->top().has_work();
    open();
    EXPECT_EQ(chain_->top().has_work(), left);
    leaks_ = leaks_ || !left;
    ASSERT_NO_FATAL_FAILURE(use_while_rebuilding(20));
    judge();
}

// Refcounts of 64 bits in clusters of 512 bytes: a window is 256 MiB of the file.
TEST_F(Qcow2Qemu, DirtyInManyWindows) {
    MemoryDisks disks;
    const std::string path = "/m/top.qcow2";
    constexpr std::uint64_t size = 1 << 20;
    ASSERT_OK(create_qcow2(disks, path, size, {"", 512, {{"refcount_bits", "64"}}}));
    Bytes model(size);
    const auto write = [&](StandIn& target, std::uint64_t at, std::uint64_t length) {
        const auto bytes = pattern(length, random_());
        ASSERT_OK(target.write({at}, bytes));
        std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
    };
    for (std::uint64_t part = 0; part < 4; part++) {
        auto chain = disks.chain("qcow2:" + path, true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        write(target, part * 150000, 200000);
        if (part == 1) ASSERT_OK((*chain)->top().snapshots()->create("a"));
        ASSERT_OK((*chain)->top().close());
        auto& image = disks.stores[path]->bytes;
        if (part < 3) image.resize(image.size() + (160 << 20));
    }
    make_dirty(disks.stores[path]->bytes, random_);
    auto chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    for (int i = 0; (*chain)->top().has_work(); i++) {
        ASSERT_OK((*chain)->top().work());
        const auto at = align_down(random_() % (size - 70000), 512);
        if (i % 3 == 0) {
            write(target, at, 1 + random_() % 3000);
        } else if (i % 3 == 1) {
            ASSERT_OK(target.discard({{at}, 40960}));
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(at), 40960, std::byte{0});
        } else if (i % 2 == 0) {
            ASSERT_OK(target.flush());
        }
    }
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks, path)));
    Bytes seen(size);
    ASSERT_OK((*chain)->read({0}, seen));
    EXPECT_TRUE(seen == model);
}

// Nothing of the file as it was is given out before all of its users are known.
TEST(Qcow2Dirty, SpaceIsPastTheEndUntilItIsDone) {
    MemoryDisks disks;
    const std::string path = "/m/top.qcow2";
    ASSERT_OK(create_qcow2(disks, path, 8 << 20, {"", 4096}));
    std::mt19937_64 random(1);
    auto& image = disks.stores[path]->bytes;
    image.resize(image.size() + (1 << 20));  // free, but who knows
    make_dirty(image, random);
    auto chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    auto& top = (*chain)->top();
    const auto end = image.size();
    std::uint64_t at = 0;
    for (; top.has_work(); at += 4096) {
        const auto place = top.reserve({{at}, 4096});
        ASSERT_OK(place);
        EXPECT_GE(place->host.bytes, end);
        ASSERT_OK(top.apply(Change{ChangeKind::data, {at}, 4096, 0, place->host}));
        if (at == 16 * 4096) ASSERT_OK(finish_work(top));
    }
    ASSERT_OK(top.close());
    EXPECT_TRUE(is_sound(check_qcow2(disks, path)));
    // Now it is: what was free is used.
    chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    const auto place = (*chain)->top().reserve({{at}, 4096});
    ASSERT_OK(place);
    EXPECT_LT(place->host.bytes, end);
}

// A device has no end to take space from: its refcounts are made before it is used.
TEST(Qcow2Dirty, OnABlockDeviceAtOnce) {
    MemoryDisks disks;
    const std::string path = "/m/top.qcow2";
    ASSERT_OK(create_qcow2(disks, path, 1 << 20, {"", 4096}));
    auto& store = *disks.stores[path];
    std::mt19937_64 random(1);
    make_dirty(store.bytes, random);
    store.bytes.resize(4 << 20);
    store.fixed_size = true;
    auto chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    EXPECT_FALSE((*chain)->top().has_work());
    EXPECT_FALSE(is_dirty(store.bytes));
    StandIn target(**chain);
    ASSERT_OK(target.write({0}, pattern(1 << 20, 1)));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks, path)));
}

// Nor has it room for them when it is full: it is what it was, until it has.
TEST(Qcow2Dirty, OnAFullBlockDevice) {
    MemoryDisks disks;
    const std::string path = "/m/top.qcow2";
    ASSERT_OK(create_qcow2(disks, path, 8 << 20, {"", 512, {{"refcount_bits", "64"}}}));
    const auto model = pattern(8 << 20, 1);
    {
        auto chain = disks.chain("qcow2:" + path, true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        // Piece by piece: refcounts lie here and there.
        for (std::size_t at = 0; at < model.size(); at += 65536)
            ASSERT_OK(target.write({at}, std::span(model).subspan(at, 65536)));
        ASSERT_OK((*chain)->top().close());
    }
    auto& store = *disks.stores[path];
    std::mt19937_64 random(1);
    make_dirty(store.bytes, random);
    store.fixed_size = true;
    const auto before = store.bytes;
    EXPECT_TRUE(fails_with(disks.chain("qcow2:" + path, true), Code::no_space, path));
    EXPECT_TRUE(store.bytes == before);
    Bytes seen(model.size());
    ASSERT_OK((*disks.chain("qcow2:" + path, false))->read({0}, seen));
    EXPECT_TRUE(seen == model);
    store.bytes.resize(before.size() + (1 << 20));
    auto chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    EXPECT_FALSE(is_dirty(store.bytes));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(is_clean(check_qcow2(disks, path)));
    ASSERT_OK((*chain)->read({0}, seen));
    EXPECT_TRUE(seen == model);
}

// What is wrong beside the refcounts is found on the way; nothing is allocated any more.
TEST(Qcow2Dirty, MoreThanRefcountsWrong) {
    MemoryDisks disks;
    const std::string path = "/m/top.qcow2";
    ASSERT_OK(create_qcow2(disks, path, 1 << 20, {"", 4096}));
    auto& image = disks.stores[path]->bytes;
    {
        auto chain = disks.chain("qcow2:" + path, true);
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, pattern(8192, 1)));
        ASSERT_OK((*chain)->top().close());
    }
    std::mt19937_64 random(1);
    make_dirty(image, random);
    const auto l2 = load_be<std::uint64_t>(image, load_be<std::uint64_t>(image, 40)) & 0x00fffffffffffe00;
    store_be<std::uint64_t>(image, l2 + 8, std::uint64_t{1} << 40);
    auto chain = disks.chain("qcow2:" + path, true);
    ASSERT_OK(chain);
    EXPECT_TRUE(fails_with(finish_work((*chain)->top()), Code::corrupt, "guest byte 4096 lies past the end"));
    EXPECT_FALSE((*chain)->top().has_work());
    EXPECT_TRUE(is_dirty(image));
    EXPECT_TRUE(fails_with((*chain)->top().reserve({{65536}, 4096}), Code::corrupt, "nothing is allocated"));
    EXPECT_OK((*chain)->top().close());
}

// --- with qemu -------------------------------------------------------------

// qemu dies with an image of lazy refcounts open.
TEST_F(Qcow2Qemu, WhatItLeavesDirty) {
    for (int round = 0; round < 3; round++) {
        Bytes model(4 << 20);
        qemu("qemu-img create -q -f qcow2 -o lazy_refcounts=on,cluster_size=" +
             std::string(round == 0   ? "512"
                         : round == 1 ? "4k"
                                      : "64k") +
             " lazy.qcow2 4M");
        write_through_qemu("lazy.qcow2", model, 10);
        std::string commands;
        for (int i = 0; i < 20; i++) {
            const auto first = random_() % (model.size() - 40000);
            commands += " -c 'write -P " + std::to_string(i + 1) + " " + std::to_string(first) + " 40000'";
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), 40000, static_cast<std::byte>(i + 1));
        }
        (void)run_command("cd '" + directory_.path() + "' && ulimit -c 0 && qemu-io" + commands +
                          " -c flush -c abort -f qcow2 lazy.qcow2");
        ASSERT_TRUE(is_dirty(read_file(directory_ / "lazy.qcow2")));
        we_read("lazy.qcow2", model);
        auto chain = open("lazy.qcow2", true);
        ASSERT_NE(chain, nullptr);
        EXPECT_TRUE(chain->top().has_work());
        StandIn target(*chain);
        for (int i = 0; i < 10; i++) {
            const auto first = random_() % (model.size() - 40000);
            const auto bytes = pattern(40000, random_());
            ASSERT_OK(target.write({first}, bytes));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(first));
            if (i == 5) ASSERT_OK(chain->top().work());
            if (i == 7) ASSERT_OK(target.flush());
        }
        ASSERT_OK(finish_work(chain->top()));
        ASSERT_OK(chain->top().close());
        chain.reset();
        EXPECT_FALSE(is_dirty(read_file(directory_ / "lazy.qcow2")));
        both_read("lazy.qcow2", model);
        ASSERT_FALSE(HasFailure());
    }
}

// And we die in the middle of making its refcounts: it makes them.
TEST_F(Qcow2Qemu, WhatWeLeaveDirty) {
    Bytes model(4 << 20);
    qemu("qemu-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 4M");
    write_through_qemu("lazy.qcow2", model, 20);
    auto image = read_file(directory_ / "lazy.qcow2");
    make_dirty(image, random_);
    write_file(directory_ / "lazy.qcow2", image);
    {
        auto chain = open("lazy.qcow2", true);
        ASSERT_NE(chain, nullptr);
        StandIn target(*chain);
        const auto bytes = pattern(100000, random_());
        ASSERT_OK(target.write({1234567}, bytes));
        std::copy(bytes.begin(), bytes.end(), model.begin() + 1234567);
        ASSERT_OK(target.flush());
        ASSERT_TRUE(chain->top().has_work());
    }
    EXPECT_TRUE(is_dirty(read_file(directory_ / "lazy.qcow2")));
    we_read("lazy.qcow2", model);
    qemu("qemu-img check -q -r all -f qcow2 lazy.qcow2");
    both_read("lazy.qcow2", model);
}

}  // namespace
}  // namespace dmu
