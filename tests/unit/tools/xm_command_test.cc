// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/xm_command.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

namespace dmu {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class XmCreate : public ::testing::Test {
protected:
    XmCreate() : file_(::testing::TempDir() + "xm " + std::to_string(getpid()) + ".cfg") {}
    ~XmCreate() override { std::filesystem::remove(file_); }
    void config(const std::string& text) { std::ofstream(file_) << text; }

    std::string file_;
    const std::string ours_ = R"(disk=["vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow"])";
};

Words run(const Words& words) {
    const auto result = xl_command(words);
    EXPECT_TRUE(result) << result.error().message;
    return result ? *result : Words{};
}

TEST_F(XmCreate, AddsTheTranslatedList) {
    config("name='a'\ndisk = ['dmu:qcow:/vm/disk.qcow,xvda,w']\n");
    EXPECT_THAT(run({"create", file_}), ElementsAre("create", file_, ours_));
    EXPECT_THAT(run({"create", "-c", "-q", file_, "memory=3"}),
                ElementsAre("create", "-c", "-q", file_, "memory=3", ours_));
    EXPECT_THAT(run({"create", "-f", file_}), ElementsAre("create", "-f", file_, ours_));
    EXPECT_THAT(run({"create", "-f" + file_}), ElementsAre("create", "-f" + file_, ours_));
    EXPECT_THAT(run({"create", "--defconfig=" + file_}), ElementsAre("create", "--defconfig=" + file_, ours_));
    EXPECT_THAT(run({"create", "--defconfig", file_}), ElementsAre("create", "--defconfig", file_, ours_));
}

TEST_F(XmCreate, KeepsTheOtherDisks) {
    config("disk = ['phy:/dev/a,xvdb,w', 'dmu:raw:/a \"b\",xvda,r']\n");
    EXPECT_THAT(run({"create", file_}),
                ElementsAre("create", file_,
                            R"(disk=["phy:/dev/a,xvdb,w","vdev=xvda,access=r,script=block-dmu,target=raw:/a \"b\""])"));
}

TEST_F(XmCreate, AsksForNothingWithoutNeed) {
    for (const char* text : {"name='a'\n", "disk=['phy:/dev/a,xvdb,w']\n",
                             "disk=['vdev=xvda,access=w,script=block-dmu,target=qcow:/p']", "disk=[]\n"}) {
        config(text);
        EXPECT_THAT(run({"create", file_, "a='b'"}), ElementsAre("create", file_, "a='b'"));
    }
}

TEST_F(XmCreate, TakesDisksOfTheCommandLine) {
    config("disk = ['phy:/dev/a,xvdb,w']\n");
    EXPECT_THAT(run({"create", file_, "disk=['dmu:qcow:/vm/disk.qcow,xvda,w']"}).back(), ours_);
    config("disk = ['dmu:qcow:/vm/disk.qcow,xvda,w']\n");
    EXPECT_THAT(run({"create", file_, "disk=['phy:/dev/a,xvda,w']"}).size(), 3u);
    EXPECT_EQ(run({"create", file_, "disk+=['dmu:raw:/b,xvdb,r']"}).back(),
              R"(disk=["vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow",)"
              R"("vdev=xvdb,access=r,script=block-dmu,target=raw:/b"])");
}

TEST_F(XmCreate, SaysWhatIsWrong) {
    const auto missing = xl_command({"create", "/nowhere/a.cfg"});
    ASSERT_FALSE(missing);
    EXPECT_THAT(missing.error().message, HasSubstr("/nowhere/a.cfg"));
    config("disk = ['dmu:qcow:%s,xvda,w' % path]\n");
    const auto python = xl_command({"create", file_});
    ASSERT_FALSE(python);
    EXPECT_THAT(python.error().message, HasSubstr("Python"));
    config("disk = ['dmu:qcow:/p,xvda']\n");
    const auto entry = xl_command({"create", file_});
    ASSERT_FALSE(entry);
    EXPECT_THAT(entry.error().message, HasSubstr(file_));
}

TEST_F(XmCreate, LeavesHelpAndStandardInputToXl) {
    EXPECT_THAT(run({"create", "--help"}), ElementsAre("create", "--help"));
    EXPECT_THAT(run({"create", "-"}), ElementsAre("create", "-"));
    EXPECT_THAT(run({"create"}), ElementsAre("create"));
}

TEST(XmBlock, Attaches) {
    const std::string ours = "vdev=xvda,access=w,script=block-dmu,target=qcow:/p";
    EXPECT_THAT(run({"block-attach", "dom", "dmu:qcow:/p", "xvda", "w"}), ElementsAre("block-attach", "dom", ours));
    EXPECT_THAT(run({"block-attach", "dom", "dmu:qcow:/p,xvda,w"}), ElementsAre("block-attach", "dom", ours));
    EXPECT_THAT(
        run({"block-attach", "-d", "dom", "dmu:qcow:/p", "xvda", "r", "storage"}),
        ElementsAre("block-attach", "-d", "dom", "vdev=xvda,access=r,script=block-dmu,backend=storage,target=qcow:/p"));
    for (const Words& words :
         {Words{"block-attach", "dom", "phy:/dev/a", "xvda", "w"}, Words{"block-attach", "dom", "phy:/dev/a,xvda,w"},
          Words{"block-attach", "dom"}, Words{"block-attach", "dom", ours}, Words{"block-attach", "--help"}})
        EXPECT_THAT(run(words), ElementsAreArray(words));
    EXPECT_FALSE(xl_command({"block-attach", "dom", "dmu:qcow:/p", "xvda"}));
    EXPECT_FALSE(xl_command({"block-attach", "dom", "dmu:qcow:/p", "xvda", "q"}));
    EXPECT_FALSE(xl_command({"block-attach", "dom", "dmu:qcow:/p"}));
}

TEST(XmBlock, Detaches) {
    EXPECT_THAT(run({"block-detach", "dom", "xvda"}), ElementsAre("block-detach", "dom", "xvda"));
    EXPECT_THAT(run({"block-detach", "dom", "xvda", "-f"}), ElementsAre("block-detach", "--force", "dom", "xvda"));
    EXPECT_THAT(run({"block-detach", "--force", "dom", "xvda"}), ElementsAre("block-detach", "--force", "dom", "xvda"));
}

TEST(XmOther, GoesToXl) {
    const Words words{"list", "-l", "dmu:qcow:/p", "disk=['dmu:raw:/a,xvda,w']"};
    EXPECT_THAT(run(words), ElementsAreArray(words));
    EXPECT_THAT(run({}), ElementsAre());
}

}  // namespace
}  // namespace dmu
