// SPDX-License-Identifier: GPL-2.0-or-later
// qemu as an independent reader and writer.
#include "formats/core/image_neighbours.h"
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

class VmdkQemu : public ::testing::Test {
protected:
    VmdkQemu() : directory_(std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp") {}
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    }
    std::string qemu(const std::string& command) {
        const auto ran = run_command("cd '" + directory_.path() + "' && " + command);
        EXPECT_EQ(ran.status, 0) << command << ": " << ran.output;
        return ran.output;
    }
    std::unique_ptr<Chain> open(const std::string& name, bool writable) {
        auto chain = Chain::open(*parse_spec("vmdk:" + (directory_ / name)), writable, PathPolicy{});
        EXPECT_OK(chain);
        return chain ? std::move(*chain) : nullptr;
    }
    void write_through_us(const std::string& name, Bytes& model, int count) {
        auto chain = open(name, true);
        ASSERT_NE(chain, nullptr);
        StandIn target(*chain);
        ASSERT_EQ(target.size(), model.size());
        for (int i = 0; i < count; i++) {
            const auto offset = random_() % model.size();
            const auto bytes =
                pattern(std::min<std::uint64_t>(1 + random_() % 90000, model.size() - offset), random_());
            ASSERT_OK(target.write({offset}, bytes));
            put_bytes(model, offset, bytes);
            if (i % 7 == 3) ASSERT_OK(target.flush());
        }
        ASSERT_OK(chain->top().close());
    }
    void write_through_qemu(const std::string& name, Bytes& model, int count) {
        std::string commands;
        for (int i = 0; i < count; i++) {
            const auto sectors = model.size() / 512;
            const auto first = random_() % sectors,
                       length = 1 + random_() % std::min<std::uint64_t>(sectors - first, 99);
            const auto byte = 1 + random_() % 255;
            commands += " -c 'write -P " + std::to_string(byte) + " " + std::to_string(first * 512) + " " +
                        std::to_string(length * 512) + "'";
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first * 512), length * 512,
                        static_cast<std::byte>(byte));
        }
        qemu("qemu-io -f vmdk" + commands + " '" + name + "' >/dev/null");
    }
    void qemu_reads(const std::string& name, const Bytes& model) {
        qemu("qemu-img convert -f vmdk -O raw '" + name + "' out.raw");
        EXPECT_TRUE(read_file(directory_ / "out.raw") == model) << name;
    }
    void we_read(const std::string& name, const Bytes& model) {
        auto chain = open(name, false);
        ASSERT_NE(chain, nullptr);
        Bytes seen(model.size());
        ASSERT_OK(chain->read({0}, seen));
        EXPECT_TRUE(seen == model) << name;
    }
    void is_sound_here(const std::string& name) {
        auto file = open_file(directory_ / name, {false, true});
        ASSERT_OK(file);
        ImageNeighbours neighbours(directory_ / name, PathPolicy{}, false);
        EXPECT_TRUE(is_sound(find_format("vmdk")->check(**file, {Repair::none, &neighbours})));
    }
    void create(const std::string& name, std::uint64_t size, Options options, std::uint32_t grain,
                const std::string& backing = "") {
        write_file(directory_ / name, {});
        auto file = open_file(directory_ / name, {true, true});
        ASSERT_OK(file);
        ImageNeighbours neighbours(directory_ / name, PathPolicy{}, true);
        CreateOptions how{size, grain, {}};
        how.options = std::move(options);
        how.neighbours = &neighbours;
        if (!backing.empty()) how.backing = BackingReference{backing, "vmdk"};
        ASSERT_OK(find_format("vmdk")->create(**file, how));
    }

    TempDir directory_;
    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
};

TEST_F(VmdkQemu, ItsImagesWrittenByBoth) {
    for (const char* options :
         {"subformat=monolithicSparse", "subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse",
          "subformat=twoGbMaxExtentFlat", "subformat=monolithicSparse,zeroed_grain=on"})
        for (const std::uint64_t size : {5000000 / 512 * 512ull, 1ull << 20}) {
            SCOPED_TRACE(options);
            qemu("rm -f a*.vmdk; qemu-img create -q -f vmdk -o " + std::string(options) + " a.vmdk " +
                 std::to_string(size));
            Bytes model(size);
            write_through_us("a.vmdk", model, 12);
            qemu_reads("a.vmdk", model);
            write_through_qemu("a.vmdk", model, 8);
            we_read("a.vmdk", model);
            write_through_us("a.vmdk", model, 5);
            qemu_reads("a.vmdk", model);
            is_sound_here("a.vmdk");
        }
}

TEST_F(VmdkQemu, OursReadAndWrittenByBoth) {
    const struct {
        const char* name;
        Options options;
        std::uint32_t grain;
    } kinds[] = {{"s.vmdk", {}, 8192},
                 {"l.vmdk", {}, 1 << 20},
                 {"z.vmdk", {{"zeroed_grain", "on"}}, 65536},
                 {"t.vmdk", {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}}, 65536},
                 {"f.vmdk", {{"subformat", "monolithicFlat"}}, 0},
                 {"g.vmdk", {{"subformat", "twoGbMaxExtentFlat"}, {"extent_size", "1048576"}}, 0},
                 {"v.vmdk", {{"subformat", "vmfs"}}, 0}};
    for (const auto& kind : kinds) {
        SCOPED_TRACE(kind.name);
        Bytes model(3000 * 1024 + 512);
        create(kind.name, model.size(), kind.options, kind.grain);
        write_through_us(kind.name, model, 10);
        qemu_reads(kind.name, model);
        write_through_qemu(kind.name, model, 10);
        we_read(kind.name, model);
        write_through_us(kind.name, model, 10);
        qemu_reads(kind.name, model);
        is_sound_here(kind.name);
    }
}

// qemu does not move COWD's first free sector: it is a reader only there.
TEST_F(VmdkQemu, OurCowdReadByIt) {
    for (const std::uint32_t grain : {512u, 65536u}) {
        Bytes model(5 << 20);
        const std::string name = "c" + std::to_string(grain) + ".vmdk";
        create(name, model.size(), {{"subformat", "vmfsSparse"}}, grain);
        write_through_us(name, model, 15);
        qemu_reads(name, model);
        is_sound_here(name);
    }
}

TEST_F(VmdkQemu, ChainsOfBothMakings) {
    Bytes model(2 << 20);
    qemu("qemu-img create -q -f vmdk base.vmdk 2M");
    write_through_us("base.vmdk", model, 10);
    qemu("qemu-img create -q -f vmdk -b base.vmdk -F vmdk mid.vmdk");
    write_through_us("mid.vmdk", model, 10);
    write_through_qemu("mid.vmdk", model, 5);
    create("top.vmdk", model.size(), {}, 65536, "mid.vmdk");
    write_through_us("top.vmdk", model, 10);
    write_through_qemu("top.vmdk", model, 5);
    qemu_reads("top.vmdk", model);
    we_read("top.vmdk", model);
    // Its CID changes as it does with us: the overlay is stale then, for both.
    Bytes mid(2 << 20);
    write_through_qemu("mid.vmdk", mid, 1);
    EXPECT_TRUE(fails_with(Chain::open(*parse_spec("vmdk:" + (directory_ / "top.vmdk")), false, PathPolicy{}),
                           Code::corrupt, "wants"));
}

TEST_F(VmdkQemu, ItsStreams) {
    Bytes model(5 << 20);
    qemu("qemu-img create -q -f vmdk a.vmdk 5M");
    write_through_qemu("a.vmdk", model, 20);
    qemu("qemu-img convert -f vmdk -O vmdk -o subformat=streamOptimized a.vmdk b.vmdk");
    we_read("b.vmdk", model);
    is_sound_here("b.vmdk");
}

TEST_F(VmdkQemu, OurStreams) {
    for (const std::uint64_t size : {1ull << 20, 3000ull * 512, (40ull << 20) + 512}) {
        SCOPED_TRACE(size);
        run_command("rm -f " + (directory_ / "b.vmdk"));
        create("b.vmdk", size, {{"subformat", "streamOptimized"}}, 0);
        we_read("b.vmdk", Bytes(size));
        qemu_reads("b.vmdk", Bytes(size));
        auto chain = open("b.vmdk", true);
        ASSERT_NE(chain, nullptr);
        auto& image = chain->top();
        EXPECT_FALSE(image.info().can_allocate);
        Bytes model(size);
        for (std::uint64_t at = 0; at < size; at += 65536) {
            if (random_() % 3 == 0 && at != 0) continue;
            const auto bytes = std::min<std::uint64_t>(65536, size - at);
            auto grain = pattern(bytes, at);
            if (random_() % 2) std::fill_n(grain.begin(), bytes / 2, std::byte{7});
            ASSERT_OK(image.write_compressed({at}, grain));
            put_bytes(model, at, grain);
        }
        EXPECT_TRUE(fails_with(image.write_compressed({0}, Bytes(65536)), Code::invalid, "written before"));
        EXPECT_TRUE(fails_with(image.write_compressed({512}, Bytes(512)), Code::invalid, "no whole grain"));
        ASSERT_OK(image.close());
        we_read("b.vmdk", model);
        qemu_reads("b.vmdk", model);
        is_sound_here("b.vmdk");
        EXPECT_TRUE(fails_with(Chain::open(*parse_spec("vmdk:" + (directory_ / "b.vmdk")), true, PathPolicy{}),
                               Code::unsupported, "reading only"));
    }
}

}  // namespace
}  // namespace dmu
