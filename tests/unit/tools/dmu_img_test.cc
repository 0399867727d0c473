// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-img as its user meets it: words, exit statuses, what it refuses, what it leaves behind.
#include <fcntl.h>
#include <unistd.h>

#include "formats/core/locks.h"
#include "tests/unit/tools/dmu_img.h"
#include "xen-backend/control/control.h"

namespace dmu {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(DmuImg, WrongUsage) {
    EXPECT_EQ(img("").status, 64);
    EXPECT_EQ(img("frobnicate").status, 64);
    EXPECT_EQ(img("create").status, 64);
    EXPECT_EQ(img("check -r some qcow:a").status, 64);
    EXPECT_EQ(img("--help").status, 0);
}

TEST_F(DmuImg, CreateAndInfo) {
    good("create qcow:a.qcow 10M");
    const auto again = img("create qcow:a.qcow 10M");
    EXPECT_EQ(again.status, 1);
    EXPECT_THAT(again.output, HasSubstr("exists already"));
    const auto text = img("info qcow:a.qcow");
    EXPECT_THAT(text.output, HasSubstr("virtual size: 10M (10485760 bytes)"));
    EXPECT_THAT(text.output, HasSubstr("cluster size: 4096"));
    const auto json = control::Json::parse(img("info --json qcow:a.qcow").output);
    EXPECT_EQ(json["virtual-size"], 10485760);
    EXPECT_EQ(json["format"], "qcow");
    EXPECT_EQ(json["filename"], "a.qcow");
    EXPECT_EQ(json["cluster-size"], 4096);
    // A bare path, here only.
    EXPECT_THAT(img("info a.qcow").output, HasSubstr("file format: qcow (by its content"));
    EXPECT_EQ(img("check a.qcow").status, 1);
    EXPECT_THAT(img("info qcow:none").output, HasSubstr("none"));
    EXPECT_EQ(img("info qcow:none").status, 1);
    EXPECT_THAT(img("info qcow9:a.qcow").output, HasSubstr("no format 'qcow9'"));
}

TEST_F(DmuImg, InfoOpensNothingElse) {
    good("create raw:base 1M");
    good("create -b raw:base qcow:top.qcow");
    std::filesystem::remove(directory_ / "base");
    const auto json = control::Json::parse(img("info --json qcow:top.qcow").output);
    EXPECT_EQ(json["backing-filename"], "base");
    EXPECT_EQ(json["full-backing-filename"], directory_ / "base");
    EXPECT_EQ(img("info --chain qcow:top.qcow").status, 1);
}

TEST_F(DmuImg, InfoOfAChain) {
    good("create raw:base 1M");
    good("create -b raw:base qcow:mid.qcow");
    good("create -b 'qcow;backing-format=raw:mid.qcow' qcow:top.qcow 2M");
    const auto json = control::Json::parse(img("info --json --chain qcow:top.qcow").output);
    ASSERT_EQ(json.size(), 3u);
    EXPECT_EQ(json[1]["format"], "qcow");
    EXPECT_EQ(json[2]["format"], "raw");
    EXPECT_EQ(json[0]["virtual-size"], 2 << 20);
}

TEST_F(DmuImg, CheckSaysHowBadItIs) {
    good("create qcow:a.qcow 1M");
    good("io -c 'write -P 1 0 64k' qcow:a.qcow");
    EXPECT_EQ(img("check qcow:a.qcow").status, 0);
    auto bytes = read_file(directory_ / "a.qcow");
    const auto size = bytes.size();
    bytes.resize(size + 3 * 4096);
    write_file(directory_ / "a.qcow", bytes);
    EXPECT_EQ(img("check qcow:a.qcow").status, 3);
    EXPECT_EQ(control::Json::parse(img("check --json qcow:a.qcow").output)["leaks"], 3);
    const auto repaired = img("check -r leaks qcow:a.qcow");
    EXPECT_EQ(repaired.status, 0) << repaired.output;
    EXPECT_THAT(repaired.output, HasSubstr("given back: 3"));
    EXPECT_EQ(std::filesystem::file_size(directory_ / "a.qcow"), size);
    const auto table = load_be<std::uint64_t>(bytes, 48);
    store_be<std::uint64_t>(bytes, table, load_be<std::uint64_t>(bytes, table + 8));
    write_file(directory_ / "a.qcow", bytes);
    EXPECT_EQ(img("check -q qcow:a.qcow").status, 2);
    // The cluster that lost its entry lies amidst others: qcow can't give it back.
    EXPECT_EQ(img("check -r all qcow:a.qcow").status, 3);
    EXPECT_EQ(img("check raw:none").status, 1);
}

TEST_F(DmuImg, Io) {
    good("create qcow:a.qcow 1M");
    const auto ran =
        img("io -c 'write -P 0x5a 1000 64k' -c 'read -P 0x5a 1000 64k' -c 'write -z 2k 4k' -c flush "
            "-c 'read -P 0 2048 4096' -c 'discard 0 64k' -c length -c 'read -v 0x3f0 0x20' qcow:a.qcow");
    EXPECT_EQ(ran.status, 0) << ran.output;
    EXPECT_THAT(ran.output, HasSubstr("wrote 65536/65536 bytes at offset 1000"));
    EXPECT_THAT(ran.output, HasSubstr("\n1048576\n"));
    EXPECT_THAT(ran.output, HasSubstr("000003f0:  5a 5a"));
    const auto wrong = img("io -r -c 'read -P 0x5b 1000 512' qcow:a.qcow");
    EXPECT_EQ(wrong.status, 1);
    EXPECT_THAT(wrong.output, HasSubstr("Pattern verification failed at offset 1000: 90 is there, not 91"));
    for (const char* bad : {"read 0", "read 1M 1", "write -P 256 0 512", "write -x 0 1", "frob 0 1", "read x y"})
        EXPECT_EQ(img("io -c '" + std::string(bad) + "' qcow:a.qcow").status, 1) << bad;
    EXPECT_EQ(img("io -r -c 'write 0 512' qcow:a.qcow").status, 1);
    // From standard input; an empty line is nothing.
    const auto piped = shell("printf 'write -P 7 0 512\\n\\nread -P 7 0 512\\n' | " DMU_IMG_PROGRAM " io qcow:a.qcow");
    EXPECT_EQ(piped.status, 0) << piped.output;
}

TEST_F(DmuImg, MapAndPicture) {
    good("create raw:base 1M");
    good("io -c 'write 0 1M' raw:base");
    good("create -b raw:base qcow:top.qcow 2M --cluster-size 64K");
    good("io -c 'write 128k 64k' 'qcow;backing-format=raw:top.qcow'");
    const auto json = control::Json::parse(img("map --json 'qcow;backing-format=raw:top.qcow'").output);
    ASSERT_EQ(json.size(), 4u);
    EXPECT_EQ(json[1]["start"], 131072);
    EXPECT_EQ(json[1]["length"], 65536);
    EXPECT_EQ(json[1]["depth"], 0);
    EXPECT_EQ(json[0]["depth"], 1);
    EXPECT_EQ(json[2]["offset"], 196608);
    EXPECT_EQ(json[3]["zero"], true);
    EXPECT_EQ(json[3]["length"], 1 << 20);
    EXPECT_THAT(img("map 'qcow;backing-format=raw:top.qcow'").output, HasSubstr("0x20000         0x10000"));
    good("map --svg map.svg 'qcow;backing-format=raw:top.qcow'");
    const auto svg = read_file(directory_ / "map.svg");
    const std::string text(reinterpret_cast<const char*>(svg.data()), svg.size());
    EXPECT_THAT(text, HasSubstr("raw: " + directory_ / "base"));
    EXPECT_THAT(text, HasSubstr("</svg>"));
}

TEST_F(DmuImg, ConvertLeavesNothingHalf) {
    good("create raw:a 1M");
    good("create qcow:b.qcow 1M");
    EXPECT_EQ(img("convert raw:a qcow:b.qcow").status, 1);  // exists
    EXPECT_TRUE(std::filesystem::exists(directory_ / "b.qcow"));
    EXPECT_EQ(img("convert -c raw:a raw:c").status, 0);  // nothing to write
    good("io -c 'write 0 64k' raw:a");
    const auto ran = img("convert -c raw:a raw:d");
    EXPECT_EQ(ran.status, 1);
    EXPECT_THAT(ran.output, HasSubstr("can't be written compressed"));
    EXPECT_FALSE(std::filesystem::exists(directory_ / "d"));
    write_file(directory_ / "odd", Bytes(1000));
    EXPECT_THAT(img("convert raw:odd qcow:e").output, HasSubstr("not whole sectors"));
    EXPECT_FALSE(std::filesystem::exists(directory_ / "e"));
    EXPECT_THAT(img("convert -p raw:a qcow:f").output, HasSubstr("100.0%"));
    // Into what exists: zeros are written.
    good("io -c 'write -P 3 0 1M' qcow:b.qcow");
    good("convert -n raw:a qcow:b.qcow");
    good("compare -s raw:a qcow:b.qcow");
    EXPECT_EQ(img("convert -n raw:a qcow:none").status, 1);
}

TEST_F(DmuImg, Compare) {
    good("create raw:a 1M");
    good("create qcow:b.qcow 2M");
    EXPECT_EQ(img("compare raw:a qcow:b.qcow").status, 0);
    EXPECT_EQ(img("compare -s raw:a qcow:b.qcow").status, 1);
    good("io -c 'write -P 1 1234567 1' qcow:b.qcow");
    const auto ran = img("compare qcow:b.qcow raw:a");
    EXPECT_EQ(ran.status, 1);
    EXPECT_THAT(ran.output, HasSubstr("mismatch at offset 1234567!"));
}

TEST_F(DmuImg, Resize) {
    good("create raw:base 4M");
    good("io -c 'write -P 9 0 4M' raw:base");
    good("create -b raw:base qcow:top.qcow 1M");
    const std::string top = "'qcow;backing-format=raw:top.qcow'";
    EXPECT_THAT(img("resize " + top + " 512k").output, HasSubstr("--shrink"));
    good("resize " + top + " +1M");
    // The backing file is longer, and does not show.
    good("io -r -c 'read -P 9 0 1M' -c 'read -P 0 1M 1M' -c length " + top);
    good("resize --shrink " + top + " -- -1536K");
    good("io -r -c 'read -P 9 0 512k' " + top);
    EXPECT_EQ(img("check qcow:top.qcow").status % 3, 0);
}

TEST_F(DmuImg, CommitAndRebase) {
    good("create raw:one 1M");
    good("io -c 'write -P 1 0 1M' raw:one");
    good("create raw:two 1M");
    good("io -c 'write -P 2 0 512k' -c 'write -P 1 512k 512k' raw:two");
    good("create -b raw:one qcow:top.qcow");
    const std::string top = "'qcow;backing-format=raw:top.qcow'";
    good("io -c 'write -P 7 100k 100k' " + top);
    good("rebase -b raw:two " + top);
    const std::string same = "io -r -c 'read -P 1 0 100k' -c 'read -P 7 100k 100k' -c 'read -P 1 200k 824k' ";
    good(same + top);
    // Only what differs was copied.
    EXPECT_LT(std::filesystem::file_size(directory_ / "top.qcow"), 600u * 1024);
    good("rebase " + top);
    good(same + "qcow:top.qcow");
    EXPECT_THAT(img("commit qcow:top.qcow").output, HasSubstr("has no backing file"));
    good("rebase -u -b raw:gone qcow:top.qcow");
    EXPECT_EQ(control::Json::parse(img("info --json qcow:top.qcow").output)["backing-filename"], "gone");
    good("rebase -u -b raw:two qcow:top.qcow");
    good("commit " + top);
    good(same + "raw:two");
    good("compare raw:two " + top);
    EXPECT_EQ(img("check qcow:top.qcow").status % 3, 0);
}

TEST_F(DmuImg, InUse) {
    good("create qcow:a.qcow 1M");
    const int descriptor = ::open((directory_ / "a.qcow").c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(descriptor, 0);
    ASSERT_OK(lock_image(descriptor, LockMode::exclusive, "a"));
    for (const char* command : {"io -c 'read 0 512'", "check", "check -r all", "map", "resize --shrink"}) {
        const auto ran =
            img(std::string(command) + " qcow:a.qcow" + (std::string(command).starts_with("resize") ? " 2M" : ""));
        EXPECT_EQ(ran.status, 1) << command;
        EXPECT_THAT(ran.output, HasSubstr("in use (locked)")) << command;
    }
    good("info qcow:a.qcow");
    good("check --force qcow:a.qcow");
    ::close(descriptor);
    good("check qcow:a.qcow");
}

TEST_F(DmuImg, NoSnapshotsHere) {
    good("create qcow:a.qcow 1M");
    EXPECT_THAT(img("snapshot -c one qcow:a.qcow").output, HasSubstr("have no internal snapshots"));
    EXPECT_EQ(img("snapshot -c one -d two qcow:a.qcow").status, 64);
}

// What names inside an image may reach is as for attached disks.
TEST_F(DmuImg, NamesInsideImages) {
    good("create qcow:a.qcow 1M");
    good("rebase -u -b raw:/etc/hostname qcow:a.qcow");
    const auto ran = img("convert 'qcow;backing-format=raw:a.qcow' raw:stolen");
    EXPECT_EQ(ran.status, 1);
    EXPECT_THAT(ran.output, HasSubstr("outside of what is allowed"));
    EXPECT_FALSE(std::filesystem::exists(directory_ / "stolen"));
    EXPECT_EQ(img("info --chain qcow:a.qcow").status, 1);
}

TEST_F(DmuImg, Encrypted) {
    write_file(directory_ / "key", Bytes(9, std::byte{'k'}));
    good("create raw:a 1M");
    good("io -c 'write -P 0x41 0 300k' raw:a");
    good("convert raw:a 'qcow;key-file=key:e.qcow'");
    good("compare raw:a 'qcow;key-file=key:e.qcow'");
    const auto without = img("io -r -c 'read 0 512' qcow:e.qcow");
    EXPECT_EQ(without.status, 1);
    EXPECT_THAT(without.output, HasSubstr("key-file="));
    EXPECT_THAT(img("info qcow:e.qcow").output, HasSubstr("encrypted: yes"));
    EXPECT_THAT(img("convert -c raw:a 'qcow;key-file=key:f.qcow'").output, HasSubstr("would not be encrypted"));
    good("convert -o encryption=luks,key-file=key,iter_time=10 raw:a qcow2:l.qcow2");
    good("compare raw:a 'qcow2;key-file=key:l.qcow2'");
    good("check qcow2:l.qcow2");
    EXPECT_THAT(img("info qcow2:l.qcow2").output, HasSubstr("encrypted: yes"));
    EXPECT_THAT(img("io -r -c 'read 0 512' qcow2:l.qcow2").output, HasSubstr("key-file="));
    EXPECT_EQ(img("convert -c -o encryption=luks,key-file=key,iter_time=10 raw:a qcow2:c.qcow2").status, 1);
    EXPECT_FALSE(std::filesystem::exists(directory_ / "c.qcow2"));
    const auto raw = read_file(directory_ / "e.qcow");
    const Bytes plain(32, std::byte{0x41});
    EXPECT_EQ(std::search(raw.begin(), raw.end(), plain.begin(), plain.end()), raw.end());
}

}  // namespace
}  // namespace dmu
