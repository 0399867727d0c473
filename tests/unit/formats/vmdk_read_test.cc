// SPDX-License-Identifier: GPL-2.0-or-later
// Every kind of VMDK disk, made by an encoder, read back.
#include "tests/unit/formats/vmdk_support.h"

namespace dmu {
namespace {

const std::string spec = "vmdk:/m/d.vmdk";

class VmdkRead : public ::testing::Test {
protected:
    void reads(const Bytes& disk) {
        const auto content = disks_.content(spec);
        ASSERT_OK(content);
        EXPECT_TRUE(*content == disk);
        const auto report = disks_.check_vmdk("/m/d.vmdk");
        EXPECT_TRUE(is_sound(report));
    }
    Bytes qemu_reads() {
        TempDir directory("/var/tmp");
        for (const auto& [path, store] : disks_.stores)
            write_file(directory / path.substr(path.rfind('/') + 1), store->bytes);
        const auto ran = run_command("cd " + directory.path() + " && qemu-img convert -f vmdk -O raw d.vmdk d.raw");
        EXPECT_EQ(ran.status, 0) << ran.output;
        return read_file(directory / "d.raw");
    }
    VmdkDisks disks_;
    Bytes disk_;
};

TEST_F(VmdkRead, Monolithic) {
    for (const std::uint64_t capacity : {16u, 200u, 16 * 512u + 5, 70000u}) {
        const auto content = some_content(capacity, 16, capacity, disk_);
        disks_.put("/m/d.vmdk", encode_hosted_extent(content, {1, 3, descriptor_text("RW 1 SPARSE \"other\"\n")}));
        reads(disk_);
    }
}

TEST_F(VmdkRead, ZeroedGrainsWithTheFlagOnly) {
    auto content = some_content(2000, 16, 1, disk_);
    content.grains.erase(3), content.grains.erase(4);
    std::fill_n(disk_.begin() + 3 * 8192, 2 * 8192, std::byte{0});
    content.zeroed = {3};
    disks_.put("/m/d.vmdk", encode_hosted_extent(content, {2, 7, descriptor_text("")}));
    reads(disk_);
    auto chain = disks_.chain(spec, false);
    ASSERT_OK(chain);
    const auto extents = (*chain)->top().look_up({{3 * 8192}, 2 * 8192});
    ASSERT_OK(extents);
    EXPECT_EQ((*extents)[0].kind, ExtentKind::zero);
    EXPECT_EQ((*extents)[0].length, 8192u);
    EXPECT_EQ((*extents)[1].kind, ExtentKind::unallocated);

    disks_.put("/m/d.vmdk", encode_hosted_extent(content, {1, 3, descriptor_text("")}));
    EXPECT_TRUE(fails_with(disks_.content(spec), Code::corrupt, "no entry of a grain table"));
    EXPECT_EQ(disks_.check_vmdk("/m/d.vmdk")->corruptions, 2u);
}

TEST_F(VmdkRead, TheFirstOfTwoDifferentCopies) {
    auto content = some_content(3000, 16, 2, disk_);
    content.grains.erase(5);
    std::fill_n(disk_.begin() + 5 * 8192, 8192, std::byte{0});
    HostedKind kind{1, 3, descriptor_text("")};
    kind.only_redundant[5] = pattern(8192, 9);
    disks_.put("/m/d.vmdk", encode_hosted_extent(content, kind));
    reads(disk_);
    EXPECT_EQ(disks_.check_vmdk("/m/d.vmdk")->leaks, 2u);  // the grain, and the difference
}

TEST_F(VmdkRead, Streams) {
    for (const std::uint64_t capacity : {128u, 1000u, 128 * 512u + 300}) {
        const auto content = some_content(capacity, 128, capacity, disk_);
        // As converters leave it: no first line, RDONLY, a name of no file.
        auto text = descriptor_text("RDONLY 7 SPARSE \"generated-stream.vmdk\"\n");
        text.replace(0, 21, "made by a converter!!");
        disks_.put("/m/d.vmdk", encode_stream(content, text));
        reads(disk_);
        if (has_qemu()) {
            EXPECT_TRUE(qemu_reads() == disk_);
        }
        EXPECT_TRUE(fails_with(disks_.chain(spec, true), Code::unsupported, "reading only"));
    }
}

TEST_F(VmdkRead, StreamOfNoiseIsLargerThanItsGrains) {
    ExtentContent content{256, 128, {}, {}};
    disk_ = pattern(256 * 512, 77);
    for (std::uint64_t i = 0; i < 2; i++)
        content.grains[i] = Bytes(disk_.begin() + i * 65536, disk_.begin() + (i + 1) * 65536);
    ASSERT_GT(zlib_packed(content.grains[0]).size(), 65536u);
    disks_.put("/m/d.vmdk", encode_stream(content, descriptor_text("")));
    reads(disk_);
    auto chain = disks_.chain(spec, false);
    ASSERT_OK(chain);
    Bytes part(1000);
    ASSERT_OK((*chain)->read({65000}, part));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), disk_.begin() + 65000));
}

TEST_F(VmdkRead, DamagedStreams) {
    const auto content = some_content(1000, 128, 1, disk_);
    const auto good = encode_stream(content, descriptor_text(""));
    const auto first = content.grains.begin()->first * 65536;
    const struct {
        std::size_t at;
        std::uint32_t value;
        const char* message;
    } damages[] = {{128 * 512, 77, "it is that of sector"},
                   {128 * 512 + 8, 0, "has a length of 0"},
                   {128 * 512 + 8, 1 << 30, "has a length of"},
                   {128 * 512 + 12, 0, "does not unpack"},
                   {good.size() - 1024, 0, "footer"},
                   {good.size() - 1024 + 12, 5, "contradicts its header"},
                   {good.size() - 1024 + 56, 0xffffffff, "footer"}};
    for (const auto& damage : damages) {
        auto bad = good;
        put_le<std::uint32_t>(bad, damage.at, damage.value);
        disks_.put("/m/d.vmdk", bad);
        auto chain = disks_.chain(spec, false);
        Bytes part(512);
        if (chain)
            EXPECT_TRUE(fails_with((*chain)->read({first}, part), Code::corrupt, damage.message));
        else
            EXPECT_NE(chain.error().message.find(damage.message), std::string::npos) << chain.error().message;
    }
}

TEST_F(VmdkRead, Cowd) {
    for (const std::uint64_t grain : {1u, 16u}) {
        const auto content = some_content(9000, grain, grain, disk_);
        disks_.put("/m/d-delta.vmdk", encode_cowd_extent(content));
        disks_.put("/m/d.vmdk", descriptor_text("RW 9000 VMFSSPARSE \"d-delta.vmdk\"\n", "", "vmfsSparse"));
        reads(disk_);
        if (has_qemu()) {
            EXPECT_TRUE(qemu_reads() == disk_);
        }
    }
}

TEST_F(VmdkRead, SeSparse) {
    auto content = some_content(40000, 8, 4, disk_);
    for (const std::uint64_t zeroed : {10u, 11u, 12u, 4500u}) {
        content.grains.erase(zeroed);
        content.zeroed.insert(zeroed);
        std::fill_n(disk_.begin() + static_cast<std::ptrdiff_t>(zeroed * 4096), 4096, std::byte{0});
    }
    disks_.put("/m/d-se.vmdk", encode_se_extent(content));
    disks_.put("/m/d.vmdk", descriptor_text("RW 40000 SESPARSE \"d-se.vmdk\"\n", "", "seSparse"));
    reads(disk_);
    if (has_qemu()) {
        EXPECT_TRUE(qemu_reads() == disk_);
    }
    EXPECT_TRUE(fails_with(disks_.chain(spec, true), Code::unsupported, "reading only"));
    disks_.put("/m/d-se.vmdk", encode_se_extent(content, true));
    EXPECT_TRUE(fails_with(disks_.content(spec), Code::unsupported, "journal must be replayed"));
}

// qemu leaves ZERO and RDONLY extents out, and what follows moves; every line counts.
TEST_F(VmdkRead, ExtentsOfEveryKindInTheirOrder) {
    Bytes sparse, cowd;
    const auto flat = pattern(100 * 512, 5);
    disks_.put("/m/flat", flat);
    disks_.put("/m/sparse", encode_hosted_extent(some_content(200, 16, 6, sparse), {1, 3, ""}));
    disks_.put("/m/cowd", encode_cowd_extent(some_content(50, 1, 7, cowd)));
    disks_.put("/m/d.vmdk", descriptor_text("RW 10 FLAT \"flat\" 20\n"
                                            "RDONLY 30 ZERO\n"
                                            "rdonly 200 sparse \"sparse\"\n"
                                            "RW 20 FLAT \"flat\" 0\n"
                                            "RW 7 ZERO\n"
                                            "RW 50 VMFSSPARSE \"cowd\"\n"
                                            "RW 5 VMFS \"flat\" 95\n"));
    put_bytes(disk_, 0, {flat.begin() + 20 * 512, flat.begin() + 30 * 512});
    put_bytes(disk_, 40 * 512, sparse);
    put_bytes(disk_, 240 * 512, {flat.begin(), flat.begin() + 20 * 512});
    put_bytes(disk_, 267 * 512, cowd);
    put_bytes(disk_, 317 * 512, {flat.begin() + 95 * 512, flat.end()});
    reads(disk_);

    // Written where it may be, refused where not.
    auto chain = disks_.chain(spec, true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    ASSERT_OK(target.write({512}, pattern(512, 1)));
    put_bytes(disk_, 512, pattern(512, 1));
    ASSERT_OK(target.write({270 * 512}, pattern(5 * 512, 2)));
    put_bytes(disk_, 270 * 512, pattern(5 * 512, 2));
    EXPECT_TRUE(fails_with(target.write({12 * 512}, pattern(512, 1)), Code::denied, "can't be written"));
    EXPECT_TRUE(fails_with(target.write({50 * 512}, pattern(512, 1)), Code::denied, "can't be written"));
    ASSERT_OK((*chain)->top().close());
    reads(disk_);
}

TEST_F(VmdkRead, NoAccess) {
    disks_.put("/m/flat", pattern(10 * 512, 5));
    disks_.put("/m/d.vmdk", descriptor_text("RW 10 FLAT \"flat\" 0\nNOACCESS 10 FLAT \"none\" 0\n"));
    auto chain = disks_.chain(spec, false);
    ASSERT_OK(chain);
    Bytes part(512);
    EXPECT_OK((*chain)->read({0}, part));
    EXPECT_TRUE(fails_with((*chain)->read({10 * 512}, part), Code::denied, "no access"));
}

TEST_F(VmdkRead, WrappedDescriptor) {
    const auto flat = pattern(10 * 512, 5);
    disks_.put("/m/flat", flat);
    ExtentContent nothing;
    Bytes wrapper;
    put_hosted_header(wrapper, 0, nothing, {1, 1, "x"}, 0, 0, 0);
    put_text(wrapper, 512, descriptor_text("RW 10 FLAT \"flat\" 0\n"));
    wrapper.resize(21 * 512);
    disks_.put("/m/d.vmdk", wrapper);
    reads(flat);
}

TEST_F(VmdkRead, NamesInTheirEncodings) {
    const struct {
        const char *encoding, *written, *utf8;
    } names[] = {{"windows-1252", "\xfc-flat", "\xc3\xbc-flat"},
                 {"Shift_JIS", "\x83\x66", "\xe3\x83\x87"},
                 {"GBK", "\xb4\xc5", "\xe7\xa3\x81"},
                 {"Big5", "\xba\xcf", "\xe7\xa3\x81"},
                 {"UTF-8", "\xc3\xbc", "\xc3\xbc"},
                 {"no-such", "\xfc", "\xfc"},
                 // A name that was copied as it was written.
                 {"windows-1252", "\xfd", "\xfd"}};
    const auto flat = pattern(10 * 512, 5);
    for (const auto& name : names) {
        disks_.stores.clear();
        disks_.put(std::string("/m/") + name.utf8, flat);
        disks_.put("/m/d.vmdk", descriptor_text(std::string("RW 10 FLAT \"") + name.written + "\" 0\n",
                                                std::string("encoding=\"") + name.encoding + "\"\n"));
        SCOPED_TRACE(name.encoding);
        reads(flat);
    }
}

TEST_F(VmdkRead, InformationOpensNothingElse) {
    disks_.put("/m/d.vmdk", descriptor_text("RW 10 FLAT \"missing\" 0\nRW 20 ZERO\n"));
    OpenOptions options;
    options.info_only = true;
    auto image = find_format("vmdk")->open(std::make_unique<MemoryFile>(disks_.stores["/m/d.vmdk"], "d"), options);
    ASSERT_OK(image);
    EXPECT_EQ((*image)->info().virtual_size, 30u * 512);
    EXPECT_EQ((*image)->info().identity, "12345678");
    EXPECT_TRUE(fails_with(disks_.content(spec), Code::not_found, "missing"));
}

TEST_F(VmdkRead, ParentByItsCid) {
    Bytes base;
    disks_.put("/m/base.vmdk", encode_hosted_extent(some_content(2000, 16, 1, base), {1, 3, descriptor_text("")}));
    auto content = some_content(1500, 16, 2, disk_);
    auto text = descriptor_text("", "parentFileNameHint=\"base.vmdk\"\n");
    text.replace(text.find("ffffffff"), 8, "12345678");
    disks_.put("/m/d.vmdk", encode_hosted_extent(content, {1, 3, text}));
    for (std::uint64_t i = 0; i * 8192 < disk_.size(); i++)
        if (!content.grains.count(i))
            std::copy_n(base.begin() + static_cast<std::ptrdiff_t>(i * 8192),
                        std::min<std::size_t>(8192, disk_.size() - i * 8192),
                        disk_.begin() + static_cast<std::ptrdiff_t>(i * 8192));
    reads(disk_);
    // The parent was written to: its CID is another now.
    auto chain = disks_.chain("vmdk:/m/base.vmdk", true);
    ASSERT_OK(chain);
    StandIn target(**chain);
    ASSERT_OK(target.write({0}, pattern(512, 1)));
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(fails_with(disks_.content(spec), Code::corrupt, "12345678"));
}

TEST_F(VmdkRead, SamplesOfOtherMakers) {
    const char* set = std::getenv("DMU_SAMPLES");
    const auto source = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path().parent_path();
    const auto samples = set != nullptr ? std::filesystem::path(set) : source.parent_path() / "shared" / "samples";
    if (!std::filesystem::exists(samples / "dfvfs-ext2.vmdk"))
        GTEST_SKIP() << "no samples in " << samples << "; DMU_SAMPLES names the directory";
    const struct {
        const char *name, *sum;
        std::uint64_t bytes;
        bool writable;
    } images[] = {
        {"sleuthkit-image.vmdk", "854c3db1c4a07a241e2ed9fbd8892adf2adc662c7862a75deed26f3483f414c9", 102400, true},
        {"dfvfs-ext2.vmdk", "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80", 4194304, true},
        {"twoGbMaxExtentSparse.vmdk", "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727", 10485760,
         true},
        {"streamOptimized.vmdk", "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727", 10485760, false},
    };
    TempDir directory("/var/tmp");
    std::filesystem::copy_file(samples / "twoGbMaxExtentSparse-s001.vmdk",
                               directory / "twoGbMaxExtentSparse-s001.vmdk");
    for (const auto& image : images) {
        SCOPED_TRACE(image.name);
        std::filesystem::copy_file(samples / image.name, directory / image.name);
        for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
            std::filesystem::permissions(entry, std::filesystem::perms::owner_all);
        const auto parsed = parse_spec("vmdk:" + (directory / image.name));
        auto chain = Chain::open(*parsed, false, PathPolicy{});
        ASSERT_OK(chain);
        Bytes content((*chain)->top().info().virtual_size);
        EXPECT_EQ(content.size(), image.bytes);
        ASSERT_OK((*chain)->read({0}, content));
        write_file(directory / "raw", content);
        EXPECT_EQ(run_command("sha256sum '" + (directory / "raw") + "'").output.substr(0, 64), image.sum);
        auto written = Chain::open(*parsed, true, PathPolicy{});
        if (!image.writable) {
            EXPECT_TRUE(fails_with(written, Code::unsupported, "reading only"));
            continue;
        }
        ASSERT_OK(written);
        StandIn target(**written);
        ASSERT_OK(target.write({50000}, pattern(50000, 3)));
        put_bytes(content, 50000, pattern(50000, 3));
        ASSERT_OK((*written)->top().close());
        auto again = Chain::open(*parsed, false, PathPolicy{});
        ASSERT_OK(again);
        Bytes seen(content.size());
        ASSERT_OK((*again)->read({0}, seen));
        EXPECT_TRUE(seen == content);
    }
}

}  // namespace
}  // namespace dmu
