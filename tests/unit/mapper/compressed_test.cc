// SPDX-License-Identifier: GPL-2.0-or-later
// Compressed clusters, served through the scratch file. The images are QEMU's.
#include <cstdlib>
#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

constexpr std::uint64_t disk_bytes = 4 << 20;

// Compressible, and different everywhere.
Bytes content() {
    Bytes bytes(disk_bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i / 512 * 31 + i / 131072);
    return bytes;
}

class Compressed : public ::testing::Test {
protected:
    void make(const std::string& format) {
        std::ofstream(place_.path("plain.raw"), std::ios::binary)
            .write(reinterpret_cast<const char*>(model_.data()), static_cast<std::streamsize>(model_.size()));
        // Of qcow it says that it failed, but it did not.
        (void)std::system(("qemu-img convert -q -c -f raw -O " + format + " " + place_.path("plain.raw") + " " +
                           place_.path("disk.img") + " 2>/dev/null")
                              .c_str());
        spec_ = format + ":" + place_.path("disk.img");
    }
    DiskSetup setup() const {
        DiskSetup made = setup_for(spec_);
        made.config.scratch_mib = 1;
        return made;
    }
    void expect_model(TestDisk& disk) {
        for (std::uint64_t sector = 0; sector < disk_bytes / 512; sector += 96) {
            const auto count = std::min<std::uint64_t>(96, disk_bytes / 512 - sector);
            const auto seen = disk.read(sector, count);
            ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model_.begin() + static_cast<long>(sector * 512)))
                << "sector " << sector;
        }
    }
    void write(TestDisk& disk, std::uint64_t sector, std::uint64_t count, unsigned seed) {
        const auto bytes = pattern(count * 512, seed);
        ASSERT_EQ(disk.write(sector, bytes), 0);
        std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<long>(sector * 512));
    }
    void qemu_reads_model() {
        ASSERT_EQ(std::system(("qemu-img convert -f " + spec_.substr(0, spec_.find(':')) + " -O raw " +
                               place_.path("disk.img") + " " + place_.path("out.raw"))
                                  .c_str()),
                  0);
        std::ifstream file(place_.path("out.raw"), std::ios::binary);
        Bytes seen(disk_bytes);
        file.read(reinterpret_cast<char*>(seen.data()), disk_bytes);
        EXPECT_TRUE(seen == model_);
    }

    Place place_;
    FakeKernel kernel_;
    Bytes model_ = content();
    std::string spec_;
};

TEST_F(Compressed, ReadsMoreThanTheScratchFileHolds) {
    make("qcow");
    TestDisk disk(kernel_, setup());
    ASSERT_TRUE(disk) << disk.error().message;
    expect_model(disk);
    expect_model(disk);
    EXPECT_TRUE(disk.target().refusals().empty()) << disk.target().refusals().front();
    EXPECT_TRUE(disk.close());
}

TEST_F(Compressed, OneRequestIsLargerThanTheScratchFile) {
    make("qcow");
    TestDisk disk(kernel_, setup());
    ASSERT_TRUE(disk) << disk.error().message;
    EXPECT_TRUE(disk.read(0, disk_bytes / 512) == model_);
    EXPECT_TRUE(disk.close());
}

TEST_F(Compressed, WritesKeepTheRestOfTheCluster) {
    make("qcow");
    TestDisk disk(kernel_, setup());
    ASSERT_TRUE(disk) << disk.error().message;
    unsigned seed = 1;
    for (std::uint64_t sector = 3; sector + 40 < disk_bytes / 512; sector += 211)
        write(disk, sector, seed % 40 + 1, seed), ++seed;
    expect_model(disk);
    EXPECT_EQ(disk.flush(), 0);
    EXPECT_TRUE(disk.close());
    qemu_reads_model();
}

TEST_F(Compressed, WhatTheKernelForgotIsReadAgain) {
    make("qcow2");
    TestDisk disk(kernel_, setup());
    ASSERT_TRUE(disk) << disk.error().message;
    for (unsigned seed = 1; seed < 20; ++seed) {
        expect_model(disk);
        write(disk, seed * 397, seed, seed);
        disk.target().shrink(seed * 301, seed % 3 == 0 ? disk_bytes : 256);
    }
    expect_model(disk);
    EXPECT_GT(disk.target().state().forgotten, 0u);
    EXPECT_TRUE(disk.target().refusals().empty()) << disk.target().refusals().front();
    EXPECT_TRUE(disk.close());
    qemu_reads_model();
}

TEST_F(Compressed, ASuccessorStartsWithAnEmptyScratchFile) {
    make("qcow");
    auto disk = std::make_unique<TestDisk>(kernel_, setup());
    ASSERT_TRUE(*disk) << disk->error().message;
    expect_model(*disk);
    write(*disk, 1000, 9, 7);
    const DiskSetup next = disk->successor_setup();
    disk->kill();
    TestDisk successor(kernel_, next);
    ASSERT_TRUE(successor) << successor.error().message;
    expect_model(successor);
    write(successor, 5000, 17, 8);
    expect_model(successor);
    EXPECT_TRUE(successor.close());
    qemu_reads_model();
}

}  // namespace
}  // namespace dmu::test
