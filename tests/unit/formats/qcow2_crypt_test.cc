// SPDX-License-Identifier: GPL-2.0-or-later
// Encrypted images, made, written and read by us and by qemu.
#include "formats/core/image_neighbours.h"
#include "formats/core/units.h"
#include "tests/unit/formats/qcow2_qemu.h"

namespace dmu {
namespace {

constexpr std::uint64_t disk_bytes = (1 << 20) + 1536;  // ends within a cluster

// Key files are files: everything here is.
class Qcow2Crypt : public Qcow2Qemu, public ::testing::WithParamInterface<const char*> {
protected:
    Qcow2Crypt() {
        method_ = GetParam();
        put_key("key", "a word");
        put_key("wrong", "another");
    }
    bool is_luks() const { return method_ == "luks"; }
    void put_key(const std::string& name, const std::string& text) {
        const auto bytes = std::as_bytes(std::span(text));
        write_file(directory_ / name, {bytes.begin(), bytes.end()});
    }
    Status create(const std::string& name, std::uint32_t cluster, const Options& more = {},
                  const std::string& backing = "") {
        write_file(directory_ / name, {});
        auto file = open_file(directory_ / name, {true, true});
        if (!file) return file.error();
        ImageNeighbours neighbours(directory_ / name, PathPolicy{}, true);
        CreateOptions options{disk_bytes, cluster, {}};
        if (!backing.empty()) options.backing = BackingReference{backing, "raw"};
        options.options = {{"encryption", method_}, {"key-file", directory_ / "key"}};
        if (is_luks()) options.options.emplace_back("iter_time", "10");
        options.options.insert(options.options.end(), more.begin(), more.end());
        options.neighbours = &neighbours;
        return find_format("qcow2")->create(**file, options);
    }
    void create_by_qemu(const std::string& name, const std::string& more = "") {
        qemu("qemu-img create -q" + secret() + " -f qcow2 -o encrypt.format=" + method_ + ",encrypt.key-secret=s" +
             (is_luks() ? ",encrypt.iter-time=10" : "") + more + " " + name + " " + std::to_string(disk_bytes));
    }
    CheckReport check(const std::string& name) {
        auto file = open_file(directory_ / name, {false, true});
        EXPECT_OK(file);
        const auto report = find_format("qcow2")->check(**file, {});
        EXPECT_TRUE(is_clean(report));
        return report ? *report : CheckReport{};
    }
    Result<std::unique_ptr<Chain>> open_as(const std::string& name, const std::string& options, bool writable = false) {
        return Chain::open(*parse_spec("qcow2" + options + ":" + directory_ / name), writable, PathPolicy{});
    }
    bool holds(const std::string& name, const Bytes& what) {
        const auto raw = read_file(directory_ / name);
        return std::search(raw.begin(), raw.end(), what.begin(), what.end()) != raw.end();
    }
};
INSTANTIATE_TEST_SUITE_P(Method, Qcow2Crypt, ::testing::Values("aes", "luks"),
                         [](const auto& info) { return std::string(info.param); });

class Qcow2Luks : public Qcow2Crypt {};
INSTANTIATE_TEST_SUITE_P(Method, Qcow2Luks, ::testing::Values("luks"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Qcow2Crypt, ItsImagesWrittenByBoth) {
    for (const char* more :
         {"", ",cluster_size=4k", ",compat=0.10", ",extended_l2=on,cluster_size=16k", ",data_file=d.raw"}) {
        SCOPED_TRACE(more);
        qemu("rm -f i d.raw");
        create_by_qemu("i", more);
        Bytes model(disk_bytes);
        both_read("i", model);
        write_through_us("i", model, 12);
        both_read("i", model);
        write_through_qemu("i", model, 12);
        both_read("i", model);
        write_through_us("i", model, 12);
        both_read("i", model);
        check("i");
    }
}

TEST_P(Qcow2Luks, ItsCiphers) {
    for (const char* more : {",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=xts",
                             ",encrypt.cipher-alg=aes-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,"
                             "encrypt.ivgen-hash-alg=sha256",
                             ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.hash-alg=sha512"}) {
        SCOPED_TRACE(more);
        qemu("rm -f i");
        create_by_qemu("i", more);
        Bytes model(disk_bytes);
        write_through_qemu("i", model, 6);
        write_through_us("i", model, 6);
        both_read("i", model);
    }
}

TEST_P(Qcow2Crypt, OurImagesWrittenByBoth) {
    for (const std::uint32_t cluster : {512u, 4096u, 65536u, 2u << 20})
        for (const Options& more : {Options{}, Options{{"compat", "0.10"}}, Options{{"refcount_bits", "1"}}}) {
            SCOPED_TRACE(cluster);
            if (cluster != 65536 && !more.empty()) continue;
            ASSERT_OK(create("i", cluster, more));
            check("i");
            Bytes model(disk_bytes);
            both_read("i", model);
            write_through_us("i", model, 12);
            write_through_qemu("i", model, 12);
            write_through_us("i", model, 12);
            both_read("i", model);
            check("i");
        }
}

TEST_P(Qcow2Crypt, Preallocated) {
    for (const char* how : {"metadata", "falloc"})
        EXPECT_TRUE(fails_with(create("p", 65536, {{"preallocation", how}}), Code::invalid, "preallocation=full"));
    for (const Options& more : {Options{}, Options{{"data_file", "d.raw"}}}) {
        auto options = more;
        options.emplace_back("preallocation", "full");
        ASSERT_OK(create("p", 65536, options));
        Bytes model(disk_bytes);
        both_read("p", model);
        EXPECT_EQ(check("p").allocated, align_up(disk_bytes, 65536) / 65536);
        write_through_us("p", model, 12);
        both_read("p", model);
    }
}

TEST_P(Qcow2Crypt, OverABackingFile) {
    auto model = pattern(700000 / 512 * 512, random_());
    write_file(directory_ / "base.raw", model);
    model.resize(disk_bytes);
    for (const bool ours : {true, false}) {
        SCOPED_TRACE(ours);
        auto now = model;
        qemu("rm -f i");
        if (!ours) create_by_qemu("i", ",backing_file=base.raw,backing_fmt=raw");
        const auto made = ours ? create("i", 65536, {}, "base.raw") : ok();
        ASSERT_OK(made);
        both_read("i", now);
        write_through_us("i", now, 8);
        write_through_qemu("i", now, 8);
        both_read("i", now);
        auto chain = open("i", true);
        StandIn target(*chain);
        ASSERT_OK(target.discard({{0}, 3 * 65536}));
        ASSERT_OK(target.flush());
        ASSERT_OK(chain->top().close());
        chain.reset();
        std::fill_n(now.begin(), 3 * 65536, std::byte{0});
        both_read("i", now);
    }
}

TEST_P(Qcow2Crypt, Snapshots) {
    create_by_qemu("i");
    Bytes model(disk_bytes);
    write_through_us("i", model, 10);
    const auto first = model;
    {
        auto chain = open("i", true);
        ASSERT_OK(chain->top().snapshots()->create("one"));
        ASSERT_OK(chain->top().close());
    }
    write_through_us("i", model, 10);
    both_read("i", model);
    {
        auto chain = open("i", true);
        ASSERT_OK(chain->top().snapshots()->create("two"));
        ASSERT_OK(chain->top().snapshots()->apply("one"));
        ASSERT_OK(chain->top().close());
    }
    both_read("i", first);
    qemu("qemu-img snapshot -a two" + node("i"));
    both_read("i", model);
    qemu("qemu-img snapshot -d one" + node("i"));
    write_through_us("i", model, 10);
    both_read("i", model);
    check("i");
}

// What lies past the disk's end in its last cluster is zeros in the larger disk.
TEST_P(Qcow2Crypt, Resized) {
    ASSERT_OK(create("i", 65536));
    Bytes model(disk_bytes);
    write_through_us("i", model, 30);
    const auto last = pattern(1024, 5);
    for (const std::uint64_t size :
         {disk_bytes + 70000 / 512 * 512, std::uint64_t{100 * 512}, std::uint64_t{3 << 20}}) {
        auto chain = open("i", true);
        StandIn target(*chain);
        ASSERT_OK(target.write({model.size() - last.size()}, last));
        ASSERT_OK(target.flush());
        std::copy(last.begin(), last.end(), model.end() - 1024);
        ASSERT_OK(chain->top().resize(size));
        ASSERT_OK(chain->top().close());
        chain.reset();
        model.resize(size);
        both_read("i", model);
    }
    check("i");
}

TEST_P(Qcow2Crypt, NothingIsPlain) {
    ASSERT_OK(create("i", 65536));
    Bytes model(disk_bytes);
    const Bytes secret(64, std::byte{0x5a});
    {
        auto chain = open("i", true);
        StandIn target(*chain);
        ASSERT_OK(target.write({70000}, Bytes(5000, std::byte{0x5a})));
        ASSERT_OK(target.flush());
        // The rest of the cluster holds encrypted zeros.
        const auto extents = chain->top().look_up({{131072 - 512}, 512});
        ASSERT_OK(extents);
        ASSERT_EQ(extents->front().kind, ExtentKind::data);
        Bytes sector(512);
        ASSERT_OK(chain->top().files()[0]->read(extents->front().host.bytes, sector));
        EXPECT_NE(sector, Bytes(512));
        EXPECT_TRUE(fails_with(chain->top().write_compressed({0}, Bytes(65536, std::byte{0x5a})), Code::unsupported,
                               "would not be encrypted"));
        const auto place = chain->top().reserve({{0}, 65536});
        ASSERT_OK(place);
        EXPECT_FALSE(place->reads_as_zero);
        ASSERT_OK(chain->top().close());
    }
    EXPECT_FALSE(holds("i", secret));
    std::fill_n(model.begin() + 70000, 5000, std::byte{0x5a});
    both_read("i", model);
}

TEST_P(Qcow2Crypt, WithoutTheKey) {
    ASSERT_OK(create("i", 65536));
    const auto before = read_file(directory_ / "i");
    for (const bool writable : {false, true}) {
        EXPECT_TRUE(fails_with(open_as("i", "", writable), Code::denied, "'qcow2;key-file=FILE:"));
        EXPECT_TRUE(fails_with(open_as("i", ";key-file=" + directory_ / "none", writable), Code::not_found, "none"));
        const auto wrong = open_as("i", ";key-file=" + directory_ / "wrong", writable);
        // Nothing in an image of legacy AES tells.
        EXPECT_TRUE(is_luks() ? fails_with(wrong, Code::denied, "opens none of its key slots")
                              : ::testing::AssertionResult(static_cast<bool>(wrong)));
    }
    EXPECT_TRUE(read_file(directory_ / "i") == before);
    OpenOptions options;
    options.info_only = true;
    auto image = find_format("qcow2")->open(std::move(*open_file(directory_ / "i", {false, true})), options);
    ASSERT_OK(image);
    EXPECT_TRUE((*image)->info().encrypted);
    EXPECT_EQ((*image)->info().virtual_size, disk_bytes);
    check("i");
}

TEST_P(Qcow2Crypt, OptionsOfCreate) {
    const auto with = [&](const Options& options) {
        MemoryDisks disks;
        const auto made = create_qcow2(disks, "/m/i", 1 << 20, {"", 65536, options});
        EXPECT_TRUE(disks.stores["/m/i"]->bytes.empty());
        return made;
    };
    const std::pair<std::string, std::string> key{"key-file", directory_ / "key"}, method{"encryption", method_};
    EXPECT_TRUE(fails_with(with({key}), Code::invalid, "needs 'encryption=luks'"));
    EXPECT_TRUE(fails_with(with({method}), Code::invalid, "needs option 'key-file'"));
    EXPECT_TRUE(fails_with(with({key, {"encryption", "rot13"}}), Code::invalid, "luks and aes are possible"));
    EXPECT_TRUE(fails_with(with({method, {"key-file", directory_ / "none"}}), Code::not_found, "none"));
    EXPECT_TRUE(fails_with(with({method, key, {"iter_time", "0"}}), Code::invalid, "milliseconds"));
    EXPECT_TRUE(
        fails_with(with({method, key, {"data_file", "d"}, {"data_file_raw", "on"}}), Code::invalid, "can't be raw"));
    if (is_luks()) return;
    EXPECT_TRUE(fails_with(with({method, key, {"iter_time", "10"}}), Code::invalid, "needs 'encryption=luks'"));
}

// The rules of the header extension, and the room of the LUKS header is nobody else's.
TEST_P(Qcow2Crypt, WhereTheLuksHeaderLies) {
    ASSERT_OK(create("i", 4096));
    const auto good = read_file(directory_ / "i");
    const auto refused = [&](const char* message) {
        auto file = open_file(directory_ / "i", {false, true});
        const auto report = find_format("qcow2")->check(**file, {});
        EXPECT_TRUE(report && report->corruptions != 0) << message;
        return fails_with(open_as("i", ";key-file=" + directory_ / "key", true), Code::corrupt, message);
    };
    const auto put = [&](std::size_t at, auto value) {
        auto raw = good;
        store_be(raw, at, value);
        write_file(directory_ / "i", raw);
    };
    if (!is_luks()) {
        put(112, std::uint32_t{0x0537be77});
        EXPECT_TRUE(refused("its encryption is not LUKS"));
        return;
    }
    constexpr std::size_t extension = 112, offset = 120, bytes = 128;
    ASSERT_EQ(load_be<std::uint32_t>(good, extension), 0x0537be77u);
    const auto at = load_be<std::uint64_t>(good, offset);
    put(extension, std::uint32_t{0x12345678});
    EXPECT_TRUE(refused("no header extension"));
    put(extension + 4, std::uint32_t{15});
    EXPECT_TRUE(refused("has 15 bytes; 16"));
    put(offset, at + 512);
    EXPECT_TRUE(refused("not aligned"));
    put(offset, std::uint64_t{0});
    EXPECT_TRUE(refused("over the header"));
    // The L1 table in the room of its last key slot.
    put(40, at + 1814528);
    EXPECT_TRUE(refused("over other metadata"));
    put(bytes, std::uint64_t{591});
    EXPECT_TRUE(refused("592 are the least"));
    put(bytes, UINT64_MAX);
    EXPECT_TRUE(refused("past the end"));
    put(offset, std::uint64_t{1} << 60);
    EXPECT_TRUE(refused("past the end"));

    // An L2 entry that points into it.
    write_file(directory_ / "i", good);
    Bytes model(disk_bytes);
    write_through_us("i", model, 1);
    auto raw = read_file(directory_ / "i");
    const auto l1 = load_be<std::uint64_t>(raw, 40);
    const auto table = load_be<std::uint64_t>(raw, l1) & 0x00fffffffffffe00;
    ASSERT_NE(table, 0u);
    store_be<std::uint64_t>(raw, table, (at + 8192) | std::uint64_t{1} << 63);
    write_file(directory_ / "i", raw);
    auto chain = open("i", true);
    ASSERT_NE(chain, nullptr);
    EXPECT_TRUE(fails_with(chain->look_up({{0}, 512}), Code::corrupt, "over metadata"));
}

}  // namespace
}  // namespace dmu
