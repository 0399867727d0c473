// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/disk_entry.h"

#include <gmock/gmock.h>

namespace dmu {
namespace {

using ::testing::HasSubstr;

struct Case {
    const char* entry;
    const char* expected;  // nullptr: unchanged
};

class Translates : public ::testing::TestWithParam<Case> {};

TEST_P(Translates, Entry) {
    const auto [entry, expected] = GetParam();
    const auto result = translate_disk(entry);
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->text, expected ? expected : entry);
    EXPECT_EQ(result->changed, expected != nullptr);
    // What comes out is what xl takes: a second time changes nothing.
    const auto again = translate_disk(result->text);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again->text, result->text);
    EXPECT_FALSE(again->changed);
}

INSTANTIATE_TEST_SUITE_P(
    OldSpelling, Translates,
    ::testing::Values(
        Case{"dmu:qcow:/vm/disk.qcow,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow"},
        Case{"dmu:qcow:/vm/disk.qcow,xvda,r", "vdev=xvda,access=r,script=block-dmu,target=qcow:/vm/disk.qcow"},
        Case{"dmu:raw:/dev/vg/lv,xvdb1,rw", "vdev=xvdb1,access=w,script=block-dmu,target=raw:/dev/vg/lv"},
        Case{"dmu:raw:/a,sda,ro", "vdev=sda,access=r,script=block-dmu,target=raw:/a"},
        Case{"phy:dmu:raw:/a,hda,w", "vdev=hda,access=w,script=block-dmu,target=raw:/a"},
        Case{"  dmu:raw:/a , xvda , w ", "vdev=xvda,access=w,script=block-dmu,target=raw:/a "},
        Case{"dmu:raw:/a,ioemu:hda,w", "vdev=hda,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,xvda:disk,w", "vdev=xvda,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,/dev/xvda,w", "vdev=xvda,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,51712,w", "vdev=51712,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,d0p1,w", "vdev=d0p1,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,xvda,w,storage", "vdev=xvda,access=w,script=block-dmu,backend=storage,target=raw:/a"},
        Case{"dmu:raw:/a,xvda,w,discard", "vdev=xvda,access=w,script=block-dmu,discard,target=raw:/a"},
        Case{"dmu:raw:/a,xvda,w,no-discard,direct-io-safe",
             "vdev=xvda,access=w,script=block-dmu,no-discard,direct-io-safe,target=raw:/a"},
        Case{"dmu:raw:/a,xvda,w,script=block-dmu", "vdev=xvda,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=raw:/a"},
        Case{"dmu:raw:/a,raw,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=raw:/a"}));

INSTANTIATE_TEST_SUITE_P(
    Paths, Translates,
    ::testing::Values(
        Case{"dmu:qcow:/vm/a disk.qcow,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a disk.qcow"},
        Case{"dmu:qcow:/vm/a,b,,c,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a,b,,c"},
        Case{"dmu:qcow:/vm/xvda,w,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/xvda,w"},
        Case{"dmu:qcow:/vm/a:b:c,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a:b:c"},
        Case{"dmu:qcow:/vm/it's \"q\",xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/it's \"q\""},
        Case{"dmu:qcow:/vm/Übung/диск,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/Übung/диск"},
        Case{"dmu:qcow:/vm/a=b,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a=b"},
        Case{"dmu:qcow:/vm/\\back,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/\\back"},
        Case{"dmu:qcow:/vm/target=x,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/target=x"},
        Case{"dmu:qcow;on-full=error:/a,xvda,w", "vdev=xvda,access=w,script=block-dmu,target=qcow;on-full=error:/a"},
        // xl's own form, but xl takes "/vm/a=b" for a key, and the comma for the end.
        Case{"dmu:qcow:/vm/a=b,,xvda,w,script=block-dmu", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a=b"},
        Case{"dmu:qcow:/vm/a,b,,xvda,w,script=block-dmu", "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a,b"}));

INSTANTIATE_TEST_SUITE_P(Keys, Translates,
                         ::testing::Values(Case{"vdev=xvda,access=w,target=dmu:qcow:/a,b",
                                                "vdev=xvda,access=w,script=block-dmu,target=qcow:/a,b"},
                                           Case{"target=dmu:qcow:/a", "script=block-dmu,target=qcow:/a"},
                                           Case{"vdev=xvda, access=w, target=dmu:qcow:/a",
                                                "vdev=xvda, access=w,script=block-dmu,target=qcow:/a"}));

INSTANTIATE_TEST_SUITE_P(
    LeavesAlone, Translates,
    ::testing::Values(Case{"vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow", nullptr},
                      Case{"vdev=xvda,access=w,script=block-dmu,target=dmu:qcow:/vm/disk.qcow", nullptr},
                      Case{"dmu:qcow:/vm/disk.qcow,,xvda,w,script=block-dmu", nullptr},
                      Case{"dmu:qcow:/vm/disk.qcow,raw,xvda,w,script=block-dmu", nullptr},
                      Case{"phy:dmu:qcow:/vm/disk.qcow,,xvda,w,script=/etc/xen/scripts/block-dmu", nullptr},
                      Case{"dmu:qcow:/p,,xvda,w,script=block-other", nullptr},
                      Case{"phy:/dev/vg/lv,xvda,w", nullptr},  //
                      Case{"file:/vm/dmu:x,xvda,w", nullptr},  //
                      Case{"/vm/a.qcow2,qcow2,xvda,rw", nullptr},
                      Case{"format=qcow2,vdev=xvda,access=rw,target=/vm/dmu:a", nullptr},
                      Case{"qcow:/p,xvda,w", nullptr},  //
                      Case{"", nullptr}));

struct Refusal {
    const char* entry;
    const char* cause;
};
class Refuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refuses, Entry) {
    const auto result = translate_disk(GetParam().entry);
    ASSERT_FALSE(result) << result->text;
    EXPECT_EQ(result.error().code, Code::invalid);
    EXPECT_THAT(result.error().message, HasSubstr(GetParam().cause));
    EXPECT_THAT(result.error().message, HasSubstr(GetParam().entry));
}

INSTANTIATE_TEST_SUITE_P(
    Entries, Refuses,
    ::testing::Values(Refusal{"dmu:qcow:/p", "expected dmu:FORMAT:PATH,VDEV,MODE"},
                      Refusal{"dmu:qcow:/p,xvda", "the mode is missing"}, Refusal{"dmu:qcow:/p,disk1,w", "expected"},
                      Refusal{"dmu:qcow:/p,xvda,x", "expected"}, Refusal{"dmu:qcow:/p,xvda,w!", "two writers"},
                      Refusal{"dmu:/p,xvda,w", "it names no format"}, Refusal{"dmu:qcow:,xvda,w", "the path is empty"},
                      Refusal{"dmu:qcow:disk.qcow,xvda,w", "relative"}, Refusal{"dmu:qcow:/a\nb,xvda,w", "newline"},
                      Refusal{"dmu:qcow:/p,hdc:cdrom,r", "CD-ROM"}, Refusal{"dmu:QCOW:/p,xvda,w", "name of a format"},
                      Refusal{"target=dmu:/p", "names no format"}));

TEST(TranslatesWords, OfBlockAttach) {
    const auto result = translate_disk_words("dmu:qcow:/vm/a,b c", "xvda", "w", "");
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(*result, "vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/a,b c");
    const auto backend = translate_disk_words("phy:dmu:raw:/a", "xvdb", "r", "storage");
    ASSERT_TRUE(backend);
    EXPECT_EQ(*backend, "vdev=xvdb,access=r,script=block-dmu,backend=storage,target=raw:/a");
    EXPECT_FALSE(translate_disk_words("dmu:qcow:/a", "disk", "w", ""));
    EXPECT_FALSE(translate_disk_words("dmu:qcow:/a", "xvda", "", ""));
}

TEST(TranslatesLists, AndSaysWhetherAnythingChanged) {
    const auto same = translate_disks({"phy:/dev/a,xvda,w"});
    ASSERT_TRUE(same);
    EXPECT_FALSE(same->changed);
    const auto mixed = translate_disks({"phy:/dev/a,xvda,w", "dmu:raw:/b,xvdb,r"});
    ASSERT_TRUE(mixed);
    EXPECT_TRUE(mixed->changed);
    EXPECT_THAT(mixed->entries,
                ::testing::ElementsAre("phy:/dev/a,xvda,w", "vdev=xvdb,access=r,script=block-dmu,target=raw:/b"));
    EXPECT_FALSE(translate_disks({"phy:/dev/a,xvda,w", "dmu:raw:/b"}));
}

}  // namespace
}  // namespace dmu
