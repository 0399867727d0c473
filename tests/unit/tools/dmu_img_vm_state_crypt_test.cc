// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots with a VM state inside encrypted images. QEMU's machine can't make them: savevm
// aborts (its last write is not whole sectors), and it does not open legacy AES at all. So
// qemu-io writes and reads the state, where savevm puts it and encrypted as the disk is, and
// the snapshot is told its size.
#include "tests/unit/tools/vm_state.h"

namespace dmu {
namespace {

struct Variant {
    const char* encryption;
    const char* options;
};

void PrintTo(const Variant& variant, std::ostream* out) {
    *out << variant.encryption << " " << variant.options;
}

class DmuImgVmStateCrypt : public VmStateImage, public ::testing::WithParamInterface<Variant> {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
        make_image(GetParam().options, GetParam().encryption);
    }
    void save(const std::string& name, int byte) const {
        io_by_qemu("write -b -P " + std::to_string(byte) + " 0 300k");
        snapshot_by_qemu("-c " + name);
        auto image = read_file(directory_ / "a");
        auto entry = load_be<std::uint64_t>(image, 64);
        for (auto left = load_be<std::uint32_t>(image, 60); left > 1; left--)
            entry += (40 + load_be<std::uint32_t>(image, entry + 36) + load_be<std::uint16_t>(image, entry + 12) +
                      load_be<std::uint16_t>(image, entry + 14) + 7) /
                     8 * 8;
        store_be<std::uint32_t>(image, entry + 32, 300 << 10);
        store_be<std::uint64_t>(image, entry + 40, 300 << 10);
        write_file(directory_ / "a", image);
    }
    // What the machine would load.
    void state_is(int byte) const { io_by_qemu("read -b -P " + std::to_string(byte) + " 0 300k"); }
    void make() const {
        io_by_qemu("write -P 1 0 1M");
        keep("one");
        save("one", 0x41);
        io_by_qemu("write -P 2 512k 2M");
        keep("two");
        save("two", 0x42);
        io_by_qemu("write -P 3 3M 1M");
        keep("now");
    }
};

INSTANTIATE_TEST_SUITE_P(Variant, DmuImgVmStateCrypt,
                         ::testing::Values(Variant{"luks", "cluster_size=4k"},
                                           Variant{"aes", "cluster_size=16k,extended_l2=on"},
                                           Variant{"aes", "cluster_size=512"}));

TEST_P(DmuImgVmStateCrypt, OfBothMakings) {
    make();
    const auto all = listed();
    ASSERT_EQ(all.size(), 2u);
    for (const auto& snapshot : all) EXPECT_EQ(snapshot["vm-state-size"], 300 << 10);
    is("now");
    good("snapshot -a one " + spec_);
    is("one");
    state_is(0x41);
    snapshot_by_qemu("-a two");
    is("two");
    state_is(0x42);
    // Ours share what theirs have, and write beside it.
    good("io -c 'write -P 9 100k 300k' " + spec_);
    good("snapshot -c three " + spec_);
    keep("three");
    EXPECT_EQ(listed()[2]["vm-state-size"], 0);
    snapshot_by_qemu("-a one");
    is("one");
    state_is(0x41);
    good("snapshot -a three " + spec_);
    is("three");
    good("snapshot -d one " + spec_);
    is("three");
    EXPECT_EQ(listed().size(), 2u);
    good("snapshot -a two " + spec_);
    is("two");
    state_is(0x42);
    snapshot_by_qemu("-d two");
    is("two");
    good("snapshot -d three " + spec_);
    is("two");
}

// The state's place is counted from the disk's end, and that is another one then.
TEST_P(DmuImgVmStateCrypt, OfAnotherSize) {
    make();
    good("resize " + spec_ + " 9M");
    qemu("truncate -s 9M now");
    is("now");
    save("large", 0x43);
    is("now");
    good("snapshot -a one " + spec_);
    is("one");
    state_is(0x41);
    good("snapshot -a large " + spec_);
    is("now");
    state_is(0x43);
    good("snapshot -a two " + spec_);
    is("two");
    state_is(0x42);
    // Zeros where the state was, not what deciphers it (which qemu-img leaves there).
    good("resize " + spec_ + " 9M");
    qemu("cp two larger && truncate -s 9M larger");
    is("larger");
    good("snapshot -d two " + spec_);
    good("resize --shrink " + spec_ + " 3M");
    qemu("truncate -s 3M larger");
    is("larger");
    good("snapshot -a one " + spec_);
    is("one");
    state_is(0x41);
    for (const char* name : {"large", "one"}) good("snapshot -d " + std::string(name) + " " + spec_);
    is("one");
}

}  // namespace
}  // namespace dmu
