// SPDX-License-Identifier: GPL-2.0-or-later
// What a check repairs, every size of table, and Xen's old header.
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

constexpr std::uint64_t cluster = 4096;

class QcowRepair : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_OK(disks_.create("/m", 1 << 20, cluster));
        auto chain = disks_.chain("qcow:/m", true);
        ASSERT_OK(chain);
        StandIn target(**chain);
        ASSERT_OK(target.write({0}, pattern(8 * cluster, 1)));
        ASSERT_OK((*chain)->top().close());
        store_ = disks_.stores["/m"];
        table_ = load_be<std::uint64_t>(store_->bytes, 48);
        good_ = store_->bytes.size();
    }
    std::uint64_t entry(std::size_t index) { return load_be<std::uint64_t>(store_->bytes, table_ + index * 8); }
    void set_entry(std::size_t index, std::uint64_t value) {
        store_be<std::uint64_t>(store_->bytes, table_ + index * 8, value);
    }
    CheckReport check(Repair repair = Repair::none) {
        MemoryFile file(store_, "/m", repair != Repair::none);
        auto report = find_format("qcow")->check(file, {repair, nullptr});
        EXPECT_OK(report);
        return report ? *report : CheckReport{};
    }
    Bytes content() {
        auto chain = disks_.chain("qcow:/m", false);
        EXPECT_OK(chain);
        Bytes bytes(1 << 20);
        EXPECT_OK((*chain)->read({0}, bytes));
        return bytes;
    }
    MemoryDisks disks_;
    std::shared_ptr<MemoryStore> store_;
    std::uint64_t table_ = 0;
    std::size_t good_ = 0;
};

TEST_F(QcowRepair, LeakedTailIsCut) {
    const auto before = content();
    store_->bytes.resize(good_ + 5 * cluster);
    EXPECT_EQ(check().leaks, 5u);
    const auto repaired = check(Repair::leaks);
    EXPECT_EQ(repaired.leaks, 0u);
    EXPECT_EQ(repaired.leaks_fixed, 5u);
    EXPECT_EQ(store_->bytes.size(), good_);
    EXPECT_EQ(content(), before);
}

TEST_F(QcowRepair, NothingIsCutWhileSomethingIsCorrupt) {
    store_->bytes.resize(good_ + 5 * cluster);
    set_entry(1, entry(0));
    const auto report = check(Repair::leaks);
    EXPECT_EQ(report.corruptions, 1u);
    EXPECT_EQ(report.leaks_fixed, 0u);
    EXPECT_EQ(store_->bytes.size(), good_ + 5 * cluster);
}

TEST_F(QcowRepair, SharedClustersAreCopied) {
    auto expected = content();
    set_entry(1, entry(0));
    std::copy_n(expected.begin(), cluster, expected.begin() + cluster);
    EXPECT_EQ(check().corruptions, 1u);
    const auto report = check(Repair::all);
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_EQ(report.corruptions_fixed, 1u);
    EXPECT_NE(entry(1), entry(0));
    EXPECT_EQ(content(), expected);
    EXPECT_EQ(check().corruptions, 0u);
}

TEST_F(QcowRepair, EntriesOfNothingAreCleared) {
    auto expected = content();
    set_entry(2, 1 << 30);
    set_entry(300, entry(7) + cluster * 10);  // past the end of the disk
    std::fill_n(expected.begin() + 2 * cluster, cluster, std::byte{0});
    EXPECT_EQ(check().corruptions, 2u);
    const auto report = check(Repair::all);
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_EQ(report.corruptions_fixed, 2u);
    EXPECT_EQ(content(), expected);
}

TEST_F(QcowRepair, OtherFaultsStayAndAreSaid) {
    set_entry(2, entry(2) + 512);
    const auto report = check(Repair::all);
    EXPECT_EQ(report.corruptions, 1u);
    EXPECT_EQ(report.corruptions_fixed, 0u);
    EXPECT_NE(report.messages.front().find("not aligned"), std::string::npos);
}

TEST(QcowSizes, EveryClusterAndTableSize) {
    for (unsigned cluster_bits = 9; cluster_bits <= 16; cluster_bits++) {
        for (unsigned l2_bits = 6; l2_bits <= 13; l2_bits++) {
            MemoryDisks disks;
            MemoryFile file(disks.add("/m"), "/m");
            CreateOptions options{8 << 20, 1u << cluster_bits, {}};
            options.options = {{"l2-bits", std::to_string(l2_bits)}};
            ASSERT_OK(find_format("qcow")->create(file, options));
            Bytes model(8 << 20);
            std::mt19937_64 random(cluster_bits * 100 + l2_bits);
            {
                auto chain = disks.chain("qcow:/m", true);
                ASSERT_OK(chain);
                StandIn target(**chain);
                for (int i = 0; i < 12; i++) {
                    const auto at = random() % (model.size() - 9000);
                    const auto bytes = pattern(1 + random() % 9000, random());
                    ASSERT_OK(target.write({at}, bytes));
                    std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
                }
                ASSERT_OK((*chain)->top().close());
            }
            Bytes seen(model.size());
            ASSERT_OK((*disks.chain("qcow:/m", false))->read({0}, seen));
            EXPECT_TRUE(seen == model) << cluster_bits << " " << l2_bits;
            EXPECT_TRUE(is_sound(disks.check("/m")));
        }
    }
}

TEST(QcowSizes, BadOptions) {
    const auto create = [](const char* key, const char* value) {
        MemoryFile file(std::make_shared<MemoryStore>(), "/m");
        CreateOptions options{1 << 20, 0, {}};
        options.options = {{key, value}};
        return find_format("qcow")->create(file, options);
    };
    EXPECT_TRUE(fails_with(create("l2-bits", "5"), Code::invalid, "6 to 13"));
    EXPECT_TRUE(fails_with(create("l2-bits", "9x"), Code::invalid, "6 to 13"));
    EXPECT_TRUE(fails_with(create("subformat", "x"), Code::invalid, "no option 'subformat'"));
    EXPECT_TRUE(fails_with(create("key-file", "/nonexistent/key"), Code::not_found, "key file"));
}

// Written from what blktap's driver lays down: the extension at 48, L1 at 4096.
class XenQcow : public ::testing::TestWithParam<bool> {};

TEST_P(XenQcow, IsReadNotWritten) {
    const bool big_endian = GetParam();
    MemoryDisks disks;
    auto& raw = disks.add("/m")->bytes;
    raw.resize(6 * 4096);
    store_be<std::uint32_t>(raw, 0, 0x514649fb);
    store_be<std::uint32_t>(raw, 4, 1);
    store_be<std::uint64_t>(raw, 24, 4 << 20);
    store_be<std::uint8_t>(raw, 32, 12);
    store_be<std::uint8_t>(raw, 33, 9);
    store_be<std::uint64_t>(raw, 40, 4096);
    store_be<std::uint32_t>(raw, 48, 0x58454efb);
    store_be<std::uint32_t>(raw, 52, 0x12345678);
    store_be<std::uint32_t>(raw, 60, big_endian ? 3 : 1);
    if (big_endian)
        store_be<std::uint64_t>(raw, 4096 + 8, 8192);
    else
        raw[4096 + 8 + 1] = std::byte{8192 >> 8};
    store_be<std::uint64_t>(raw, 8192 + 3 * 8, 12288);
    const auto data = pattern(4096, 5);
    std::copy(data.begin(), data.end(), raw.begin() + 12288);

    auto chain = disks.chain("qcow:/m", false);
    ASSERT_OK(chain);
    Bytes seen(4096);
    ASSERT_OK((*chain)->read({(2 << 20) + 3 * 4096}, seen));
    EXPECT_EQ(seen, data);
    EXPECT_TRUE(is_sound(disks.check("/m")));
    EXPECT_TRUE(fails_with(disks.chain("qcow:/m", true), Code::unsupported, "only read"));
}

INSTANTIATE_TEST_SUITE_P(Xen, XenQcow, ::testing::Bool());

}  // namespace
}  // namespace dmu
