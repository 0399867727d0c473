// SPDX-License-Identifier: GPL-2.0-or-later
// Holes that others had, by their numbers, and what keeps them closed here:
//
//   CVE-2008-2004, 2013-1922 (XSA-48), 2015-1851, 2026-27211   a raw disk is probed: here, and
//               ChainFiles.FormatsAreNamedNeverGuessed
//   CVE-2014-0142 to 0148   divisions by zero, overflows, tables past their bounds: each rule
//               of Qcow2Header, QcowHeader, VmdkHeader; the numbers here
//   CVE-2014-0222, 0223     qcow's L2 size and image size: here, QcowHeader
//   CVE-2015-5162, 2018-10908   an image that costs memory or time: here, Qcow2Cost, QcowHeader,
//               Qcow2Zstd.BrokenStreams, VmdkHostile, fuzz targets
//   CVE-2015-5163, 2022-47951, 2024-32498, 2024-40767   backing, data and extent files that are
//               the host's: here, ChainFiles.NamesThatReachTooFar, VmdkNames
//   CVE-2024-4467           "info" opens what an image names: here, DmuImg.InfoOpensNothingElse
#include <zlib.h>

#include "formats/core/image_neighbours.h"
#include "tests/fakes/counting_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

// Its files in a directory of their own; beside it a secret.
class KnownHoles : public ::testing::Test {
protected:
    void SetUp() override {
        std::filesystem::create_directory(directory_ / "vm");
        write_file(directory_ / "secret", Bytes(1 << 20, std::byte{0x5e}));
    }
    std::string path(const std::string& name) const { return directory_ / ("vm/" + name); }
    Result<std::unique_ptr<Chain>> open(const std::string& spec, bool writable = false) {
        return Chain::open(*parse_spec(spec), writable, PathPolicy{});
    }
    Status create(const std::string& format, const std::string& name, std::uint64_t size,
                  const std::optional<BackingReference>& backing = {},
                  const std::vector<std::pair<std::string, std::string>>& how = {}) {
        write_file(path(name), {});
        auto file = open_file(path(name), {.writable = true});
        if (!file) return file.error();
        ImageNeighbours neighbours(path(name), {}, true, 0);
        CreateOptions options;
        options.virtual_size = size;
        options.backing = backing;
        options.options = how;
        options.neighbours = &neighbours;
        return find_format(format)->create(**file, options);
    }
    // The first place of a text in a file is overwritten by one as long.
    void patch(const std::string& name, const std::string& from, const std::string& to) {
        auto bytes = read_file(path(name));
        const auto old = std::as_bytes(std::span(from));
        const auto at = std::search(bytes.begin(), bytes.end(), old.begin(), old.end());
        ASSERT_NE(at, bytes.end());
        const auto fresh = std::as_bytes(std::span(to));
        std::copy(fresh.begin(), fresh.end(), at);
        write_file(path(name), bytes);
    }
    Bytes content(Chain& chain, std::size_t size) {
        Bytes bytes(size);
        EXPECT_OK(chain.read({0}, bytes));
        return bytes;
    }

    TempDir directory_{"/var/tmp"};
};

// A guest writes an image's header, with the host's file as backing file, into its raw disk.
TEST_F(KnownHoles, ARawDiskIsNeverProbed) {
    const auto secret = directory_ / "secret";
    for (const std::string format : {"qcow", "qcow2", "vmdk"}) {
        std::optional<BackingReference> backing = BackingReference{secret, format == "vmdk" ? "vmdk" : "raw"};
        if (format == "vmdk") backing->identity = "12345678";
        ASSERT_OK(create(format, "guest", 1 << 20, backing));
        auto bytes = read_file(path("guest"));
        bytes.resize(std::max<std::size_t>(bytes.size(), 1 << 20));
        write_file(path("guest"), bytes);
        auto raw = open("raw:" + path("guest"));
        ASSERT_OK(raw);
        EXPECT_EQ((*raw)->depth(), 1u);
        EXPECT_EQ(content(**raw, 65536), Bytes(bytes.begin(), bytes.begin() + 65536)) << format;
        // As a backing file it is what its overlay says, or nothing.
        ASSERT_OK(create("qcow2", "told", 1 << 20, BackingReference{"guest", "raw"}));
        auto told = open("qcow2:" + path("told"));
        ASSERT_OK(told);
        EXPECT_EQ((*told)->depth(), 2u);
        EXPECT_EQ(content(**told, 65536), Bytes(bytes.begin(), bytes.begin() + 65536)) << format;
        ASSERT_OK(create("qcow2", "untold", 1 << 20, BackingReference{"guest", ""}));
        EXPECT_TRUE(fails_with(open("qcow2:" + path("untold")), Code::denied, "never guessed"));
    }
}

// Every 32-bit word of each header, as numbers that divide by zero, overflow, or want all memory.
TEST_F(KnownHoles, NoNumberInAHeaderIsTrusted) {
    for (const std::string format : {"qcow", "qcow2", "vmdk"}) {
        ASSERT_OK(create(format, "good", 8 << 20));
        auto good = read_file(path("good"));
        good.resize(std::max<std::size_t>(good.size(), 4096));
        for (std::size_t at = 4; at < 128; at += 4) {
            for (const std::uint32_t value : {0u, 1u, 63u, 64u, 0x7fffffffu, 0x80000000u, 0xfffffff0u, 0xffffffffu}) {
                auto bad = good;
                if (format == "vmdk")
                    store_le<std::uint32_t>(bad, at, value);
                else
                    store_be<std::uint32_t>(bad, at, value);
                SCOPED_TRACE(format + ", byte " + std::to_string(at) + ": " + std::to_string(value));
                Counts counts;
                auto store = std::make_shared<MemoryStore>();
                store->bytes = bad;
                store->capacity = 64 << 20;
                const auto file = [&] {
                    return std::make_unique<CountingFile>(std::make_unique<MemoryFile>(store, "m", true), counts);
                };
                auto image = find_format(format)->open(file(), {true, {}});
                if (image && (*image)->info().virtual_size != 0) (void)(*image)->look_up({{0}, 512});
                (void)static_cast<bool>(find_format(format)->check(*file(), {}));
                EXPECT_LT(counts.bytes_read, 64u << 20);
                EXPECT_LT(counts.reads, 100000u);
                EXPECT_LT(counts.largest_read, 65u << 20);
            }
        }
    }
}

TEST_F(KnownHoles, SizesOfQcowTables) {
    ASSERT_OK(create("qcow", "good", 8 << 20));
    const auto good = read_file(path("good"));
    const auto with = [&](std::size_t at, auto value) {
        auto bad = good;
        store_be<decltype(value)>(bad, at, value);
        write_file(path("bad"), bad);
        return open("qcow:" + path("bad"));
    };
    EXPECT_TRUE(fails_with(with(33, std::uint8_t{14}), Code::corrupt, "l2_bits"));
    EXPECT_TRUE(fails_with(with(33, std::uint8_t{255}), Code::corrupt, "l2_bits"));
    EXPECT_FALSE(with(24, std::uint64_t{0}));
    EXPECT_FALSE(with(24, UINT64_MAX));
    EXPECT_FALSE(with(24, std::uint64_t{1} << 62));
}

// A few bytes that inflate to gigabytes give a cluster, or an error, no more.
TEST_F(KnownHoles, ACompressedClusterIsOneCluster) {
    Bytes bomb(64 << 10);
    {
        z_stream stream{};
        ASSERT_EQ(::deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
        const Bytes zeros(16 << 20);
        stream.next_out = reinterpret_cast<Bytef*>(bomb.data());
        stream.avail_out = static_cast<uInt>(bomb.size());
        stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(zeros.data()));
        stream.avail_in = static_cast<uInt>(zeros.size());
        ASSERT_EQ(::deflate(&stream, Z_FINISH), Z_STREAM_END);
        bomb.resize(stream.total_out);
        ::deflateEnd(&stream);
    }
    ASSERT_LT(bomb.size(), 60000u);
    ASSERT_OK(create("qcow2", "d", 1 << 20));
    {
        // A place for it, and an entry that says so: bit 62, the sectors from bit 54 on.
        auto chain = open("qcow2:" + path("d"), true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, pattern(65536, 1)));
        ASSERT_OK((*chain)->top().close());
    }
    auto bytes = read_file(path("d"));
    const auto l1 = load_be<std::uint64_t>(bytes, 40);
    const auto l2 = load_be<std::uint64_t>(bytes, l1) & 0x00fffffffffffe00;
    const auto place = load_be<std::uint64_t>(bytes, l2) & 0x00fffffffffffe00;
    std::copy(bomb.begin(), bomb.end(), bytes.begin() + static_cast<std::ptrdiff_t>(place));
    store_be<std::uint64_t>(bytes, l2, std::uint64_t{1} << 62 | (bomb.size() / 512) << 54 | place);
    write_file(path("d"), bytes);
    auto chain = open("qcow2:" + path("d"));
    ASSERT_OK(chain);
    Bytes seen(65536, std::byte{1});
    if ((*chain)->read({0}, seen)) {
        EXPECT_EQ(seen, Bytes(65536));
    }
}

TEST_F(KnownHoles, FilesOfTheHostAreOutOfReach) {
    const auto secret = directory_ / "secret";
    // Written as long as what they replace.
    std::vector<std::string> names{
        secret, "../secret", "/etc/hostname", "json:{\"driver\":\"raw\"}", "nbd:localhost:1", "/proc/self/mem"};
    for (const auto& name : names) {
        const std::string placeholder(name.size(), 'x');
        ASSERT_OK(create("qcow2", "data", 1 << 20, {}, {{"data_file", placeholder}}));
        patch("data", placeholder, name);
        EXPECT_TRUE(fails_with(open("qcow2:" + path("data")), Code::denied, "")) << name;
        EXPECT_FALSE(open("qcow2:" + path("data"), true)) << name;
        std::filesystem::remove(path(placeholder));

        for (const std::string format : {"qcow", "qcow2"}) {
            ASSERT_OK(create(format, "over", 1 << 20, BackingReference{name, "raw"}));
            EXPECT_TRUE(fails_with(open(format + ";backing-format=raw:" + path("over")), Code::denied, "")) << name;
        }
        ASSERT_OK(create("vmdk", "child", 1 << 20, BackingReference{placeholder, "vmdk", "12345678"}));
        if (name.find('"') == name.npos) {
            patch("child", placeholder, name);
            EXPECT_TRUE(fails_with(open("vmdk:" + path("child")), Code::denied, "")) << name;
        }
    }
    EXPECT_EQ(read_file(secret), Bytes(1 << 20, std::byte{0x5e}));
}

// Information about an image opens no other file, whatever it names.
TEST_F(KnownHoles, InformationOpensNothingElse) {
    struct Nothing final : Neighbours {
        Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode) override {
            ADD_FAILURE() << name << " was opened";
            return Error{Code::denied, name};
        }
        Result<std::unique_ptr<BlockFile>> create(const std::string& name) override { return open(name, {}); }
    } nothing;
    ASSERT_OK(create("qcow2", "data", 1 << 20, {}, {{"data_file", "xxxxxxxxxxxxxxxxxxxxx"}}));
    patch("data", "xxxxxxxxxxxxxxxxxxxxx", "json:{\"driver\":\"raw\"}");
    ASSERT_OK(create("vmdk", "split", 4 << 20, {}, {{"subformat", "twoGbMaxExtentSparse"}}));
    patch("split", "split-s001.vmdk", "/etc/../hostnam");
    for (const std::string format : {"qcow2", "vmdk"}) {
        auto file = open_file(path(format == "vmdk" ? "split" : "data"), {});
        ASSERT_OK(file);
        OpenOptions options;
        options.info_only = true;
        options.neighbours = &nothing;
        const auto image = find_format(format)->open(std::move(*file), options);
        ASSERT_OK(image);
        EXPECT_EQ((*image)->info().format, format);
    }
}

}  // namespace
}  // namespace dmu
