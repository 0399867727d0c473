// SPDX-License-Identifier: GPL-2.0-or-later
// Every rule of a qcow header and of its L1 table, each with its own refusal.
#include "formats/qcow/header.h"

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

// 1 MiB, clusters of 4 KiB, L2 tables of 512 entries: one L1 entry.
Bytes good_image(const std::string& backing = "") {
    MemoryDisks disks;
    EXPECT_OK(disks.create("/m", 1 << 20, 4096, backing));
    auto bytes = disks.stores["/m"]->bytes;
    bytes.resize(64 * 1024);
    return bytes;
}

Result<std::unique_ptr<Image>> open_image(const Bytes& bytes, bool writable = false) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes = bytes;
    return find_format("qcow")->open(std::make_unique<MemoryFile>(store, "m"), {writable, {}});
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

const Rule rules[] = {
    {"TooShort", [](Bytes& raw) { raw.resize(47); }, Code::invalid, "too few for a qcow header"},
    {"Empty", [](Bytes& raw) { raw.clear(); }, Code::invalid, "0 bytes, too few"},
    {"Magic", put<std::uint32_t>(0, 0x51464900), Code::invalid, "not a qcow image"},
    {"Qcow2", put<std::uint32_t>(4, 2), Code::invalid, "qcow2 image (version 2)"},
    {"Qcow3", put<std::uint32_t>(4, 3), Code::invalid, "qcow2 image (version 3)"},
    {"Version0", put<std::uint32_t>(4, 0), Code::unsupported, "version 0 is unknown"},
    {"ClusterBits8", put<std::uint8_t>(32, 8), Code::corrupt, "cluster_bits is 8"},
    {"ClusterBits17", put<std::uint8_t>(32, 17), Code::corrupt, "cluster_bits is 17"},
    {"ClusterBits255", put<std::uint8_t>(32, 255), Code::corrupt, "cluster_bits is 255"},
    {"L2Bits5", put<std::uint8_t>(33, 5), Code::corrupt, "l2_bits is 5"},
    {"L2Bits14", put<std::uint8_t>(33, 14), Code::corrupt, "l2_bits is 14"},
    {"Size0", put<std::uint64_t>(24, 0), Code::corrupt, "virtual size is 0"},
    {"Size1", put<std::uint64_t>(24, 1), Code::corrupt, "virtual size is 1"},
    {"SizeBelowSector", put<std::uint64_t>(24, 511), Code::corrupt, "less than a sector"},
    {"SizeOverflows", put<std::uint64_t>(24, UINT64_MAX), Code::corrupt, "overflows"},
    {"SizeOverflowsByTable", put<std::uint64_t>(24, (std::uint64_t{1} << 63) - 4096), Code::corrupt, "overflows"},
    {"L1TooLarge", put<std::uint64_t>(24, std::uint64_t{1} << 62), Code::unsupported, "L1 table of"},
    {"L1PastEnd", put<std::uint64_t>(24, std::uint64_t{1} << 40), Code::corrupt, "ends past the end of the file"},
    {"L1OverHeader", put<std::uint64_t>(40, 40), Code::corrupt, "over the header"},
    {"L1Nowhere", put<std::uint64_t>(40, 0), Code::corrupt, "over the header"},
    {"L1Unaligned", put<std::uint64_t>(40, 52), Code::corrupt, "not 8-aligned"},
    {"L1OffsetHuge", put<std::uint64_t>(40, UINT64_MAX - 7), Code::corrupt, "ends past the end of the file"},
    {"L1AtEnd", put<std::uint64_t>(40, 64 * 1024), Code::corrupt, "ends past the end of the file"},
    {"EncryptionUnknown", put<std::uint32_t>(36, 2), Code::corrupt, "encryption method 2"},
    {"NameEmpty", put<std::uint64_t>(8, 512), Code::corrupt, "backing file is empty"},
    {"NameTooLong",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 512)(raw);
         put<std::uint32_t>(16, 1024)(raw);
     },
     Code::corrupt, "1023 are allowed"},
    {"NameLengthHuge",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 512)(raw);
         put<std::uint32_t>(16, UINT32_MAX)(raw);
     },
     Code::corrupt, "1023 are allowed"},
    {"NameOverHeader",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 40)(raw);
         put<std::uint32_t>(16, 4)(raw);
     },
     Code::corrupt, "over the header"},
    {"NamePastEnd",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 65534)(raw);
         put<std::uint32_t>(16, 4)(raw);
     },
     Code::corrupt, "ends past the end of the file"},
    {"NameOffsetHuge",
     [](Bytes& raw) {
         put<std::uint64_t>(8, UINT64_MAX)(raw);
         put<std::uint32_t>(16, 4)(raw);
     },
     Code::corrupt, "ends past the end of the file"},
    {"NameOverL1",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 50)(raw);
         put<std::uint32_t>(16, 4)(raw);
     },
     Code::corrupt, "over the L1 table"},
    {"NameWithNul",
     [](Bytes& raw) {
         put<std::uint64_t>(8, 512)(raw);
         put<std::uint32_t>(16, 4)(raw);
     },
     Code::corrupt, "NUL"},
    {"L2Unaligned", put<std::uint64_t>(48, 4096 + 512), Code::corrupt, "L2 table 0 at byte 4608 is not aligned"},
    {"L2PastEnd", put<std::uint64_t>(48, 64 * 1024), Code::corrupt, "L2 table 0 at byte 65536 ends past the end"},
    {"L2OffsetHuge", put<std::uint64_t>(48, UINT64_MAX - 4095), Code::corrupt, "ends past the end of the file"},
    {"L2CompressedFlag", put<std::uint64_t>(48, (std::uint64_t{1} << 63) + 4096), Code::corrupt,
     "ends past the end of the file"},
    {"L2OverL1",
     [](Bytes& raw) {
         put<std::uint64_t>(40, 8192)(raw);
         put<std::uint64_t>(8192, 8192)(raw);
     },
     Code::corrupt, "lies over the header"},
    {"L2Shared",
     [](Bytes& raw) {
         put<std::uint64_t>(24, 4 << 20)(raw);
         put<std::uint64_t>(48, 4096)(raw);
         put<std::uint64_t>(56, 4096)(raw);
     },
     Code::corrupt, "two L2 tables overlap at byte 4096"},
    {"L2Overlapping",
     [](Bytes& raw) {
         // Tables of two clusters, one cluster apart.
         put<std::uint8_t>(33, 10)(raw);
         put<std::uint64_t>(24, 8 << 20)(raw);
         put<std::uint64_t>(48, 4096)(raw);
         put<std::uint64_t>(56, 8192)(raw);
     },
     Code::corrupt, "two L2 tables overlap at byte 8192"},
};

class QcowHeader : public ::testing::TestWithParam<Rule> {};
INSTANTIATE_TEST_SUITE_P(Rule, QcowHeader, ::testing::ValuesIn(rules),
                         [](const auto& info) { return info.param.name; });

TEST_P(QcowHeader, IsRefused) {
    auto raw = good_image();
    ASSERT_OK(open_image(raw));
    GetParam().break_it(raw);
    EXPECT_TRUE(fails_with(open_image(raw), GetParam().code, GetParam().message));
    EXPECT_TRUE(fails_with(open_image(raw, true), GetParam().code, GetParam().message));

    // The check finds it too: what is corrupt it reports, what is no qcow image it refuses.
    auto store = std::make_shared<MemoryStore>();
    store->bytes = raw;
    MemoryFile file(store, "m", false);
    const auto report = find_format("qcow")->check(file, {});
    if (GetParam().code == Code::corrupt) {
        ASSERT_OK(report);
        if (std::string(GetParam().name) != "NameWithNul") {
            EXPECT_GT(report->corruptions, 0u);
        }
    } else {
        EXPECT_FALSE(report);
    }
}

TEST(QcowOpen, TakesEveryGeometry) {
    for (unsigned cluster_bits = 9; cluster_bits <= 16; cluster_bits++)
        for (unsigned l2_bits = 6; l2_bits <= 13; l2_bits++) {
            auto raw = good_image();
            store_be<std::uint8_t>(raw, 32, static_cast<std::uint8_t>(cluster_bits));
            store_be<std::uint8_t>(raw, 33, static_cast<std::uint8_t>(l2_bits));
            const auto image = open_image(raw);
            ASSERT_OK(image);
            EXPECT_EQ((*image)->info().grain, 1u << cluster_bits);
            EXPECT_EQ((*image)->info().virtual_size, 1u << 20);
        }
}

TEST(QcowOpen, RoundsTheSizeDownToSectors) {
    auto raw = good_image();
    store_be<std::uint64_t>(raw, 24, 100000);
    EXPECT_EQ((*open_image(raw))->info().virtual_size, 99840u);
}

TEST(QcowOpen, BackingName) {
    const auto image = open_image(good_image("base name,with:all.qcow"));
    ASSERT_OK(image);
    ASSERT_TRUE((*image)->info().backing);
    EXPECT_EQ((*image)->info().backing->path, "base name,with:all.qcow");
    EXPECT_EQ((*image)->info().backing->format, "");
    // Looks like Xen's extension, but is a name.
    EXPECT_OK(open_image(good_image("XEN\xfb.qcow")));
}

TEST(QcowOpen, OptionsAndModes) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes = good_image();
    const auto open_with = [&](bool writable_file, OpenOptions options) {
        return find_format("qcow")->open(std::make_unique<MemoryFile>(store, "m", writable_file), options);
    };
    EXPECT_TRUE(fails_with(open_with(true, {false, {{"key-file", "x"}}}), Code::invalid, "it is not encrypted"));
    EXPECT_TRUE(fails_with(open_with(false, {true, {}}), Code::denied, "reading only"));
    EXPECT_FALSE((*open_with(false, {false, {}}))->info().can_allocate);
    store->fixed_size = true;
    EXPECT_TRUE(fails_with(open_with(true, {true, {}}), Code::unsupported, "block device"));
    EXPECT_OK(open_with(true, {false, {}}));
}

TEST(QcowCreate, Refusals) {
    MemoryDisks disks;
    EXPECT_TRUE(fails_with(disks.create("/m", 0, 0), Code::invalid, "0 bytes"));
    EXPECT_TRUE(fails_with(disks.create("/m", 512, 256), Code::invalid, "power of two"));
    EXPECT_TRUE(fails_with(disks.create("/m", 512, 131072), Code::invalid, "power of two"));
    EXPECT_TRUE(fails_with(disks.create("/m", 512, 3000), Code::invalid, "power of two"));
    EXPECT_TRUE(fails_with(disks.create("/m", UINT64_MAX, 4096), Code::invalid, "too large"));
    EXPECT_TRUE(fails_with(disks.create("/m", std::uint64_t{1} << 50, 512), Code::invalid, "take larger ones"));
    EXPECT_TRUE(fails_with(disks.create("/m", 512, 0, std::string(1024, 'x')), Code::invalid, "1023"));
    EXPECT_OK(disks.create("/m", 512, 0, std::string(1023, 'x')));
    MemoryFile used(disks.stores["/m"], "m");
    EXPECT_TRUE(fails_with(find_format("qcow")->create(used, {512, 0, {}}), Code::invalid, "not empty"));
    auto device = std::make_shared<MemoryStore>();
    device->fixed_size = true;
    MemoryFile file(device, "m");
    EXPECT_TRUE(fails_with(find_format("qcow")->create(file, {512, 0, {}}), Code::unsupported, "use a file"));
}

TEST(QcowCreate, DefaultClusters) {
    MemoryDisks disks;
    ASSERT_OK(disks.create("/m/a", 1 << 20, 0));
    ASSERT_OK(disks.create("/m/b.qcow", 1 << 20, 0, "a.qcow"));
    EXPECT_EQ(load_be<std::uint8_t>(disks.stores["/m/a"]->bytes, 32), 12);
    EXPECT_EQ(load_be<std::uint8_t>(disks.stores["/m/b.qcow"]->bytes, 32), 9);
    EXPECT_TRUE(is_sound(disks.check("/m/a")));
    EXPECT_TRUE(is_sound(disks.check("/m/b.qcow")));
}

}  // namespace
}  // namespace dmu
