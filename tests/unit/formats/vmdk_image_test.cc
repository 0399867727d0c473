// SPDX-License-Identifier: GPL-2.0-or-later
// Creating, the mark of the first write, parents, leases, what is given out again.
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

std::string text_of(const MemoryStore& store) {
    return {reinterpret_cast<const char*>(store.bytes.data()), store.bytes.size()};
}

class VmdkImages : public ::testing::Test {
protected:
    std::unique_ptr<Chain> open(const std::string& path, bool writable = true) {
        auto chain = disks_.chain("vmdk:" + path, writable);
        EXPECT_OK(chain);
        return chain ? std::move(*chain) : nullptr;
    }
    std::string cid(const std::string& path) { return open(path, false)->top().info().identity; }
    VmdkDisks disks_;
};

TEST_F(VmdkImages, CreateRefusesInWords) {
    const struct {
        std::uint64_t size;
        std::uint32_t grain;
        Options options;
        const char* message;
    } rules[] = {
        {0, 0, {}, "0 bytes"},
        {UINT64_MAX, 0, {}, "too large"},
        {3ull << 40, 0, {}, "take twoGbMaxExtentSparse"},
        {1 << 20, 4096, {}, "a power of two from 8192"},
        {1 << 20, 24576, {}, "a power of two from 8192"},
        {1 << 20, 0, {{"subformat", "sparse"}}, "'subformat=sparse' is not valid"},
        {1 << 20, 0, {{"zeroed_grain", "yes"}}, "not valid"},
        {1 << 20, 0, {{"adapter_type", "scsi"}}, "not valid"},
        {1 << 20, 0, {{"hwversion", "x"}}, "not valid"},
        {1 << 20, 0, {{"extent_size", "0"}}, "not valid"},
        {1 << 20, 0, {{"colour", "red"}}, "no option 'colour'"},
        {1 << 20, 0, {{"subformat", "vmfs"}, {"zeroed_grain", "on"}}, "no zeroed grains"},
    };
    for (const auto& rule : rules) {
        EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/x.vmdk", rule.size, rule.options, rule.grain), Code::invalid,
                               rule.message));
        EXPECT_EQ(disks_.stores.size(), 1u);
        EXPECT_TRUE(disks_.stores["/m/x.vmdk"]->bytes.empty());
    }
    EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/x.vmdk", 1 << 20, {{"subformat", "vmfs"}}, 65536), Code::unsupported,
                           "no grains"));
    EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/x.vmdk", 1 << 20, {{"subformat", "vmfs"}}, 0, "b.vmdk"),
                           Code::unsupported, "no backing file"));
    EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/x.vmdk", 1 << 20, {}, 0, "b.vmdk"), Code::not_found, "b.vmdk"));
    // Somebody's file of an extent's name stays what it is.
    disks_.put("/m/y-s002.vmdk", std::string("precious"));
    EXPECT_TRUE(fails_with(disks_.create_vmdk("/m/y.vmdk", 3ull << 30, {{"subformat", "twoGbMaxExtentSparse"}}),
                           Code::busy, "y-s002.vmdk"));
    EXPECT_EQ(text_of(*disks_.stores["/m/y-s002.vmdk"]), "precious");
    EXPECT_TRUE(disks_.stores["/m/y.vmdk"]->bytes.empty());
}

TEST_F(VmdkImages, LargeDisksAreSparse) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 512ull << 30, {}));
    EXPECT_EQ(open("/m/d.vmdk")->top().info().virtual_size, 512ull << 30);
    ASSERT_OK(disks_.create_vmdk("/m/c.vmdk", 64ull << 30, {{"subformat", "vmfsSparse"}}));
    auto chain = open("/m/c.vmdk");
    StandIn target(*chain);
    ASSERT_OK(target.write({63ull << 30}, pattern(5000, 1)));
    ASSERT_OK(chain->top().close());
    EXPECT_LT(disks_.stores["/m/c-delta.vmdk"]->bytes.size(), 1u << 20);
    EXPECT_TRUE(is_sound(disks_.check_vmdk("/m/c.vmdk")));
}

TEST_F(VmdkImages, TheFirstWriteChangesTheCid) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    const auto old = cid("/m/d.vmdk");
    auto chain = open("/m/d.vmdk");
    auto& image = chain->top();
    EXPECT_TRUE(image.write_protected());
    EXPECT_TRUE(fails_with(image.reserve({{0}, 512}), Code::denied, "CID"));
    EXPECT_TRUE(fails_with(image.apply({ChangeKind::zero, {0}, 65536, 0, {}}), Code::denied, "CID"));
    EXPECT_EQ(cid("/m/d.vmdk"), old);
    ASSERT_OK(image.begin_writing());
    EXPECT_FALSE(image.write_protected());
    const auto next = cid("/m/d.vmdk");
    EXPECT_NE(next, old);
    EXPECT_EQ(image.info().identity, next);
    ASSERT_OK(image.begin_writing());
    EXPECT_EQ(cid("/m/d.vmdk"), next);
    ASSERT_OK(image.reserve({{0}, 512}));
    ASSERT_OK(image.close());
    EXPECT_FALSE(open("/m/d.vmdk", false)->top().write_protected());
    // Opened for writing and not written to: as it was.
    ASSERT_OK(open("/m/d.vmdk")->top().close());
    EXPECT_EQ(cid("/m/d.vmdk"), next);
}

TEST_F(VmdkImages, DataIsNotWritableBefore) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {{"subformat", "vmfs"}}));
    auto chain = open("/m/d.vmdk");
    auto extents = chain->top().look_up({{0}, 512});
    ASSERT_OK(extents);
    EXPECT_FALSE(extents->front().writable);
    ASSERT_OK(chain->top().begin_writing());
    extents = chain->top().look_up({{0}, 512});
    ASSERT_OK(extents);
    EXPECT_TRUE(extents->front().writable);
    EXPECT_EQ(extents->front().length, 1u << 20);
    EXPECT_EQ(extents->front().file, 1u);
}

TEST_F(VmdkImages, PoolsWhereOneExtentTakesAll) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    const Options split{{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}};
    ASSERT_OK(disks_.create_vmdk("/m/s.vmdk", 3 << 20, split));
    EXPECT_TRUE(open("/m/d.vmdk")->top().look_up({{0}, 512})->front().leasable);
    auto chain = open("/m/s.vmdk");
    const auto extents = chain->top().look_up({{0}, 3 << 20});
    ASSERT_OK(extents);
    EXPECT_FALSE(extents->front().leasable);
    ASSERT_OK(chain->top().begin_writing());
    // A place never goes over an extent's end.
    const auto place = chain->top().reserve({{(1 << 20) - 65536}, 3 * 65536});
    ASSERT_OK(place);
    EXPECT_EQ(place->length, 65536u);
    EXPECT_EQ(place->file, 1u);
    EXPECT_EQ(chain->top().reserve({{1 << 20}, 65536})->file, 2u);
}

TEST_F(VmdkImages, FreedSpaceComesBackWhenRecycled) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    auto chain = open("/m/d.vmdk");
    auto& image = chain->top();
    ASSERT_OK(image.begin_writing());
    const auto place = image.reserve({{0}, 65536});
    ASSERT_OK(place);
    ASSERT_OK(image.apply({ChangeKind::data, {0}, 65536, 0, place->host}));
    ASSERT_OK(image.commit(DataState::written));
    ASSERT_OK(image.apply({ChangeKind::zero, {0}, 65536, 0, {}}));
    image.recycle();
    EXPECT_NE(image.reserve({{65536}, 512})->host, place->host);
    ASSERT_OK(image.commit(DataState::written));
    EXPECT_NE(image.reserve({{65536}, 512})->host, place->host);
    image.recycle();
    const auto again = image.reserve({{65536}, 512});
    ASSERT_OK(again);
    EXPECT_EQ(again->host, place->host);
    EXPECT_FALSE(again->reads_as_zero);
}

TEST_F(VmdkImages, ZeroedGrainsOverAParent) {
    ASSERT_OK(disks_.create_vmdk("/m/b.vmdk", 1 << 20, {}));
    ASSERT_OK(disks_.create_vmdk("/m/plain.vmdk", 1 << 20, {}, 0, "b.vmdk"));
    ASSERT_OK(disks_.create_vmdk("/m/zeroed.vmdk", 1 << 20, {{"zeroed_grain", "on"}}, 0, "b.vmdk"));
    EXPECT_FALSE(open("/m/plain.vmdk")->top().info().discards_to_zero);
    EXPECT_TRUE(open("/m/zeroed.vmdk")->top().info().discards_to_zero);
    auto chain = open("/m/plain.vmdk");
    ASSERT_OK(chain->top().begin_writing());
    EXPECT_TRUE(fails_with(chain->top().apply({ChangeKind::zero, {0}, 65536, 0, {}}), Code::unsupported, "parent"));
}

TEST_F(VmdkImages, BadChangesAreRefused) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    auto chain = open("/m/d.vmdk");
    auto& image = chain->top();
    ASSERT_OK(image.begin_writing());
    const auto host = image.reserve({{0}, 512})->host;
    const Change bad[] = {{ChangeKind::data, {512}, 65536, 0, host},
                          {ChangeKind::data, {0}, 512, 0, host},
                          {ChangeKind::data, {0}, 0, 0, host},
                          {ChangeKind::data, {1 << 20}, 65536, 0, host},
                          {ChangeKind::data, {0}, 65536, 1, host},
                          {ChangeKind::data, {0}, 65536, 0, {0}},
                          {ChangeKind::data, {0}, 65536, 0, {1ull << 40}},
                          {ChangeKind::data, {0}, 65536, 0, {513}}};
    for (const auto& change : bad) EXPECT_FALSE(image.apply(change));
    EXPECT_FALSE(image.dirty());
    EXPECT_OK(image.apply({ChangeKind::data, {0}, 65536, 0, host}));
}

TEST_F(VmdkImages, ParentsComeAndGo) {
    ASSERT_OK(disks_.create_vmdk("/m/a.vmdk", 1 << 20, {}));
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    {
        auto chain = open("/m/d.vmdk");
        auto& image = chain->top();
        EXPECT_TRUE(fails_with(image.set_backing(BackingReference{"a.vmdk", "vmdk"}), Code::invalid, "CID"));
        EXPECT_TRUE(fails_with(image.set_backing(BackingReference{"a", "raw", "1"}), Code::unsupported, "raw"));
        EXPECT_TRUE(fails_with(image.set_backing(BackingReference{"a\"b", "vmdk", "1"}), Code::invalid, "quotes"));
        ASSERT_OK(image.set_backing(BackingReference{"a.vmdk", "vmdk", cid("/m/a.vmdk")}));
        ASSERT_OK(image.close());
    }
    EXPECT_EQ(open("/m/d.vmdk")->depth(), 2u);
    {
        auto chain = open("/m/d.vmdk");
        ASSERT_OK(chain->top().set_backing(std::nullopt));
    }
    EXPECT_EQ(open("/m/d.vmdk")->depth(), 1u);
}

TEST_F(VmdkImages, UncleanUntilClosed) {
    ASSERT_OK(disks_.create_vmdk("/m/d.vmdk", 1 << 20, {}));
    auto chain = open("/m/d.vmdk");
    StandIn target(*chain);
    ASSERT_OK(target.write({0}, pattern(512, 1)));
    ASSERT_OK(target.flush());
    EXPECT_EQ(disks_.stores["/m/d.vmdk"]->bytes[72], std::byte{1});
    ASSERT_OK(chain->top().close());
    EXPECT_EQ(disks_.stores["/m/d.vmdk"]->bytes[72], std::byte{0});
}

// Another writer of COWD allocates where the header says, whatever the file's size.
TEST_F(VmdkImages, CowdSaysWhatIsFree) {
    ASSERT_OK(disks_.create_vmdk("/m/c.vmdk", 8 << 20, {{"subformat", "vmfsSparse"}}));
    auto chain = open("/m/c.vmdk");
    StandIn target(*chain);
    ASSERT_OK(target.write({5000}, pattern(9000, 1)));
    ASSERT_OK(chain->top().close());
    auto& store = *disks_.stores["/m/c-delta.vmdk"];
    EXPECT_EQ(load_le<std::uint32_t>(store.bytes, 28) * 512ull, store.bytes.size());
    // What it claims past the file's end is not given out.
    put_le<std::uint32_t>(store.bytes, 28, 9999);
    chain = open("/m/c.vmdk");
    ASSERT_OK(chain->top().begin_writing());
    EXPECT_GE(chain->top().reserve({{4 << 20}, 512})->host.bytes, 9999u * 512);
    put_le<std::uint32_t>(store.bytes, 28, UINT32_MAX);
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/c.vmdk", true), Code::corrupt, "first free sector"));
}

TEST_F(VmdkImages, ExtentsThatAreOneFile) {
    disks_.put("/m/d.vmdk", descriptor_text("RW 1 FLAT \"d.vmdk\" 0\n"));
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::corrupt, "itself"));
    disks_.put("/m/x", Bytes(5120));
    disks_.put("/m/d.vmdk", descriptor_text("RW 5 FLAT \"x\" 0\nRW 5 FLAT \"x\" 4\n"));
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::corrupt, "overlap"));
    disks_.put("/m/d.vmdk", descriptor_text("RW 5 SPARSE \"x\"\nRW 5 SPARSE \"x\"\n"));
    EXPECT_FALSE(disks_.chain("vmdk:/m/d.vmdk", false));
    disks_.put("/m/d.vmdk", descriptor_text("RW 5 FLAT \"x\" 6\n"));
    EXPECT_TRUE(fails_with(disks_.chain("vmdk:/m/d.vmdk", false), Code::corrupt, "past the end of that file"));
}

TEST_F(VmdkImages, GrowsWhereThereIsOneExtent) {
    const std::uint64_t small = 3 * 512 * 8192 + 1000 * 512, large = 9ull << 30;
    const struct {
        const char* path;
        Options options;
        std::uint32_t grain;
    } kinds[] = {{"/m/s.vmdk", {}, 8192}, {"/m/f.vmdk", {{"subformat", "monolithicFlat"}}, 0}};
    for (const auto& kind : kinds) {
        SCOPED_TRACE(kind.path);
        const auto last = kind.grain != 0 ? large : 64ull << 20;
        ASSERT_OK(disks_.create_vmdk(kind.path, small, kind.options, kind.grain));
        auto chain = open(kind.path);
        {
            StandIn target(*chain);
            ASSERT_OK(target.write({small - 5000}, pattern(5000, 1)));
            ASSERT_OK(target.write({0}, pattern(5000, 2)));
        }
        const std::uint64_t sizes[] = {small + 100, small + (1 << 20), last};
        for (const auto size : sizes) {
            ASSERT_OK(chain->top().resize(size));
            EXPECT_EQ(chain->top().info().virtual_size, align_up(size, 512));
        }
        EXPECT_TRUE(fails_with(chain->top().resize(small), Code::unsupported, "smaller"));
        StandIn target(*chain);
        ASSERT_OK(target.write({last - 5000}, pattern(5000, 3)));
        ASSERT_OK(chain->top().close());
        EXPECT_TRUE(is_sound(disks_.check_vmdk(kind.path)));
        chain = open(kind.path, false);
        EXPECT_EQ(chain->top().info().virtual_size, last);
        Bytes seen(5000), rest(100000);
        const std::pair<std::uint64_t, std::uint64_t> written[] = {{small - 5000, 1}, {0, 2}, {last - 5000, 3}};
        for (const auto& [at, seed] : written) {
            ASSERT_OK(chain->read({at}, seen));
            EXPECT_EQ(seen, pattern(5000, seed));
        }
        ASSERT_OK(chain->read({small}, rest));
        EXPECT_EQ(rest, Bytes(100000));
    }
    ASSERT_OK(disks_.create_vmdk("/m/c.vmdk", small, {{"subformat", "vmfsSparse"}}));
    EXPECT_TRUE(fails_with(open("/m/c.vmdk")->top().resize(large), Code::unsupported, "convert"));
}

// What lay in the last grain past the disk's end was never the guest's.
TEST_F(VmdkImages, GrowsOverZeros) {
    ExtentContent content{20, 16, {}, {}};
    content.grains[1] = Bytes(8192, std::byte{0xee});
    disks_.put("/m/d.vmdk", encode_hosted_extent(content, {1, 3, descriptor_text("RW 20 SPARSE \"d.vmdk\"\n")}));
    put_le<std::uint32_t>(disks_.stores["/m/d.vmdk"]->bytes, 31 * 512 + 2 * 4, 48);
    auto chain = open("/m/d.vmdk");
    ASSERT_OK(chain->top().resize(64 * 512));
    ASSERT_OK(chain->top().close());
    Bytes disk(64 * 512);
    std::fill_n(disk.begin() + 8192, 4 * 512, std::byte{0xee});
    EXPECT_EQ(*disks_.content("vmdk:/m/d.vmdk"), disk);
    EXPECT_NE(text_of(*disks_.stores["/m/d.vmdk"]).find("RW 64 SPARSE"), std::string::npos);
}

// qemu follows such names.
TEST(VmdkNames, ReachNothingElseOfTheHost) {
    TempDir directory("/var/tmp");
    std::filesystem::create_directory(directory / "vm");
    write_file(directory / "secret", Bytes(5120, std::byte{7}));
    for (const auto& name : std::vector<std::string>{"../secret", directory / "secret", "/etc/hostname"}) {
        const auto text = descriptor_text("RW 1 FLAT \"" + name + "\" 0\n");
        const auto bytes = std::as_bytes(std::span(text));
        write_file(directory / "vm/d.vmdk", {bytes.begin(), bytes.end()});
        EXPECT_TRUE(fails_with(Chain::open(*parse_spec("vmdk:" + (directory / "vm/d.vmdk")), false, PathPolicy{}),
                               Code::denied, ""));
    }
}

TEST(VmdkNames, LooksLikeIt) {
    const auto* format = find_format("vmdk");
    const auto text = descriptor_text("");
    EXPECT_TRUE(format->recognises(std::as_bytes(std::span(text))));
    EXPECT_TRUE(format->recognises(encode_cowd_extent({100, 1, {}, {}})));
    EXPECT_TRUE(format->recognises(encode_hosted_extent({100, 16, {}, {}}, {1, 3, ""})));
    EXPECT_FALSE(format->recognises(Bytes(4096)));
    EXPECT_FALSE(format->recognises(Bytes{}));
}

}  // namespace
}  // namespace dmu
