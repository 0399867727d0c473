// SPDX-License-Identifier: GPL-2.0-or-later
// Every rule of the extents' headers, directories and tables, each with its own refusal.
#include "formats/vmdk/sparse_header.h"

#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

struct Rule {
    const char* name;
    std::function<void(Bytes&)> break_it;
    Code code;
    const char* message;
};

template <typename T>
std::function<void(Bytes&)> put(std::size_t at, T value) {
    return [=](Bytes& raw) { put_le<T>(raw, at, value); };
}

std::function<void(Bytes&)> both(std::function<void(Bytes&)> one, std::function<void(Bytes&)> other) {
    return [=](Bytes& raw) { one(raw), other(raw); };
}

ExtentContent small_content(std::uint64_t capacity, std::uint64_t grain) {
    ExtentContent content{capacity, grain, {}, {}};
    content.grains[0] = pattern(grain * 512, 1);
    content.grains[1] = pattern(grain * 512, 2);
    return content;
}

// Sectors of the good image: 0 header, 1 descriptor, 21 redundant directory, 22 its two
// tables, 30 directory, 31 its tables, 48 grains.
constexpr std::size_t rgd = 21, rgt = 22, gd = 30, gt = 31, grains = 48;
Bytes good_hosted() {
    return encode_hosted_extent(small_content(10000, 16), {1, 3, descriptor_text("")});
}

const Rule hosted_rules[] = {
    {"Empty", [](Bytes& raw) { raw.clear(); }, Code::invalid, "neither a descriptor nor a sparse extent"},
    {"TooShort", [](Bytes& raw) { raw.resize(511); }, Code::invalid, "too few for a header"},
    {"Magic", put<std::uint8_t>(0, 0), Code::invalid, "neither a descriptor nor a sparse extent"},
    {"Version0", put<std::uint32_t>(4, 0), Code::unsupported, "version 0 is unknown"},
    {"Version4", put<std::uint32_t>(4, 4), Code::unsupported, "version 4 is unknown"},
    {"UnknownFlag", put<std::uint32_t>(8, 3 | 1 << 5), Code::unsupported, "flags that are unknown: 32"},
    {"Newlines", put<std::uint8_t>(75, '\n'), Code::corrupt, "newlines were converted"},
    {"CompressionUnknown", put<std::uint16_t>(77, 2), Code::unsupported, "compression 2 is unknown"},
    {"CompressionWithoutFlag", put<std::uint16_t>(77, 1), Code::corrupt, "contradict each other"},
    {"FlagWithoutCompression", put<std::uint32_t>(8, 3 | 1 << 16), Code::corrupt, "contradict each other"},
    {"MarkersWithoutCompression", put<std::uint32_t>(8, 3 | 1 << 17), Code::unsupported, "has markers"},
    {"GrainOdd", put<std::uint64_t>(20, 24), Code::corrupt, "grain is 24 sectors"},
    {"GrainZero", put<std::uint64_t>(20, 0), Code::corrupt, "grain is 0 sectors"},
    {"GrainSmall", put<std::uint64_t>(20, 8), Code::corrupt, "grain is 8 sectors"},
    {"GrainLarge", put<std::uint64_t>(20, 1 << 18), Code::unsupported, "larger than 64 MiB"},
    {"GrainHuge", put<std::uint64_t>(20, 1ull << 63), Code::unsupported, "larger than 64 MiB"},
    {"EntriesZero", put<std::uint32_t>(44, 0), Code::corrupt, "tables have 0 entries"},
    {"EntriesMany", put<std::uint32_t>(44, 513), Code::corrupt, "tables have 513 entries"},
    {"CapacityOverPointers", put<std::uint64_t>(12, (1ull << 32) + 1), Code::corrupt, "more than the 2 TiB"},
    {"CapacityHuge", put<std::uint64_t>(12, UINT64_MAX), Code::corrupt, "more than the 2 TiB"},
    {"DirectoryTooLarge", both(put<std::uint64_t>(12, 1ull << 32), put<std::uint32_t>(44, 1)), Code::unsupported,
     "entries is too large"},
    {"CapacityOverDirectory", put<std::uint64_t>(12, 1ull << 31), Code::corrupt, "ends past the end of the file"},
    {"NothingAtAll", both(put<std::uint64_t>(12, 0), put<std::uint64_t>(28, 0)), Code::corrupt, "capacity is 0"},
    {"NoDescriptor", put<std::uint64_t>(28, 0), Code::invalid, "one extent of a disk"},
    {"DescriptorEmpty", put<std::uint64_t>(36, 0), Code::corrupt, "descriptor has 0 sectors"},
    {"DescriptorLarge", put<std::uint64_t>(36, 4097), Code::corrupt, "descriptor has 4097 sectors"},
    {"DescriptorPastEnd", put<std::uint64_t>(28, 1 << 20), Code::corrupt, "descriptor at sector 1048576"},
    {"DescriptorOffsetHuge", put<std::uint64_t>(28, UINT64_MAX), Code::corrupt, "ends past the end of the file"},
    {"DirectoryOverHeader", put<std::uint64_t>(56, 0), Code::corrupt, "directory at sector 0 lies over the header"},
    {"DirectoryOverDescriptor", put<std::uint64_t>(56, 5), Code::corrupt, "lies over the descriptor"},
    {"DirectoryPastEnd", put<std::uint64_t>(56, 1 << 20), Code::corrupt, "grain directory at sector 1048576"},
    {"DirectoriesOverlap", put<std::uint64_t>(48, gd), Code::corrupt, "lies over the grain directory"},
    {"RedundantPastEnd", put<std::uint64_t>(48, 1 << 20), Code::corrupt, "redundant grain directory at"},
    {"TablePastEnd", put<std::uint32_t>(gd * 512, 1 << 20), Code::corrupt, "grain table 0 at sector 1048576 ends past"},
    {"TableOverHeader", put<std::uint32_t>(gd * 512, 1), Code::corrupt, "grain table 0 at sector 1 lies over"},
    {"TableOverDirectory", put<std::uint32_t>(gd * 512, gd - 2), Code::corrupt, "lies over the header"},
    {"TablesOverlap", put<std::uint32_t>(gd * 512 + 4, gt + 1), Code::corrupt, "two grain tables overlap"},
    {"FooterMissing", both(put<std::uint64_t>(56, UINT64_MAX), [](Bytes& raw) { raw.resize(48 * 512); }), Code::corrupt,
     "footer"},
};

const Rule entry_rules[] = {
    {"OverHeader", put<std::uint32_t>(gt * 512, 1), Code::corrupt, "no entry of a grain table"},
    {"OverDescriptor", put<std::uint32_t>(gt * 512, 15), Code::corrupt, "lies over the header"},
    {"OverDirectory", put<std::uint32_t>(gt * 512, rgd), Code::corrupt, "lies over the header"},
    {"OverTable", put<std::uint32_t>(gt * 512, gt + 1), Code::corrupt, "lies over a grain table"},
    {"PastEnd", put<std::uint32_t>(gt * 512, 1 << 20), Code::corrupt, "ends past the end of the file"},
    {"CutByTheEnd", put<std::uint32_t>(gt * 512, grains + 17), Code::corrupt, "ends past the end of the file"},
};

TEST(VmdkHeader, EveryHostedRule) {
    VmdkDisks disks;
    disks.put("/m/d.vmdk", good_hosted());
    ASSERT_OK(disks.content("vmdk:/m/d.vmdk"));
    for (const auto& rule : hosted_rules) {
        SCOPED_TRACE(rule.name);
        auto raw = good_hosted();
        rule.break_it(raw);
        disks.put("/m/d.vmdk", raw);
        EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/d.vmdk", false), rule.code, rule.message));
        const auto report = disks.check_vmdk("/m/d.vmdk");
        if (report) {
            EXPECT_GT(report->corruptions, 0u);
        }
    }
}

TEST(VmdkHeader, EveryRuleOfAnEntry) {
    VmdkDisks disks;
    for (const auto& rule : entry_rules) {
        SCOPED_TRACE(rule.name);
        auto raw = good_hosted();
        rule.break_it(raw);
        disks.put("/m/d.vmdk", raw);
        auto chain = disks.chain("vmdk:/m/d.vmdk", true);
        ASSERT_OK(chain);
        EXPECT_TRUE(fails_with((*chain)->top().look_up({{0}, 512}), rule.code, rule.message));
        // What lies before the damage is answered, and nothing is allocated any more.
        ASSERT_OK((*chain)->top().look_up({{8192}, 512}));
        ASSERT_OK((*chain)->top().begin_writing());
        EXPECT_TRUE(fails_with((*chain)->top().reserve({{100 * 8192}, 512}), Code::corrupt, "found corrupt"));
        EXPECT_EQ(disks.check_vmdk("/m/d.vmdk")->corruptions, 1u);
    }
}

TEST(VmdkHeader, ChangedBlockTrackingIsForReadingOnly) {
    VmdkDisks disks;
    disks.put("/m/d.vmdk", encode_hosted_extent(small_content(100, 16), {3, 3, descriptor_text("")}));
    ASSERT_OK(disks.chain("vmdk:/m/d.vmdk", false));
    EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/d.vmdk", true), Code::unsupported, "changed-block tracking"));
    disks.put("/m/d.vmdk", encode_hosted_extent(small_content(100, 16),
                                                {1, 3, descriptor_text("", "changeTrackPath=\"d-ctk.vmdk\"\n")}));
    EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/d.vmdk", true), Code::unsupported, "changes are tracked"));
}

const Rule cowd_rules[] = {
    {"TooShort", [](Bytes& raw) { raw.resize(2047); }, Code::invalid, "too few for a header of 2048"},
    {"Magic", put<std::uint8_t>(0, 0), Code::invalid, "does not start with \"COWD\""},
    {"Version", put<std::uint32_t>(4, 2), Code::unsupported, "version 2 is unknown"},
    {"Capacity", put<std::uint32_t>(12, 0), Code::corrupt, "capacity is 0"},
    {"CapacityBelowDescriptor", put<std::uint32_t>(12, 99), Code::corrupt, "has 99 sectors; the descriptor says 5000"},
    {"GrainZero", put<std::uint32_t>(16, 0), Code::corrupt, "grain is 0 sectors"},
    {"GrainOdd", put<std::uint32_t>(16, 3), Code::corrupt, "grain is 3 sectors"},
    {"GrainLarge", put<std::uint32_t>(16, 1 << 18), Code::unsupported, "larger than 64 MiB"},
    {"EntriesFew", put<std::uint32_t>(24, 1), Code::corrupt, "directory has 1 entries"},
    {"DirectoryOverHeader", put<std::uint32_t>(20, 3), Code::corrupt, "lies over the header"},
    {"DirectoryPastEnd", put<std::uint32_t>(20, 1 << 20), Code::corrupt, "ends past the end of the file"},
    {"TablePastEnd", put<std::uint32_t>(2048, 1 << 20), Code::corrupt, "grain table 0 at sector 1048576"},
    {"TableOverHeader", put<std::uint32_t>(2048, 2), Code::corrupt, "lies over the header"},
};

TEST(VmdkHeader, EveryCowdRule) {
    VmdkDisks disks;
    disks.put("/m/d.vmdk", descriptor_text("RW 5000 VMFSSPARSE \"x\"\n"));
    for (const auto& rule : cowd_rules) {
        SCOPED_TRACE(rule.name);
        auto raw = encode_cowd_extent(small_content(5000, 1));
        disks.put("/m/x", raw);
        ASSERT_OK(disks.chain("vmdk:/m/d.vmdk", true));
        rule.break_it(raw);
        disks.put("/m/x", raw);
        EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/d.vmdk", false), rule.code, rule.message));
    }
    disks.put("/m/x", encode_cowd_extent(small_content(5000, 1)));
    EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/x", false), Code::invalid, "one extent of a disk"));
}

const Rule se_rules[] = {
    {"TooShort", [](Bytes& raw) { raw.resize(511); }, Code::invalid, "too few for a header of 512"},
    {"Magic", put<std::uint8_t>(0, 0), Code::invalid, "magic is not 0xcafebabe"},
    {"Version", put<std::uint8_t>(8, 2), Code::unsupported, "version is not 2.1"},
    {"Capacity0", put<std::uint64_t>(16, 0), Code::corrupt, "capacity is 0"},
    {"CapacityHuge", put<std::uint64_t>(16, 1ull << 60), Code::corrupt, "capacity is"},
    {"Grain", put<std::uint64_t>(24, 16), Code::unsupported, "grain is 16 sectors"},
    {"Table", put<std::uint64_t>(32, 32), Code::unsupported, "tables have 32 sectors"},
    {"Flags", put<std::uint64_t>(40, 1), Code::unsupported, "flags that are unknown"},
    {"DirectorySmall", put<std::uint64_t>(136, 0), Code::corrupt, "too small for its capacity"},
    {"DirectoryPastEnd", put<std::uint64_t>(128, 1 << 30), Code::corrupt, "grain directory ends past"},
    {"VolatilePastEnd", put<std::uint64_t>(80, 1 << 30), Code::corrupt, "volatile header ends past"},
    {"VolatileMagic", put<std::uint8_t>(512, 0), Code::corrupt, "volatile header is not 0xcafecafe"},
    {"Journal", put<std::uint64_t>(512 + 24, 1), Code::unsupported, "journal must be replayed"},
    {"TablesPastEnd", put<std::uint64_t>(152, 1 << 30), Code::corrupt, "grain tables ends past"},
    {"GrainsNowhere", put<std::uint64_t>(192, 0), Code::corrupt, "lies over the header"},
    {"GrainsHuge", put<std::uint64_t>(200, UINT64_MAX), Code::corrupt, "grains ends past"},
    {"DirectoryEntry", put<std::uint64_t>(8 * 512, 5), Code::corrupt, "no entry of a grain directory"},
    {"DirectoryEntryIndex", put<std::uint64_t>(8 * 512, 0x1000000000000009), Code::corrupt, "no entry of a grain"},
};

TEST(VmdkHeader, EverySeSparseRule) {
    VmdkDisks disks;
    disks.put("/m/d.vmdk", descriptor_text("RW 5000 SESPARSE \"x\"\n"));
    for (const auto& rule : se_rules) {
        SCOPED_TRACE(rule.name);
        auto raw = encode_se_extent(small_content(5000, 8));
        disks.put("/m/x", raw);
        ASSERT_OK(disks.chain("vmdk:/m/d.vmdk", false));
        rule.break_it(raw);
        disks.put("/m/x", raw);
        EXPECT_TRUE(fails_with(disks.chain("vmdk:/m/d.vmdk", false), rule.code, rule.message));
    }
    // An entry of a table: reserved bits, a kind of grain that is unknown, one past the end.
    for (const std::uint64_t entry : {5ull, 9ull << 60, 3ull << 60 | 0xfffull << 48}) {
        auto raw = encode_se_extent(small_content(5000, 8));
        put_le<std::uint64_t>(raw, 9 * 512, entry);
        disks.put("/m/x", raw);
        EXPECT_TRUE(fails_with(disks.content("vmdk:/m/d.vmdk"), Code::corrupt, "run a check"));
    }
}

}  // namespace
}  // namespace dmu
