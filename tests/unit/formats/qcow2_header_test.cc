// SPDX-License-Identifier: GPL-2.0-or-later
// Every rule of a qcow2 header and of the tables read at opening, each with its own refusal.
#include "formats/qcow2/header.h"

#include "tests/unit/formats/qcow2_support.h"

namespace dmu {
namespace {

// 1 MiB, clusters of 4 KiB: header, refcount table at 4096, its block at 8192, L1 at 12288.
Bytes good_image() {
    MemoryDisks disks;
    EXPECT_OK(create_qcow2(disks, "/m/i", 1 << 20, {"", 4096}));
    auto bytes = disks.stores["/m/i"]->bytes;
    bytes.resize(64 * 1024);
    return bytes;
}

Result<std::unique_ptr<Image>> open_image(const Bytes& bytes, bool writable = false) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes = bytes;
    OpenOptions options;
    options.writable = writable;
    return find_format("qcow2")->open(std::make_unique<MemoryFile>(store, "m"), options);
}

struct Rule {
    const char* name;
    std::function<void(Bytes&)> break_it;
    Code code;
    const char* message;
};

template <typename T>
std::function<void(Bytes&)> put(std::size_t at, T value) {
    return [=](Bytes& raw) { store_be<T>(raw, at, value); };
}

std::function<void(Bytes&)> both(const std::function<void(Bytes&)>& a, const std::function<void(Bytes&)>& b) {
    return [=](Bytes& raw) {
        a(raw);
        b(raw);
    };
}

const Rule rules[] = {
    {"TooShort", [](Bytes& raw) { raw.resize(71); }, Code::invalid, "too few for a qcow2 header"},
    {"Magic", put<std::uint32_t>(0, 0x51464900), Code::invalid, "not a qcow2 image"},
    {"Qcow1", put<std::uint32_t>(4, 1), Code::invalid, "name the format qcow"},
    {"Version4", put<std::uint32_t>(4, 4), Code::unsupported, "version 4 is unknown"},
    {"ClusterBits8", put<std::uint32_t>(20, 8), Code::corrupt, "cluster_bits is 8"},
    {"ClusterBits22", put<std::uint32_t>(20, 22), Code::corrupt, "cluster_bits is 22"},
    {"HeaderShort", put<std::uint32_t>(100, 96), Code::corrupt, "104 to a cluster"},
    {"HeaderLong", put<std::uint32_t>(100, 4104), Code::corrupt, "104 to a cluster"},
    {"HeaderOdd", put<std::uint32_t>(100, 108), Code::corrupt, "no multiple of 8"},
    {"RefcountOrder7", put<std::uint32_t>(96, 7), Code::corrupt, "refcount_order is 7"},
    {"UnknownFeature", put<std::uint64_t>(72, 1 << 9), Code::unsupported, "needs feature 9"},
    {"ExtendedL2Small", put<std::uint64_t>(72, 16), Code::corrupt, "less than 16 KiB"},
    {"CompressionUnflagged", put<std::uint8_t>(104, 1), Code::corrupt, "contradict"},
    {"CompressionUnknown", both(put<std::uint64_t>(72, 8), put<std::uint8_t>(104, 2)), Code::unsupported,
     "compression type 2"},
    {"EncryptionUnknown", put<std::uint32_t>(32, 3), Code::corrupt, "encryption method 3"},
    {"Aes", put<std::uint32_t>(32, 1), Code::denied, "encrypted (AES)"},
    {"Luks", put<std::uint32_t>(32, 2), Code::corrupt, "no header extension says where its key is"},
    {"L1TooLarge", put<std::uint32_t>(36, (4 << 20) + 1), Code::corrupt, "4194304 are allowed"},
    {"L1TooSmall", put<std::uint64_t>(24, 1 << 30), Code::corrupt, "too few for"},
    {"SizeOverflows", put<std::uint64_t>(24, UINT64_MAX), Code::corrupt, "overflows"},
    {"L1Unaligned", put<std::uint64_t>(40, 12288 + 512), Code::corrupt, "L1 table at byte 12800 is not aligned"},
    {"L1OverHeader", put<std::uint64_t>(40, 0), Code::corrupt, "over the header"},
    {"L1PastEnd", put<std::uint64_t>(40, 1 << 20), Code::corrupt, "ends past the end"},
    {"L1Huge", put<std::uint64_t>(40, std::uint64_t{1} << 60), Code::corrupt, "ends past the end"},
    {"RefcountTableEmpty", put<std::uint32_t>(56, 0), Code::corrupt, "0 clusters"},
    {"RefcountTableLarge", put<std::uint32_t>(56, 2049), Code::corrupt, "8 MiB are allowed"},
    {"RefcountTableUnaligned", put<std::uint64_t>(48, 4097), Code::corrupt, "refcount table at byte 4097"},
    {"RefcountTablePastEnd", put<std::uint64_t>(48, 65536), Code::corrupt, "ends past the end"},
    {"RefcountTableOverL1", put<std::uint64_t>(48, 12288), Code::corrupt, "over the L1 table"},
    {"SnapshotsTooMany", put<std::uint32_t>(60, 65537), Code::corrupt, "65536 are allowed"},
    {"SnapshotsUnaligned", both(put<std::uint32_t>(60, 1), put<std::uint64_t>(64, 20481)), Code::corrupt,
     "snapshot table at byte 20481"},
    {"SnapshotExtraLarge",
     both(both(put<std::uint32_t>(60, 1), put<std::uint64_t>(64, 20480)), put<std::uint32_t>(20480 + 36, 1025)),
     Code::corrupt, "1024 are allowed"},
    {"SnapshotL1Large",
     both(both(put<std::uint32_t>(60, 1), put<std::uint64_t>(64, 20480)), put<std::uint32_t>(20480 + 8, UINT32_MAX)),
     Code::corrupt, "larger than 32 MiB"},
    {"NameTooLong", both(put<std::uint64_t>(8, 512), put<std::uint32_t>(16, 1024)), Code::corrupt, "1023 are allowed"},
    {"NameOutside", both(put<std::uint64_t>(8, 4090), put<std::uint32_t>(16, 10)), Code::corrupt, "first cluster"},
    {"NameOverHeader", both(put<std::uint64_t>(8, 40), put<std::uint32_t>(16, 10)), Code::corrupt, "over the header"},
    {"NameEmpty", put<std::uint64_t>(8, 512), Code::corrupt, "is empty"},
    {"NameNul", both(put<std::uint64_t>(8, 512), put<std::uint32_t>(16, 4)), Code::corrupt, "NUL"},
    {"ExtensionPastEnd", both(put<std::uint32_t>(112, 77), put<std::uint32_t>(116, UINT32_MAX)), Code::corrupt,
     "ends past its place"},
    {"L2Unaligned", put<std::uint64_t>(12288, 16384 + 512), Code::corrupt, "L2 table 0 at byte 16896"},
    {"L2PastEnd", put<std::uint64_t>(12288, 65536), Code::corrupt, "past the end of the file"},
    {"L2OverRefcounts", put<std::uint64_t>(12288, 8192), Code::corrupt, "lie over each other at byte 8192"},
    {"L2OverL1", put<std::uint64_t>(12288, 12288), Code::corrupt, "lie over each other at byte 12288"},
    {"BlockUnaligned", put<std::uint64_t>(4096, 8200), Code::corrupt, "refcount block 0 at byte 8200"},
    {"BlockPastEnd", put<std::uint64_t>(4096, 65536), Code::corrupt, "past the end of the file"},
    {"DataFileUnnamed", put<std::uint64_t>(72, 4), Code::corrupt, "does not name it"},
};

class Qcow2Header : public ::testing::TestWithParam<Rule> {};
INSTANTIATE_TEST_SUITE_P(Rule, Qcow2Header, ::testing::ValuesIn(rules),
                         [](const auto& info) { return info.param.name; });

TEST_P(Qcow2Header, IsRefused) {
    auto raw = good_image();
    ASSERT_OK(open_image(raw));
    GetParam().break_it(raw);
    EXPECT_TRUE(fails_with(open_image(raw), GetParam().code, GetParam().message));
    EXPECT_TRUE(fails_with(open_image(raw, true), GetParam().code, GetParam().message));
}

TEST(Qcow2Open, CorruptMarkIsReadOnly) {
    auto raw = good_image();
    store_be<std::uint64_t>(raw, 72, 2);
    EXPECT_OK(open_image(raw));
    EXPECT_TRUE(fails_with(open_image(raw, true), Code::corrupt, "marked corrupt"));
}

TEST(Qcow2Open, WrongMappingsAreSaidAndMarked) {
    struct Wrong {
        std::uint64_t entry;
        const char* message;
    };
    for (const auto& wrong :
         {Wrong{20480 + 512, "not aligned"}, Wrong{65536, "past the end of the file"}, Wrong{4096, "over metadata"},
          Wrong{16384, "over metadata"}, Wrong{(std::uint64_t{1} << 62) | (1 << 20), "past the end of the file"},
          Wrong{(std::uint64_t{1} << 62) | 12288, "over metadata"}}) {
        auto store = std::make_shared<MemoryStore>();
        store->bytes = good_image();
        store_be<std::uint64_t>(store->bytes, 12288, 16384);
        store_be<std::uint64_t>(store->bytes, 16384, wrong.entry);
        OpenOptions options;
        options.writable = true;
        auto image = find_format("qcow2")->open(std::make_unique<MemoryFile>(store, "m"), options);
        ASSERT_OK(image);
        EXPECT_TRUE(fails_with((*image)->look_up({{0}, 512}), Code::corrupt, wrong.message));
        EXPECT_EQ(load_be<std::uint64_t>(store->bytes, 72) & 2, 2u);
        EXPECT_TRUE(fails_with((*image)->reserve({{8192}, 512}), Code::corrupt, "found corrupt"));
    }
}

TEST(Qcow2Open, KeepsUnknownExtensionsAndClearsUnknownAutoclearBits) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes = good_image();
    store_be<std::uint32_t>(store->bytes, 112, 0x12345678);
    store_be<std::uint32_t>(store->bytes, 116, 3);
    store_be<std::uint32_t>(store->bytes, 120, 0x61626300);
    store_be<std::uint64_t>(store->bytes, 88, 0x100);
    OpenOptions options;
    options.writable = true;
    auto image = find_format("qcow2")->open(std::make_unique<MemoryFile>(store, "m"), options);
    ASSERT_OK(image);
    EXPECT_TRUE((*image)->write_protected());
    EXPECT_TRUE(fails_with((*image)->reserve({{0}, 512}), Code::denied, "write-protected"));
    ASSERT_OK((*image)->begin_writing());
    EXPECT_FALSE((*image)->write_protected());
    EXPECT_OK((*image)->reserve({{0}, 512}));
    EXPECT_EQ(load_be<std::uint64_t>(store->bytes, 88), 0u);
    EXPECT_EQ(load_be<std::uint32_t>(store->bytes, 112), 0x12345678u);
    EXPECT_EQ(load_be<std::uint32_t>(store->bytes, 120), 0x61626300u);
}

}  // namespace
}  // namespace dmu
