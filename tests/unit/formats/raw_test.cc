// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

Result<std::unique_ptr<Image>> open_raw(std::size_t bytes, OpenOptions options, bool writable_file = true) {
    auto store = std::make_shared<MemoryStore>();
    store->bytes = pattern(bytes, 1);
    return find_format("raw")->open(std::make_unique<MemoryFile>(store, "m", writable_file), options);
}

TEST(Raw, IsLinear) {
    auto image = open_raw(5000, {true, {}});
    ASSERT_OK(image);
    EXPECT_EQ((*image)->info().virtual_size, 4608u);
    EXPECT_FALSE((*image)->info().can_allocate);
    const auto extents = (*image)->look_up({{512}, 512});
    ASSERT_OK(extents);
    ASSERT_EQ(extents->size(), 1u);
    EXPECT_EQ(extents->front().host.bytes, 512u);
    EXPECT_EQ(extents->front().length, 4096u);
    EXPECT_EQ(extents->front().kind, ExtentKind::data);
    EXPECT_TRUE(extents->front().writable);
    EXPECT_FALSE((*image)->look_up({{4608}, 512}));
    EXPECT_FALSE((*image)->look_up({{512}, UINT64_MAX}));
    EXPECT_FALSE((*image)->reserve({{0}, 512}));
    EXPECT_OK((*image)->close());
}

TEST(Raw, Refusals) {
    EXPECT_TRUE(fails_with(open_raw(511, {}), Code::invalid, "not even one sector"));
    EXPECT_TRUE(fails_with(open_raw(512, {true, {}}, false), Code::denied, "reading only"));
    EXPECT_TRUE(fails_with(open_raw(512, {false, {{"x", "y"}}}), Code::invalid, "no option 'x'"));
}

TEST(Raw, CreateAndCheck) {
    auto store = std::make_shared<MemoryStore>();
    MemoryFile file(store, "m");
    ASSERT_OK(find_format("raw")->create(file, {1000, 0, {}}));
    EXPECT_EQ(store->bytes.size(), 1024u);
    const auto report = find_format("raw")->check(file, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->corruptions, 0u);
    EXPECT_FALSE(find_format("raw")->create(file, {0, 0, {}}));
    EXPECT_FALSE(find_format("raw")->create(file, {512, 4096, {}}));
    EXPECT_FALSE(find_format("raw")->create(file, {512, 0, BackingReference{"x", ""}}));
    store->fixed_size = true;
    ASSERT_OK(find_format("raw")->create(file, {512, 0, {}}));
    EXPECT_TRUE(fails_with(find_format("raw")->create(file, {2048, 0, {}}), Code::no_space, "smaller"));
}

TEST(Raw, ThroughTheStandIn) {
    MemoryDisks disks;
    disks.add("/m/d.raw")->bytes.resize(10240);
    auto chain = disks.chain("raw:/m/d.raw", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    ASSERT_OK(target.write({100}, pattern(3000, 5)));
    ASSERT_OK(target.flush());
    Bytes seen(3000);
    ASSERT_OK(target.read({100}, seen));
    EXPECT_EQ(seen, pattern(3000, 5));
    EXPECT_EQ(disks.stores["/m/d.raw"]->bytes[100], pattern(3000, 5)[0]);

    auto read_only = disks.chain("raw:/m/d.raw", false);
    ASSERT_OK(read_only);
    StandIn reader(**read_only);
    EXPECT_TRUE(fails_with(reader.write({0}, pattern(512, 1)), Code::denied, "reading only"));
}

}  // namespace
}  // namespace dmu
