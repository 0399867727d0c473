// SPDX-License-Identifier: GPL-2.0-or-later
// Small files that claim much: tables named by many, users far apart in a huge hole, tables as
// large as they may be. What an image costs is bounded by what its file holds, not by what it says.
#include <malloc.h>

#include "tests/fakes/counting_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

constexpr std::uint64_t MiB = 1 << 20, copied = std::uint64_t{1} << 63;
constexpr std::uint64_t most_memory = 256 * MiB;

// A file of holes, but for some pieces.
struct Holes {
    std::map<std::uint64_t, Bytes> pieces;
    std::uint64_t size = 0;

    void put(std::uint64_t at, Bytes bytes) { pieces[at] = std::move(bytes); }
    void put_words(std::uint64_t at, const std::vector<std::uint64_t>& words) {
        Bytes raw(words.size() * 8);
        for (std::size_t i = 0; i < words.size(); i++) store_be<std::uint64_t>(raw, i * 8, words[i]);
        put(at, std::move(raw));
    }
};

class HoleFile final : public BlockFile {
public:
    explicit HoleFile(Holes& holes) : holes_(holes) {}
    const std::string& name() const override { return name_; }
    Result<std::uint64_t> size() const override { return holes_.size; }
    Status read(std::uint64_t offset, std::span<std::byte> into) override {
        std::fill(into.begin(), into.end(), std::byte{0});
        for (const auto& [at, bytes] : holes_.pieces) {
            const auto first = std::max(at, offset), end = std::min(at + bytes.size(), offset + into.size());
            if (first < end)
                std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(first - at), end - first,
                            into.begin() + static_cast<std::ptrdiff_t>(first - offset));
        }
        return ok();
    }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override {
        holes_.put(offset, Bytes(from.begin(), from.end()));
        holes_.size = std::max(holes_.size, offset + from.size());
        return ok();
    }
    Status sync() override { return ok(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        holes_.size = std::max(holes_.size, offset + length);
        return true;
    }
    Status truncate(std::uint64_t size) override {
        holes_.size = size;
        return ok();
    }
    bool read_only() const override { return false; }
    int descriptor() const override { return -1; }
    std::uint32_t direct_alignment() const override { return 0; }

private:
    const std::string name_ = "holes";
    Holes& holes_;
};

// The most that was resident while it ran, beyond what was before; 0 under a sanitizer, which
// keeps much that is free.
template <typename Do>
std::uint64_t memory_for(const Do& run) {
    const auto figure = [](const std::string& name) {
        std::ifstream status("/proc/self/status");
        for (std::string line; std::getline(status, line);)
            if (line.starts_with(name)) return std::stoull(line.substr(name.size())) << 10;
        return 0ULL;
    };
    ::malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";
    const auto before = figure("VmRSS:");
    run();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#else
    const auto most = figure("VmHWM:");
    return most > before ? most - before : 0;
#endif
}

class Qcow2Cost : public ::testing::Test {
protected:
    // Version 3; at: clusters.
    void header(unsigned bits, std::uint64_t l1_at, std::uint64_t l1_entries, std::uint64_t refcounts_at,
                std::uint64_t refcounts_clusters, bool dirty = false) {
        bits_ = bits;
        raw_.resize(std::size_t{1} << bits);
        for (const auto& [at, value] : std::initializer_list<std::pair<std::size_t, std::uint64_t>>{
                 {0, 0x514649fb}, {4, 3}, {20, bits}, {36, l1_entries}, {56, refcounts_clusters}, {96, 4}, {100, 104}})
            store_be<std::uint32_t>(raw_, at, static_cast<std::uint32_t>(value));
        store_be<std::uint64_t>(raw_, 24, MiB);
        store_be<std::uint64_t>(raw_, 40, l1_at << bits);
        store_be<std::uint64_t>(raw_, 48, refcounts_at << bits);
        store_be<std::uint64_t>(raw_, 72, dirty ? 1 : 0);
        holes_.put(0, raw_);
    }
    void snapshots(std::uint64_t at, std::uint32_t count, std::uint64_t l1_at, std::uint32_t l1_entries,
                   std::uint32_t text = 0) {
        const auto bytes = 40 + (text + 7) / 8 * 8;
        Bytes table(std::size_t{count} * bytes);
        for (std::size_t i = 0; i < count; i++) {
            store_be<std::uint64_t>(table, i * bytes, l1_at << bits_);
            store_be<std::uint32_t>(table, i * bytes + 8, l1_entries);
            store_be<std::uint16_t>(table, i * bytes + 14, static_cast<std::uint16_t>(text));
        }
        holes_.put(at << bits_, std::move(table));
        store_be<std::uint32_t>(raw_, 60, count);
        store_be<std::uint64_t>(raw_, 64, at << bits_);
        holes_.put(0, raw_);
    }
    // An extension behind the header; entries: of each one's table.
    void bitmaps(std::uint64_t at, std::uint32_t count, std::uint64_t table_at, std::uint32_t entries) {
        Bytes directory(std::size_t{count} * 32);
        for (std::size_t i = 0; i < count; i++) {
            store_be<std::uint64_t>(directory, i * 32, table_at << bits_);
            store_be<std::uint32_t>(directory, i * 32 + 8, entries);
            store_be<std::uint32_t>(directory, i * 32 + 12, 1);
            store_be<std::uint32_t>(directory, i * 32 + 16, 0x01100001);
        }
        store_be<std::uint64_t>(raw_, 88, 1);
        store_be<std::uint32_t>(raw_, 104, 0x23852875);
        store_be<std::uint32_t>(raw_, 108, 24);
        store_be<std::uint32_t>(raw_, 112, count);
        store_be<std::uint64_t>(raw_, 120, directory.size());
        store_be<std::uint64_t>(raw_, 128, at << bits_);
        holes_.put(at << bits_, std::move(directory));
        holes_.put(0, raw_);
    }
    std::unique_ptr<BlockFile> file() {
        return std::make_unique<CountingFile>(std::make_unique<HoleFile>(holes_), counts_);
    }
    Result<std::unique_ptr<Image>> open(bool writable = true) {
        return find_format("qcow2")->open(file(), {writable, {}});
    }
    Result<CheckReport> check(Repair repair = Repair::none) {
        CheckOptions options;
        options.repair = repair;
        return find_format("qcow2")->check(*file(), options);
    }
    void is_corrupt(const Result<CheckReport>& report) {
        ASSERT_OK(report);
        EXPECT_GT(report->corruptions, 0u);
    }

    unsigned bits_ = 0;
    Bytes raw_;
    Holes holes_;
    Counts counts_;
};

TEST_F(Qcow2Cost, ManySnapshotsWithOneL1Table) {
    for (const bool dirty : {false, true}) {
        header(9, 1, 64, 2, 1, dirty);
        // 32 MiB each.
        snapshots(1 << 17, 65536, 1 << 10, 1 << 22);
        holes_.size = 1 << 30;
        counts_ = {};
        is_corrupt(check());
        EXPECT_TRUE(fails_with(open(), Code::corrupt, "lies over other metadata"));
        EXPECT_TRUE(open(false));
        EXPECT_LT(counts_.bytes_read, 100 * MiB);
        EXPECT_LT(counts_.reads, 1000000u);
    }
}

// A cluster of 2 MiB, named by four million entries: by the disk's table, and by a snapshot's.
TEST_F(Qcow2Cost, OneL2TableForAll) {
    const std::vector<std::uint64_t> l1(1 << 22, 40ULL << 21);
    header(21, 1, 1 << 22, 30, 1);
    holes_.put_words(1 << 21, l1);
    holes_.put_words(40ULL << 21, std::vector<std::uint64_t>(1 << 18, 41ULL << 21));
    holes_.size = 50ULL << 21;
    is_corrupt(check());
    EXPECT_TRUE(fails_with(open(), Code::corrupt, "over each other"));
    EXPECT_LT(counts_.bytes_read, 200 * MiB);
    holes_.pieces.erase(1 << 21);
    header(21, 20, 1, 30, 1);
    snapshots(31, 1, 1, 1 << 22);
    holes_.put_words(1 << 21, l1);
    counts_ = {};
    is_corrupt(check());
    EXPECT_LT(counts_.bytes_read, 200 * MiB);
}

// Each of them where memory for its neighbours would be as much as the file has bytes.
TEST_F(Qcow2Cost, UsersFarApart) {
    constexpr std::uint64_t apart = 1 << 30, tables = 512;
    header(9, 1, tables, 9, 1);
    std::vector<std::uint64_t> l1, l2(64);
    for (std::uint64_t i = 0; i < tables; i++) {
        l1.push_back((i + 16) << 9 | copied);
        for (std::uint64_t k = 0; k < 64; k++) l2[k] = (i * 64 + k + 1) * apart | copied;
        holes_.put_words((i + 16) << 9, l2);
    }
    holes_.put_words(1 << 9, l1);
    holes_.size = std::uint64_t{1} << 55;
    EXPECT_LT(memory_for([&] { is_corrupt(check()); }), 64 * MiB);
    EXPECT_TRUE(fails_with(check(Repair::all), Code::unsupported, "too large"));
    EXPECT_LT(counts_.bytes_read, 16 * MiB);
    EXPECT_LT(counts_.largest_read, MiB);
    EXPECT_OK(open());
}

TEST_F(Qcow2Cost, TablesOfBitmaps) {
    for (const bool dirty : {false, true}) {
        SCOPED_TRACE(dirty);
        holes_ = {};
        header(16, 1, 1, 2, 1, dirty);
        holes_.size = std::uint64_t{1} << 40;
        bitmaps(16, 1, 1 << 8, UINT32_MAX);
        counts_ = {};
        EXPECT_TRUE(fails_with(open(), Code::corrupt, "512 MiB are allowed"));
        is_corrupt(check());
        EXPECT_LT(counts_.bytes_read, MiB);
        // As large as they may be, and all in one place.
        bitmaps(16, 30000, 1 << 8, 8192);
        counts_ = {};
        is_corrupt(check());
        EXPECT_LT(counts_.bytes_read, 16 * MiB);
        auto image = open();
        ASSERT_OK(image);
        EXPECT_EQ((*image)->has_work(), dirty);
        for (int i = 0; i < 100 && (*image)->has_work(); i++) {
            counts_ = {};
            ASSERT_OK((*image)->work());
            EXPECT_LT(counts_.bytes_read, 4 * MiB);
        }
    }
}

TEST_F(Qcow2Cost, AllTablesAsLargeAsTheyMayBe) {
    constexpr std::uint64_t entries = 1 << 22, blocks = 1 << 20, tables_at = 1 << 18;
    for (const bool dirty : {false, true}) {
        SCOPED_TRACE(dirty);
        holes_ = {};
        header(9, 1 << 16, entries, 1 << 17, blocks * 8 >> 9, dirty);
        std::vector<std::uint64_t> words;
        for (std::uint64_t i = 0; i < entries; i++) words.push_back((tables_at + i) << 9 | copied);
        holes_.put_words(1 << 25, words);
        words.clear();
        for (std::uint64_t i = 0; i < blocks; i++) words.push_back((tables_at + entries + i) << 9);
        holes_.put_words(1 << 26, words);
        words = {};
        holes_.size = (tables_at + entries + blocks) << 9;
        snapshots(tables_at + entries + blocks, 65000, 1, 0, 480);
        holes_.size += 64 * MiB;
        counts_ = {};
        std::unique_ptr<Image> image;
        EXPECT_LT(memory_for([&] {
                      auto opened = open();
                      ASSERT_OK(opened);
                      image = std::move(*opened);
                      for (int i = 0; i < 20 && image->has_work(); i++) ASSERT_OK(image->work());
                      ASSERT_OK(image->look_up({{0}, MiB}));
                  }),
                  most_memory);
        EXPECT_EQ(image->has_work(), dirty);
    }
}

}  // namespace
}  // namespace dmu
