// SPDX-License-Identifier: GPL-2.0-or-later
// qemu as the independent reader and writer of the same images.
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

class QcowQemu : public ::testing::Test {
protected:
    explicit QcowQemu(const std::string& base = "/var/tmp") : directory_(base) {}
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
    }
    void qemu(const std::string& command) {
        const auto ran = run_command("cd '" + directory_.path() + "' && " + command);
        ASSERT_EQ(ran.status, 0) << command << ": " << ran.output;
    }
    std::unique_ptr<Chain> open(const std::string& spec, bool writable) {
        auto parsed = parse_spec(spec);
        EXPECT_OK(parsed);
        parsed->path = directory_ / parsed->path;
        auto chain = Chain::open(*parsed, writable, PathPolicy{});
        EXPECT_OK(chain);
        return chain ? std::move(*chain) : nullptr;
    }
    void create(const std::string& name, std::uint64_t size, std::uint32_t cluster, const std::string& backing = "") {
        write_file(directory_ / name, {});
        auto file = open_file(directory_ / name, {true, true});
        ASSERT_OK(file);
        CreateOptions options{size, cluster, {}};
        if (!backing.empty()) options.backing = BackingReference{backing, ""};
        ASSERT_OK(find_format("qcow")->create(**file, options));
    }
    // Random writes through the stand-in, into the model too.
    void write_through_us(const std::string& spec, Bytes& model, std::mt19937_64& random, int count) {
        auto chain = open(spec, true);
        ASSERT_NE(chain, nullptr);
        StandIn target(*chain);
        ASSERT_EQ(target.size(), model.size());
        for (int i = 0; i < count; i++) {
            const auto offset = random() % model.size();
            const auto bytes = pattern(std::min<std::uint64_t>(1 + random() % 60000, model.size() - offset), random());
            ASSERT_OK(target.write({offset}, bytes));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
            if (i % 7 == 3) ASSERT_OK(target.flush());
        }
        ASSERT_OK(chain->top().close());
    }
    // Whole sectors, so that qemu's zero-filling of partial sectors plays no part.
    void write_through_qemu(const std::string& name, Bytes& model, std::mt19937_64& random, int count,
                            std::uint64_t unit) {
        std::string commands;
        for (int i = 0; i < count; i++) {
            const auto units = model.size() / unit;
            const auto first = random() % units, length = 1 + random() % std::min<std::uint64_t>(units - first, 20);
            const auto byte = 1 + random() % 255;
            commands += " -c 'write -P " + std::to_string(byte) + " " + std::to_string(first * unit) + " " +
                        std::to_string(length * unit) + "'";
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first * unit), length * unit,
                        static_cast<std::byte>(byte));
        }
        qemu("qemu-io -f qcow" + commands + " '" + name + "' >/dev/null");
    }
    void qemu_reads(const std::string& name, const Bytes& model) {
        qemu("qemu-img convert -f qcow -O raw '" + name + "' out.raw");
        EXPECT_TRUE(read_file(directory_ / "out.raw") == model) << name;
    }
    void we_read(const std::string& spec, const Bytes& model) {
        auto chain = open(spec, false);
        ASSERT_NE(chain, nullptr);
        Bytes seen(model.size());
        ASSERT_OK(chain->read({0}, seen));
        EXPECT_TRUE(seen == model) << spec;
    }
    CheckReport check(const std::string& name) {
        auto file = open_file(directory_ / name, {false, true});
        EXPECT_OK(file);
        auto report = find_format("qcow")->check(**file, {});
        EXPECT_TRUE(is_sound(report));
        return *report;
    }
    std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    TempDir directory_;
};

// Many images: where a sync costs nothing.
class QcowQemuSweep : public QcowQemu {
protected:
    QcowQemuSweep() : QcowQemu(std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp") {}
};

TEST_F(QcowQemu, ItsImagesWrittenByUs) {
    for (const std::uint64_t size : {1ull << 20, 512ull, 100ull * 512, 3000001ull, (5ull << 20) + 512}) {
        qemu("rm -f a.qcow && qemu-img create -q -f qcow a.qcow " + std::to_string(size));
        Bytes model(align_up(size, 512));
        write_through_us("qcow:a.qcow", model, random_, 20);
        qemu_reads("a.qcow", model);
        EXPECT_EQ(check("a.qcow").leaks, 0u);
    }
}

// QEMU pads the L1 table, which with a backing file's name starts anywhere, to whole sectors.
TEST_F(QcowQemu, ItsOverlaysHaveNoLeaks) {
    qemu("truncate -s 16M base.raw");
    for (const std::string name : {"o.qcow", "a-longer-name-of-an-overlay.qcow"}) {
        qemu("qemu-img create -q -f qcow -b base.raw -F raw " + name + " 16M");
        EXPECT_EQ(check(name).leaks, 0u);
        Bytes model(16 << 20);
        write_through_us("qcow;backing-format=raw:" + name, model, random_, 20);
        EXPECT_EQ(check(name).leaks, 0u);
        qemu_reads(name, model);
    }
}

TEST_F(QcowQemuSweep, OurImagesOfEveryClusterSizeWrittenByBoth) {
    for (std::uint32_t cluster = 512; cluster <= 65536; cluster *= 2) {
        SCOPED_TRACE(cluster);
        const std::string name = "b" + std::to_string(cluster) + ".qcow";
        create(name, 2000000, cluster);
        Bytes model(align_up(2000000, 512));
        write_through_us("qcow:" + name, model, random_, 10);
        write_through_qemu(name, model, random_, 10, 512);
        check(name);
        we_read("qcow:" + name, model);
        write_through_us("qcow:" + name, model, random_, 10);
        qemu_reads(name, model);
        check(name);
    }
}

TEST_F(QcowQemuSweep, EveryTableSize) {
    for (unsigned l2_bits = 6; l2_bits <= 13; l2_bits++) {
        SCOPED_TRACE(l2_bits);
        create("t.qcow", 3 << 20, 512);
        // An empty image: its tables can have any size, if the L1 table has room.
        auto raw = read_file(directory_ / "t.qcow");
        raw.resize(4096);
        store_be<std::uint8_t>(raw, 33, static_cast<std::uint8_t>(l2_bits));
        write_file(directory_ / "t.qcow", raw);
        Bytes model(3 << 20);
        write_through_us("qcow:t.qcow", model, random_, 12);
        write_through_qemu("t.qcow", model, random_, 5, 512);
        write_through_us("qcow:t.qcow", model, random_, 5);
        qemu_reads("t.qcow", model);
        we_read("qcow:t.qcow", model);
        check("t.qcow");
    }
}

TEST_F(QcowQemu, ChainsOfItsMaking) {
    Bytes model(700 * 512);
    qemu("qemu-img create -q -f qcow base.qcow " + std::to_string(model.size()));
    write_through_us("qcow:base.qcow", model, random_, 10);
    qemu("qemu-img create -q -f qcow -b base.qcow -F qcow mid.qcow 2>/dev/null");
    write_through_us("qcow:mid.qcow", model, random_, 10);
    write_through_qemu("mid.qcow", model, random_, 10, 512);
    model.resize(900 * 512);
    qemu("qemu-img create -q -f qcow -b mid.qcow -F qcow top.qcow " + std::to_string(model.size()) + " 2>/dev/null");
    write_through_us("qcow:top.qcow", model, random_, 10);
    write_through_qemu("top.qcow", model, random_, 10, 512);
    qemu_reads("top.qcow", model);
    we_read("qcow:top.qcow", model);
    for (const char* name : {"base.qcow", "mid.qcow", "top.qcow"}) check(name);
}

TEST_F(QcowQemu, RawBackingFile) {
    auto model = pattern(300000 / 512 * 512, 3);
    write_file(directory_ / "base.raw", model);
    qemu("qemu-img create -q -f qcow -b base.raw -F raw top.qcow 2>/dev/null");
    write_through_us("qcow;backing-format=raw:top.qcow", model, random_, 15);
    qemu_reads("top.qcow", model);
    we_read("qcow;backing-format=raw:top.qcow", model);
}

TEST_F(QcowQemu, WhereItLosesTheBackingFilesBytes) {
    // Clusters of more than 512 bytes: what we wrote reads right in both.
    auto model = pattern(1 << 20, 4);
    write_file(directory_ / "base.raw", model);
    create("top.qcow", 1 << 20, 65536, "base.raw");
    write_through_us("qcow;backing-format=raw:top.qcow", model, random_, 5);
    qemu_reads("top.qcow", model);
}

TEST_F(QcowQemu, ItsCompressedImages) {
    auto model = pattern(300000, 3);
    model.resize(1 << 20, std::byte{0x41});
    write_file(directory_ / "in.raw", model);
    // qemu-img 7.2 says 1 though the image is right.
    run_command("cd '" + directory_.path() + "' && qemu-img convert -c -f raw -O qcow in.raw c.qcow");
    we_read("qcow:c.qcow", model);
    check("c.qcow");
    // First writes over compressed clusters, by us and by qemu.
    write_through_us("qcow:c.qcow", model, random_, 20);
    qemu_reads("c.qcow", model);
    write_through_qemu("c.qcow", model, random_, 5, 4096);
    we_read("qcow:c.qcow", model);
    check("c.qcow");
}

TEST_F(QcowQemu, OurCompressedImages) {
    for (std::uint32_t cluster = 512; cluster <= 65536; cluster *= 2) {
        create("c.qcow", 1000000, cluster);
        auto model = pattern(1000000 / 512 * 512 + 512, cluster);
        for (std::size_t i = 0; i < model.size(); i++)
            if (i / 3000 % 3 != 0) model[i] = std::byte{7};
        {
            auto chain = open("qcow:c.qcow", true);
            ASSERT_NE(chain, nullptr);
            auto& image = chain->top();
            for (std::uint64_t at = 0; at < model.size(); at += cluster) {
                if (at / cluster % 5 == 2)
                    std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(at),
                                std::min<std::size_t>(cluster, model.size() - at), std::byte{0});
                else
                    ASSERT_OK(image.write_compressed(
                        {at}, std::span(model).subspan(at, std::min<std::size_t>(cluster, model.size() - at))));
            }
            ASSERT_OK(image.close());
        }
        EXPECT_EQ(check("c.qcow").leaks, 0u);
        EXPECT_LT(std::filesystem::file_size(directory_ / "c.qcow"), 700000u) << cluster;
        we_read("qcow:c.qcow", model);
        qemu_reads("c.qcow", model);
        write_through_us("qcow:c.qcow", model, random_, 10);
        qemu_reads("c.qcow", model);
        check("c.qcow");
    }
}

// The guest's sector makes the vector; qemu has no sectors but those of its clusters.
TEST_F(QcowQemu, Encrypted) {
    const std::string secret = "--object secret,id=s,file=key ";
    const std::string node = "--image-opts driver=qcow,encrypt.format=aes,encrypt.key-secret=s,file.filename=e.qcow";
    const std::string password = "0123456789abcdefgh";
    const auto key = std::as_bytes(std::span(password));
    for (const std::size_t length : {5u, 16u, 18u}) {
        write_file(directory_ / "key", {key.begin(), key.begin() + static_cast<std::ptrdiff_t>(length)});
        const auto made = run_command("cd '" + directory_.path() + "' && rm -f e.qcow && qemu-img create -q -f qcow " +
                                      secret + "-o encrypt.format=aes,encrypt.key-secret=s e.qcow 1M");
        if (made.status != 0) GTEST_SKIP() << "qemu-img makes no encrypted images: " << made.output;
        EXPECT_TRUE(fails_with(Chain::open(*parse_spec("qcow:" + directory_ / "e.qcow"), false, PathPolicy{}),
                               Code::denied, "key-file="));
        const auto spec = "qcow;key-file=" + directory_ / "key" + ":e.qcow";
        Bytes model(1 << 20);
        write_through_us(spec, model, random_, 20);
        const auto reads = [&] {
            qemu("qemu-img convert " + secret + node + " -O raw out.raw");
            EXPECT_TRUE(read_file(directory_ / "out.raw") == model);
        };
        reads();
        qemu("qemu-io " + secret + node + " -c 'write -P 0x5a 100k 300k' -c 'write -P 0x33 1000k 512' >/dev/null");
        std::fill_n(model.begin() + 102400, 307200, std::byte{0x5a});
        std::fill_n(model.begin() + 1024000, 512, std::byte{0x33});
        we_read(spec, model);
        write_through_us(spec, model, random_, 20);
        reads();
        check("e.qcow");
        // Nothing of it lies in the file as it is.
        const auto raw = read_file(directory_ / "e.qcow");
        const Bytes plain(16, std::byte{0x5a});
        EXPECT_EQ(std::search(raw.begin(), raw.end(), plain.begin(), plain.end()), raw.end());
    }
}

TEST_F(QcowQemu, EncryptedByUsOverABackingFile) {
    const std::string password = "secret";
    const auto key = std::as_bytes(std::span(password));
    write_file(directory_ / "key", {key.begin(), key.end()});
    auto model = pattern(1 << 20, 9);
    write_file(directory_ / "base.raw", model);
    write_file(directory_ / "e.qcow", {});
    {
        auto file = open_file(directory_ / "e.qcow", {true, true});
        ASSERT_OK(file);
        CreateOptions options{2 << 20, 4096, BackingReference{"base.raw", ""}};
        options.options = {{"key-file", directory_ / "key"}};
        ASSERT_OK(find_format("qcow")->create(**file, options));
    }
    model.resize(2 << 20);
    write_through_us("qcow;backing-format=raw;key-file=" + directory_ / "key" + ":e.qcow", model, random_, 20);
    we_read("qcow;backing-format=raw;key-file=" + directory_ / "key" + ":e.qcow", model);
    qemu(
        "qemu-img convert --object secret,id=s,file=key --image-opts driver=qcow,encrypt.format=aes,"
        "encrypt.key-secret=s,file.filename=e.qcow,backing.driver=raw,backing.file.driver=file,"
        "backing.file.filename=base.raw -O raw out.raw");
    EXPECT_TRUE(read_file(directory_ / "out.raw") == model);
}

TEST_F(QcowQemuSweep, ResizedByUs) {
    for (int round = 0; round < 30; round++) {
        const std::uint32_t cluster = 512u << random_() % 8;
        Bytes model((1 + random_() % 2000) * 512);
        create("r.qcow", model.size(), cluster);
        for (int step = 0; step < 4; step++) {
            write_through_us("qcow:r.qcow", model, random_, 4);
            const auto size = (1 + random_() % 4000) * 512;
            auto chain = open("qcow:r.qcow", true);
            ASSERT_NE(chain, nullptr);
            ASSERT_OK(chain->top().resize(size));
            EXPECT_EQ(chain->top().info().virtual_size, size);
            ASSERT_OK(chain->top().close());
            model.resize(size);
            we_read("qcow:r.qcow", model);
            check("r.qcow");
        }
        write_through_us("qcow:r.qcow", model, random_, 4);
        qemu_reads("r.qcow", model);
    }
}

TEST_F(QcowQemu, AnotherBackingFile) {
    const auto one = pattern(1 << 20, 1), two = pattern(1 << 20, 2);
    write_file(directory_ / "one.raw", one);
    write_file(directory_ / "another-two.raw", two);
    create("top.qcow", 1 << 20, 512, "one.raw");
    const auto point_at = [&](const std::optional<BackingReference>& backing) {
        auto chain = open("qcow;backing-format=raw:top.qcow", true);
        ASSERT_NE(chain, nullptr);
        ASSERT_OK(chain->top().set_backing(backing));
        ASSERT_OK(chain->top().close());
        EXPECT_LE(check("top.qcow").leaks, 2u);  // the room of the name before, in whole clusters
    };
    point_at(BackingReference{"another-two.raw", "raw"});
    qemu_reads("top.qcow", two);
    point_at(std::nullopt);
    qemu_reads("top.qcow", Bytes(1 << 20));
    EXPECT_FALSE(open("qcow:top.qcow", false)->top().info().backing);
}

TEST_F(QcowQemu, ImageOfAnotherMaker) {
    const char* set = std::getenv("DMU_SAMPLES");
    const auto source = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path().parent_path();
    const auto samples = set != nullptr ? std::filesystem::path(set) : source.parent_path() / "shared" / "samples";
    const auto sample = samples / "sleuthkit-image.qcow";
    if (!std::filesystem::exists(sample)) GTEST_SKIP() << "no " << sample << "; DMU_SAMPLES names the directory";
    std::filesystem::copy_file(sample, directory_ / "s.qcow");
    auto chain = open("qcow:s.qcow", false);
    ASSERT_NE(chain, nullptr);
    Bytes content(chain->top().info().virtual_size);
    EXPECT_EQ(content.size(), 102400u);
    ASSERT_OK(chain->read({0}, content));
    write_file(directory_ / "s.raw", content);
    const auto sum = run_command("sha256sum '" + (directory_ / "s.raw") + "'").output.substr(0, 64);
    EXPECT_EQ(sum, "854c3db1c4a07a241e2ed9fbd8892adf2adc662c7862a75deed26f3483f414c9");
    check("s.qcow");
    write_through_us("qcow:s.qcow", content, random_, 10);
    qemu_reads("s.qcow", content);
}

}  // namespace
}  // namespace dmu
