// SPDX-License-Identifier: GPL-2.0-or-later
// Internal snapshots with a VM state, which lies past the disk's end: made by a machine of
// QEMU's, listed, applied, deleted and checked by dmu-img and qemu-img in turn, and loaded
// by the machine again.
#include "tests/unit/tools/vm_state.h"

namespace dmu {
namespace {

class DmuImgVmState : public VmStateImage, public ::testing::WithParamInterface<const char*> {
protected:
    void SetUp() override {
        if (!has_qemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
        if (shell("qemu-system-x86_64 --version").status != 0) GTEST_SKIP() << "no qemu-system-x86_64";
        make_image(GetParam());
    }
    // The smallest machine there is, stopped; a disk that is no device's.
    void machine(const std::string& commands) const {
        const auto ran = shell("printf '" + commands +
                               "quit\\n' | qemu-system-x86_64 -accel tcg -M isapc -m 1M -nodefaults -display none -S "
                               "-blockdev driver=qcow2,file.driver=file,file.filename=a,node-name=d -monitor stdio");
        EXPECT_EQ(ran.status, 0) << ran.output;
        EXPECT_THAT(ran.output, ::testing::Not(::testing::HasSubstr("Error"))) << commands;
    }
    // Snapshots one and two with a state; what the disk was then is in files of these names.
    void make() {
        io_by_qemu("write -P 1 0 1M");
        keep("one");
        machine("savevm one\\n");
        io_by_qemu("write -P 2 512k 2M");
        keep("two");
        machine("savevm two\\n");
        io_by_qemu("write -P 3 3M 1M");
        keep("now");
    }
};

// Two L2 tables for the disk, then, and one.
INSTANTIATE_TEST_SUITE_P(Variant, DmuImgVmState,
                         ::testing::Values("cluster_size=4k", "cluster_size=512,refcount_bits=4",
                                           "cluster_size=16k,extended_l2=on", "cluster_size=4k,compat=0.10"));

TEST_P(DmuImgVmState, OfBothMakings) {
    make();
    const auto all = listed();
    ASSERT_EQ(all.size(), 2u);
    for (const auto& snapshot : all) EXPECT_GT(snapshot["vm-state-size"].get<std::uint64_t>(), 0u);
    is("now");
    good("snapshot -a one qcow2:a");
    is("one");
    machine("loadvm two\\n");
    is("two");
    good("io -c 'write -P 9 100k 300k' qcow2:a");
    good("snapshot -c three qcow2:a");
    keep("three");
    EXPECT_EQ(listed()[2]["vm-state-size"], 0);
    qemu("qemu-img snapshot -a one a");
    is("one");
    good("snapshot -a three qcow2:a");
    is("three");
    good("snapshot -d one qcow2:a");
    is("three");
    EXPECT_EQ(listed().size(), 2u);
    machine("loadvm two\\n");
    is("two");
    qemu("qemu-img snapshot -d two a");
    is("two");
    good("snapshot -d three qcow2:a");
    is("two");
}

// The state's place is counted from the disk's end, and that is another one then.
TEST_P(DmuImgVmState, OfAnotherSize) {
    if (std::string(GetParam()).find("compat") != std::string::npos) {
        machine("savevm one\\n");
        EXPECT_EQ(img("resize qcow2:a 9M").status, 1);
        sound();
        return;
    }
    make();
    good("resize qcow2:a 9M");
    qemu("truncate -s 9M now");
    is("now");
    machine("savevm large\\n");
    is("now");
    for (const std::string name : {"one", "now", "two"}) {
        good("snapshot -a " + (name == "now" ? "large" : name) + " qcow2:a");
        EXPECT_EQ(info("qcow2", "a")["virtual-size"], name == "now" ? 9 << 20 : 4 << 20);
        is(name);
        EXPECT_EQ(listed().size(), 3u);
    }
    machine("loadvm two\\n");
    is("two");
    // What was applied has the state past the disk's end: the larger disk has zeros there
    // (qemu-img leaves the state in it).
    good("resize qcow2:a 9M");
    qemu("cp two larger && truncate -s 9M larger");
    is("larger");
    good("snapshot -d one qcow2:a");
    good("resize --shrink qcow2:a 3M");
    qemu("truncate -s 3M larger");
    is("larger");
    machine("savevm small\\n");
    for (const char* name : {"large", "two", "small"}) {
        good("snapshot -a " + std::string(name) + " qcow2:a");
        sound();
    }
    is("larger");
    for (const char* name : {"large", "small", "two"}) good("snapshot -d " + std::string(name) + " qcow2:a");
    is("larger");
}

}  // namespace
}  // namespace dmu
