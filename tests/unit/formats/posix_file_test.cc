// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

struct Case {
    const char* directory;
    bool direct;
};

class PosixFile : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override {
        if (!std::filesystem::is_directory(GetParam().directory)) GTEST_SKIP() << "no " << GetParam().directory;
        directory_ = std::make_unique<TempDir>(GetParam().directory);
        path_ = *directory_ / "file";
    }
    std::unique_ptr<BlockFile> open(bool writable = true) {
        auto file = open_file(path_, {writable, GetParam().direct});
        EXPECT_OK(file);
        return file ? std::move(*file) : nullptr;
    }
    std::unique_ptr<TempDir> directory_;
    std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Where, PosixFile,
                         ::testing::Values(Case{"/var/tmp", true}, Case{"/var/tmp", false}, Case{"/dev/shm", true}));

TEST_P(PosixFile, ByteGranularWritesAgreeWithAModel) {
    const auto seed = test_seed();
    SCOPED_TRACE("DMU_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    write_file(path_, {});
    auto file = open();
    Bytes model;
    for (int i = 0; i < 300; i++) {
        const auto offset = random() % 20000;
        const auto bytes = pattern(1 + random() % (i % 10 == 0 ? 9000 : 700), random());
        ASSERT_OK(file->write(offset, bytes));
        if (model.size() < offset + bytes.size()) model.resize(offset + bytes.size());
        std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
        const auto size = file->size();
        ASSERT_OK(size);
        ASSERT_EQ(*size, model.size());
        Bytes seen(1 + random() % 5000);
        const auto from = random() % 30000;
        ASSERT_OK(file->read(from, seen));
        for (std::size_t k = 0; k < seen.size(); k++)
            ASSERT_EQ(seen[k], from + k < model.size() ? model[from + k] : std::byte{0}) << from + k;
    }
    ASSERT_OK(file->sync());
    EXPECT_EQ(read_file(path_), model);
}

TEST_P(PosixFile, LargeUnalignedTransfers) {
    write_file(path_, {});
    auto file = open();
    const auto bytes = pattern((3 << 20) + 77, 1);
    ASSERT_OK(file->write(13, bytes));
    Bytes seen(bytes.size());
    ASSERT_OK(file->read(13, seen));
    EXPECT_EQ(seen, bytes);
    EXPECT_EQ(*file->size(), bytes.size() + 13);
}

// Memory that may not be swapped: what lies beside a freed buffer must not make it useless.
TEST_P(PosixFile, UnalignedWritesDoNotGrowTheHeap) {
    write_file(path_, {});
    const auto file = open();
    for (const std::size_t bytes : {64U << 10, 512U << 10}) {
        const Bytes block(bytes + 1);
        const std::span<const std::byte> unaligned(block.data() + 1, bytes);
        std::vector<std::unique_ptr<std::byte[]>> kept;
        ASSERT_OK(file->write(0, unaligned));
        const auto before = ::mallinfo2().arena;
        for (int i = 0; i < 200; i++) {
            ASSERT_OK(file->write(0, unaligned));
            for (int k = 0; k < 4; k++) kept.push_back(std::make_unique<std::byte[]>(48));
        }
        EXPECT_LT(::mallinfo2().arena - before, 256U << 10) << bytes;
    }
}

TEST_P(PosixFile, AllocateExtendsAndReadsAsZero) {
    write_file(path_, pattern(1000, 2));
    auto file = open();
    const auto zero = file->allocate(1000, (1 << 20) - 1000);
    ASSERT_OK(zero);
    EXPECT_TRUE(*zero);
    EXPECT_EQ(*file->size(), 1u << 20);
    EXPECT_GE(file->occupied_bytes(), 1u << 20);
    auto expected = pattern(1000, 2);
    expected.resize(1 << 20);
    EXPECT_EQ(read_file(path_), expected);
    ASSERT_OK(file->truncate(1001));
    EXPECT_EQ(*file->size(), 1001u);
}

TEST_P(PosixFile, GoBuffered) {
    write_file(path_, pattern(1000, 2));
    auto file = open();
    ASSERT_OK(file->write(3, pattern(5, 1)));
    ASSERT_OK(file->go_buffered());
    EXPECT_EQ(file->direct_alignment(), 0u);
    EXPECT_EQ(::fcntl(file->descriptor(), F_GETFL) & O_DIRECT, 0);
    Bytes seen(5);
    ASSERT_OK(file->read(3, seen));
    EXPECT_EQ(seen, pattern(5, 1));
}

TEST_P(PosixFile, ReadOnlyAndAdopted) {
    write_file(path_, pattern(5000, 3));
    auto file = open(false);
    EXPECT_TRUE(file->read_only());
    EXPECT_FALSE(file->write(0, pattern(3, 1)));
    auto adopted = adopt_file(::dup(file->descriptor()), "other", {false, GetParam().direct});
    ASSERT_OK(adopted);
    EXPECT_EQ((*adopted)->name(), "other");
    Bytes seen(5000);
    ASSERT_OK((*adopted)->read(0, seen));
    EXPECT_EQ(seen, pattern(5000, 3));
    EXPECT_TRUE(fails_with(adopt_file(::dup(file->descriptor()), "x", {true, false}), Code::denied,
                           "not open for reading and writing"));
}

TEST_P(PosixFile, BoundsThatOverflow) {
    write_file(path_, {});
    auto file = open();
    EXPECT_FALSE(file->write(UINT64_MAX - 3, pattern(8, 1)));
    Bytes seen(8);
    EXPECT_FALSE(file->read(UINT64_MAX - 3, seen));
    EXPECT_FALSE(file->allocate(UINT64_MAX - 3, 8));
    EXPECT_FALSE(file->truncate(UINT64_MAX));
}

TEST(OpenFile, Refusals) {
    const TempDir directory;
    EXPECT_TRUE(fails_with(open_file(directory / "none", {}), Code::not_found, "/none' for reading"));
    EXPECT_TRUE(fails_with(open_file(directory.path(), {}), Code::invalid, "neither a regular file"));
    ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
    EXPECT_TRUE(fails_with(open_file(directory / "fifo", {}), Code::invalid, "neither a regular file"));
    EXPECT_TRUE(fails_with(open_file("/dev/null", {}), Code::invalid, "neither a regular file"));
}

TEST(OpenFile, FullFileSystemChangesNothing) {
    // A file size limit stands for a full disk where none can be mounted.
    const TempDir directory("/dev/shm");
    write_file(directory / "file", pattern(1000, 1));
    auto file = open_file(directory / "file", {true, true});
    ASSERT_OK(file);
    EXPECT_TRUE(fails_with((*file)->allocate(1000, std::uint64_t{1} << 50), Code::no_space, "reserve space"));
    EXPECT_EQ(*(*file)->size(), 1000u);
}

}  // namespace
}  // namespace dmu
