// SPDX-License-Identifier: GPL-2.0-or-later
// What names inside images may reach, where formats come from, and what layers make together.
#include "formats/core/chain.h"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

class ChainFiles : public ::testing::Test {
protected:
    void create(const std::string& name, const std::string& backing = "", std::uint64_t size = 1 << 20) {
        const auto path = directory_ / name;
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        write_file(path, {});
        auto file = open_file(path, {true, true});
        ASSERT_OK(file);
        CreateOptions options{size, 0, {}};
        if (!backing.empty()) options.backing = BackingReference{backing, ""};
        ASSERT_OK(find_format("qcow")->create(**file, options));
    }
    Result<std::unique_ptr<Chain>> open(const std::string& name, const std::string& options = "") {
        return Chain::open(*parse_spec("qcow" + options + ":" + directory_ / name), true, policy_);
    }
    TempDir directory_;
    PathPolicy policy_;
};

TEST_F(ChainFiles, ThreeLayersByName) {
    create("base.qcow");
    create("sub/mid.qcow", "base2.qcow");
    create("sub/base2.qcow");
    create("top.qcow", "sub/mid.qcow");
    const auto chain = open("top.qcow");
    ASSERT_OK(chain);
    EXPECT_EQ((*chain)->depth(), 3u);
    const auto files = (*chain)->files();
    ASSERT_EQ(files.size(), 3u);
    EXPECT_EQ(files[2].path, directory_ / "sub/base2.qcow");
    EXPECT_FALSE(files[0].handle->read_only());
    EXPECT_TRUE(files[1].handle->read_only());
}

TEST_F(ChainFiles, FormatsAreNamedNeverGuessed) {
    write_file(directory_ / "base.img", Bytes(1 << 20));
    create("inside.img");  // a raw disk whose guest wrote a qcow header into it
    std::filesystem::resize_file(directory_ / "inside.img", 4096);
    create("top.qcow", "base.img");
    create("trap.qcow", "inside.img");
    EXPECT_TRUE(fails_with(open("top.qcow"), Code::denied, "qcow;backing-format=raw:" + directory_ / "top.qcow"));
    EXPECT_TRUE(fails_with(open("trap.qcow"), Code::denied, "never guessed"));
    ASSERT_OK(open("top.qcow", ";backing-format=raw"));
    const auto trap = open("trap.qcow", ";backing-format=raw");
    ASSERT_OK(trap);
    Bytes seen(4);
    ASSERT_OK((*trap)->read({0}, seen));
    EXPECT_EQ(load_be<std::uint32_t>(seen, 0), 0x514649fbu);
    EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=qcow"), Code::invalid, "backing file of"));
    EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=vhs"), Code::invalid,
                           "no format 'vhs'; known are qcow, qcow2, raw, vmdk"));
    EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=raw,"), Code::invalid, "no format ''"));
    EXPECT_TRUE(fails_with(open("top.qcow", ";other=raw"), Code::invalid, "no option 'other'"));
    policy_.backing_format = "raw";
    EXPECT_OK(open("top.qcow"));
}

TEST_F(ChainFiles, FormatsByLayer) {
    write_file(directory_ / "base", Bytes(1 << 20));
    create("mid", "base");
    create("top.qcow", "mid");
    EXPECT_OK(open("top.qcow", ";backing-format=qcow,raw"));
    EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=qcow"), Code::invalid, "not a qcow image"));
    create("low");
    create("mid", "low");
    EXPECT_OK(open("top.qcow", ";backing-format=qcow"));
}

TEST_F(ChainFiles, NamesThatReachTooFar) {
    const TempDir elsewhere;
    const auto foreign = elsewhere / "base.qcow";
    create("base.qcow");
    std::filesystem::copy_file(directory_ / "base.qcow", foreign);
    create("vm/top.qcow", foreign);
    EXPECT_TRUE(fails_with(open("vm/top.qcow"), Code::denied, "outside of what is allowed"));
    create("vm/up.qcow", "../base.qcow");
    EXPECT_TRUE(fails_with(open("vm/up.qcow"), Code::denied, "add its directory to 'roots'"));
    std::filesystem::create_directory_symlink(elsewhere.path(), directory_ / "vm/out");
    create("vm/link.qcow", "out/base.qcow");
    EXPECT_TRUE(fails_with(open("vm/link.qcow"), Code::denied, "leads out of"));
    std::filesystem::create_symlink(foreign, directory_ / "vm/last.qcow");
    create("vm/end.qcow", "last.qcow");
    EXPECT_TRUE(fails_with(open("vm/end.qcow"), Code::denied, "is a symbolic link"));

    policy_.roots = {elsewhere.path() + "/", directory_.path()};
    EXPECT_OK(open("vm/top.qcow"));
    EXPECT_OK(open("vm/up.qcow"));
    EXPECT_FALSE(open("vm/link.qcow"));
    EXPECT_FALSE(open("vm/end.qcow"));
}

TEST_F(ChainFiles, NamesThatAreNoPlainPaths) {
    const char* names[] = {"json:{\"driver\":\"raw\"}", "nbd:localhost:1", "file:base.qcow", "fat:/etc",
                           "/etc/../proc/self/mem"};
    for (const char* name : names) {
        create("top.qcow", name);
        EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=raw"), Code::denied, "")) << name;
    }
    create("a:b.qcow");
    create("top.qcow", "a:b.qcow");
    EXPECT_TRUE(fails_with(open("top.qcow"), Code::denied, "'./a:b.qcow'"));
    create("top.qcow", "./a:b.qcow");
    EXPECT_OK(open("top.qcow"));
    create("top.qcow", directory_ / "a:b.qcow");
    EXPECT_OK(open("top.qcow"));
}

TEST_F(ChainFiles, OnlyRegularFiles) {
    ASSERT_EQ(::mkfifo((directory_ / "fifo.qcow").c_str(), 0600), 0);
    create("top.qcow", "fifo.qcow");
    EXPECT_TRUE(fails_with(open("top.qcow"), Code::denied, "not a regular file"));
    std::filesystem::create_directory(directory_ / "dir.qcow");
    create("top.qcow", "dir.qcow");
    EXPECT_TRUE(fails_with(open("top.qcow"), Code::denied, "not a regular file"));
    create("top.qcow", "/dev/null");
    policy_.roots = {"/dev"};
    EXPECT_TRUE(fails_with(open("top.qcow", ";backing-format=raw"), Code::denied, "not a regular file"));
    create("top.qcow", "gone.qcow");
    EXPECT_TRUE(fails_with(open("top.qcow"), Code::not_found, "gone.qcow"));
}

TEST_F(ChainFiles, StrangeNames) {
    const std::string name = "a b, c'd\"\xc3\xa4\xff.qcow";
    create(name);
    create("top of, all.qcow", name);
    EXPECT_OK(open("top of, all.qcow"));
}

TEST_F(ChainFiles, LoopsAndDepth) {
    create("self.qcow", "self.qcow");
    EXPECT_TRUE(fails_with(open("self.qcow"), Code::corrupt, "its own backing file"));
    create("a.qcow", "b.qcow");
    create("b.qcow", "a.qcow");
    EXPECT_TRUE(fails_with(open("a.qcow"), Code::corrupt, "its own backing file"));
    // By another name.
    std::filesystem::create_hard_link(directory_ / "a.qcow", directory_ / "hard.qcow");
    create("b.qcow", "hard.qcow");
    EXPECT_TRUE(fails_with(open("a.qcow"), Code::corrupt, "its own backing file"));

    create("0.qcow");
    for (int i = 1; i < 6; i++) create(std::to_string(i) + ".qcow", std::to_string(i - 1) + ".qcow");
    policy_.max_depth = 6;
    EXPECT_OK(open("5.qcow"));
    policy_.max_depth = 5;
    EXPECT_TRUE(fails_with(open("5.qcow"), Code::unsupported, "more than 5 layers"));
}

TEST_F(ChainFiles, ImageRoots) {
    create("in/a.qcow");
    create("b.qcow");
    policy_.image_roots = {directory_ / "in"};
    EXPECT_OK(open("in/a.qcow"));
    EXPECT_TRUE(fails_with(open("b.qcow"), Code::denied, "image-roots"));
    EXPECT_TRUE(fails_with(open("in/../b.qcow"), Code::denied, "image-roots"));
    std::filesystem::create_symlink("a.qcow", directory_ / "in/link.qcow");
    EXPECT_OK(open("in/link.qcow"));
    std::filesystem::create_symlink("../b.qcow", directory_ / "in/out.qcow");
    EXPECT_FALSE(open("in/out.qcow"));
}

TEST_F(ChainFiles, MissingFilesAndFormats) {
    EXPECT_TRUE(fails_with(open("none.qcow"), Code::not_found, "none.qcow"));
    EXPECT_TRUE(fails_with(Chain::open(*parse_spec("qcow9:/x"), true, policy_), Code::invalid,
                           "known are qcow, qcow2, raw, vmdk"));
}

// ----------------------------------------------------------- look-up ---

TEST(ChainLookUp, JoinsLayers) {
    MemoryDisks disks;
    auto base = disks.add("/m/base");
    base->bytes = pattern(10 * 512, 1);
    ASSERT_OK(disks.create("/m/mid.qcow", 64 * 512, 512, "base"));
    ASSERT_OK(disks.create("/m/top.qcow", 128 * 512, 512, "mid.qcow"));
    const auto put = [&](const std::string& spec, std::uint64_t sector, std::uint64_t seed) {
        auto chain = disks.chain(spec, true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        ASSERT_OK(target.write({sector * 512}, pattern(512, seed)));
        ASSERT_OK(target.flush());
        ASSERT_OK((*chain)->top().close());
    };
    put("qcow;backing-format=raw:/m/mid.qcow", 2, 2);
    put("qcow;backing-format=raw:/m/mid.qcow", 60, 3);
    put("qcow;backing-format=qcow,raw:/m/top.qcow", 3, 4);

    auto chain = disks.chain("qcow;backing-format=qcow,raw:/m/top.qcow", true);
    ASSERT_OK(chain);
    const auto all = (*chain)->look_up({{0}, 128 * 512});
    ASSERT_OK(all);
    std::string shape;
    std::uint64_t at = 0;
    for (const auto& m : *all) {
        EXPECT_EQ(m.start.bytes, at);
        at += m.length;
        shape += (m.kind == MappingKind::linear ? "L"
                  : m.kind == MappingKind::cow  ? "C"
                                                : "Z") +
                 std::to_string(m.layer) + "+" + std::to_string(m.length / 512) + (m.writable ? "w " : " ");
    }
    EXPECT_EQ(at, 128u * 512);
    EXPECT_EQ(shape, "C2+2 C1+1 L0+1w C2+6 Z0+50 C1+1 Z0+67 ");

    Bytes seen(128 * 512), expected = pattern(10 * 512, 1);
    expected.resize(seen.size());
    const auto place = [&](std::uint64_t sector, std::uint64_t seed) {
        const auto bytes = pattern(512, seed);
        std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<std::ptrdiff_t>(sector * 512));
    };
    place(2, 2);
    place(60, 3);
    place(3, 4);
    ASSERT_OK((*chain)->read({0}, seen));
    EXPECT_EQ(seen, expected);
    EXPECT_EQ(base->bytes, pattern(10 * 512, 1));

    // What was asked is covered, wherever the question starts.
    for (std::uint64_t start = 0; start < 128; start++) {
        const auto some = (*chain)->look_up({{start * 512}, std::min<std::uint64_t>(5, 128 - start) * 512});
        ASSERT_OK(some);
        ASSERT_EQ(some->front().start.bytes, start * 512);
        const auto& last = some->back();
        EXPECT_GE(last.start.bytes + last.length, std::min<std::uint64_t>(start + 5, 128) * 512);
    }
    EXPECT_FALSE((*chain)->look_up({{127 * 512}, 1024}));
}

TEST(ChainLookUp, PartialWriteKeepsTheBackingFilesBytes) {
    // Also for clusters of more than 512 bytes, where qemu fills with zeros.
    for (std::uint32_t cluster = 512; cluster <= 65536; cluster *= 2) {
        MemoryDisks disks;
        disks.add("/m/base")->bytes = pattern(200000, 1);
        ASSERT_OK(disks.create("/m/top.qcow", 512 * 1000, cluster, "base"));
        auto chain = disks.chain("qcow;backing-format=raw:/m/top.qcow", true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        ASSERT_OK(target.write({70000}, pattern(1000, 2)));
        ASSERT_OK(target.flush());
        auto expected = pattern(200000, 1);
        expected.resize(200000 / 512 * 512);
        expected.resize(512 * 1000);
        const auto bytes = pattern(1000, 2);
        std::copy(bytes.begin(), bytes.end(), expected.begin() + 70000);
        Bytes seen(expected.size());
        ASSERT_OK((*disks.chain("qcow;backing-format=raw:/m/top.qcow", false))->read({0}, seen));
        EXPECT_EQ(seen, expected) << cluster;
        EXPECT_TRUE(is_sound(disks.check("/m/top.qcow")));
    }
}

}  // namespace
}  // namespace dmu
