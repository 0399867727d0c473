// SPDX-License-Identifier: GPL-2.0-or-later
// Our images read by libqcow and libvmdk, which share no code with us or with qemu: each
// shows an image as a file in a directory that it mounts (FUSE).
#include <sys/stat.h>

#include "formats/core/image_neighbours.h"
#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

struct SecondReaderKind {
    std::string name, format;
    std::uint32_t cluster;
    std::vector<std::pair<std::string, std::string>> options{};
    bool compressed = false;
};

void PrintTo(const SecondReaderKind& kind, std::ostream* out) {
    *out << kind.name;
}

// What they can read: of qcow only tables of one cluster, of VMDK no monolithicFlat.
const SecondReaderKind kinds[] = {
    {"Qcow", "qcow", 4096},
    {"QcowCompressed", "qcow", 4096, {}, true},
    {"Qcow2V2", "qcow2", 65536, {{"compat", "0.10"}}},
    {"Qcow2", "qcow2", 65536},
    {"Qcow2Small", "qcow2", 4096},
    {"Qcow2Refcount1", "qcow2", 4096, {{"refcount_bits", "1"}}},
    {"Qcow2Compressed", "qcow2", 65536, {}, true},
    {"VmdkSparse", "vmdk", 65536},
    {"VmdkSmall", "vmdk", 8192},
    {"VmdkSplit", "vmdk", 65536, {{"subformat", "twoGbMaxExtentSparse"}, {"extent_size", "1048576"}}},
    {"VmdkFlat", "vmdk", 0, {{"subformat", "twoGbMaxExtentFlat"}, {"extent_size", "1048576"}}},
    {"VmdkStream", "vmdk", 0, {{"subformat", "streamOptimized"}}, true},
};

class SecondReader : public ::testing::TestWithParam<SecondReaderKind> {
protected:
    std::string tool() const { return GetParam().format == "vmdk" ? "vmdkmount" : "qcowmount"; }
    void SetUp() override {
        struct stat info;
        if (run_command(tool() + " -V").status != 0) GTEST_SKIP() << "no " << tool();
        if (::stat("/dev/fuse", &info) != 0 || ::geteuid() != 0) GTEST_SKIP() << "no /dev/fuse, or not root";
    }
    void create() {
        write_file(path_, {});
        auto file = open_file(path_, {true, true});
        ASSERT_OK(file);
        ImageNeighbours neighbours(path_, PathPolicy{}, true);
        CreateOptions how{model_.size(), GetParam().cluster, {}};
        how.options = GetParam().options;
        how.neighbours = &neighbours;
        ASSERT_OK(find_format(GetParam().format)->create(**file, how));
    }
    void put(std::uint64_t offset, const Bytes& bytes) {
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    // Two of three clusters, half of each compressible.
    void write_compressed(Chain& chain) {
        const auto grain = std::uint64_t{chain.top().info().grain};
        for (std::uint64_t at = 0; at < model_.size(); at += grain) {
            if (random_() % 3 == 0 && at != 0) continue;
            auto bytes = pattern(std::min(grain, model_.size() - at), random_());
            std::fill_n(bytes.begin(), bytes.size() / 2, std::byte{7});
            ASSERT_OK(chain.top().write_compressed({at}, bytes));
            put(at, bytes);
        }
    }
    void write_something(Chain& chain) {
        StandIn target(chain);
        for (int i = 0; i < 30; i++) {
            const auto offset = random_() % model_.size();
            const auto bytes =
                pattern(std::min<std::uint64_t>(1 + random_() % 90000, model_.size() - offset), random_());
            ASSERT_OK(target.write({offset}, bytes));
            put(offset, bytes);
        }
        ASSERT_OK(target.flush());
    }
    Bytes read_by_it() {
        const auto mount = directory_ / "mount";
        std::filesystem::create_directory(mount);
        const auto ran = run_command("cd '" + directory_.path() + "' && " + tool() + " image mount");
        EXPECT_EQ(ran.status, 0) << ran.output;
        auto seen = read_file(mount + (GetParam().format == "vmdk" ? "/vmdk1" : "/qcow1"));
        EXPECT_EQ(run_command("umount '" + mount + "'").status, 0);
        return seen;
    }

    const std::uint64_t seed_ = test_seed();
    std::mt19937_64 random_{seed_};
    ::testing::ScopedTrace trace_{__FILE__, __LINE__, "DMU_TEST_SEED=" + std::to_string(seed_)};
    TempDir directory_{"/var/tmp"};
    const std::string path_ = directory_ / "image";
    Bytes model_ = Bytes(4 << 20);
};
INSTANTIATE_TEST_SUITE_P(Kind, SecondReader, ::testing::ValuesIn(kinds),
                         [](const auto& info) { return info.param.name; });

TEST_P(SecondReader, ReadsOurs) {
    ASSERT_NO_FATAL_FAILURE(create());
    auto chain = Chain::open(*parse_spec(GetParam().format + ":" + path_), true, PathPolicy{});
    ASSERT_OK(chain);
    if (GetParam().compressed) {
        ASSERT_NO_FATAL_FAILURE(write_compressed(**chain));
    }
    if (GetParam().name != "VmdkStream") {
        ASSERT_NO_FATAL_FAILURE(write_something(**chain));
    }
    ASSERT_OK((*chain)->top().close());
    EXPECT_TRUE(read_by_it() == model_);
}

}  // namespace
}  // namespace dmu
