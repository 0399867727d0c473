// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/config_rewrite.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tools/lib/text_file.h"

namespace dmu {
namespace {

using ::testing::HasSubstr;

constexpr char old_text[] = R"(# a guest; disk = ['dmu:raw:/no,xvda,w']
name   = "a #1"
memory=512

disk = [
    'dmu:qcow:/vm/it\'s.qcow,xvda,w',   # root
	"phy:/dev/vg/swap,xvdb,w",          # swap
    "dmu:qcow:/vm/a \"b\",c.qcow,xvdc,r",
]   # end
extra = "disk=['dmu:raw:/no,xvda,w']"
)";

constexpr char new_text[] = R"(# a guest; disk = ['dmu:raw:/no,xvda,w']
name   = "a #1"
memory=512

disk = [
    'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/it\'s.qcow',   # root
	"phy:/dev/vg/swap,xvdb,w",          # swap
    "vdev=xvdc,access=r,script=block-dmu,target=qcow:/vm/a \"b\",c.qcow",
]   # end
extra = "disk=['dmu:raw:/no,xvda,w']"
)";

std::string rewritten(const std::string& text) {
    const auto result = rewrite_config(text, "guest.cfg");
    EXPECT_TRUE(result) << result.error().message;
    return result ? result->text : "";
}

TEST(Rewrite, KeepsAllButTheDisks) {
    const auto result = rewrite_config(old_text, "guest.cfg");
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->text, new_text);
    EXPECT_EQ(result->changed, 2u);
}

TEST(Rewrite, ChangesNothingASecondTime) {
    const auto result = rewrite_config(new_text, "guest.cfg");
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->text, new_text);
    EXPECT_EQ(result->changed, 0u);
}

TEST(Rewrite, KnowsXlsSyntax) {
    const std::string to = "vdev=xvda,access=w,script=block-dmu,target=raw:/a";
    EXPECT_EQ(rewritten("a=1;disk=['dmu:raw:/a,xvda,w'];b=2\n"), "a=1;disk=['" + to + "'];b=2\n");
    EXPECT_EQ(rewritten("disk=[]\ndisk += ['dmu:raw:/a,xvda,w']\n"), "disk=[]\ndisk += ['" + to + "']\n");
    EXPECT_EQ(rewritten("vif=['dmu:raw:/a,xvda,w']\n"), "vif=['dmu:raw:/a,xvda,w']\n");
    EXPECT_EQ(rewritten("disks=['dmu:raw:/a,xvda,w']\n"), "disks=['dmu:raw:/a,xvda,w']\n");
    EXPECT_EQ(rewritten(""), "");
    EXPECT_EQ(rewritten("disk=['dmu:raw:/a,xvda,w']"), "disk=['" + to + "']");
}

// xl 4.17 loses the character of an octal escape: nothing is rewritten to what it was not.
TEST(Rewrite, ChangesNothingThatXlReadsOtherwise) {
    const auto result = rewrite_config("disk=['dmu:raw:/\\141b,xvda,w']\n", "guest.cfg");
    if (result)
        EXPECT_EQ(result->text, "disk=['vdev=xvda,access=w,script=block-dmu,target=raw:/ab']\n");
    else
        EXPECT_THAT(result.error().message, HasSubstr("by hand"));
}

TEST(Rewrite, SaysWhatIsWrongWhere) {
    const auto entry = rewrite_config("disk=['dmu:raw:/a,xvda']\n", "guest.cfg");
    ASSERT_FALSE(entry);
    EXPECT_THAT(entry.error().message, HasSubstr("guest.cfg"));
    EXPECT_THAT(entry.error().message, HasSubstr("mode is missing"));
    const auto python = rewrite_config("disk=['dmu:raw:/%d,xvda,w' % 3]\n", "guest.cfg");
    ASSERT_FALSE(python);
    EXPECT_THAT(python.error().message, HasSubstr("Python"));
}

TEST(Diff, ShowsLinesWithContext) {
    EXPECT_EQ(unified_diff("a\n", "a\n", "f"), "");
    EXPECT_EQ(unified_diff("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nX\n6\n7\n8\n9\n", "f"),
              "--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+X\n 6\n 7\n 8\n");
    EXPECT_EQ(unified_diff("a", "b", "f"),
              "--- f\n+++ f\n@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n");
    std::string before, after;
    for (int i = 0; i < 30; ++i) {
        before += std::to_string(i) + "\n";
        after += (i == 2 || i == 3 || i == 25 ? "x" : std::to_string(i)) + "\n";
    }
    const auto two = unified_diff(before, after, "f");
    EXPECT_THAT(two, HasSubstr("@@ -1,7 +1,7 @@\n 0\n 1\n-2\n-3\n+x\n+x\n 4\n"));
    EXPECT_THAT(two, HasSubstr("@@ -23,7 +23,7 @@\n"));
}

class ReplaceFile : public ::testing::Test {
protected:
    ReplaceFile() {
        std::string path = ::testing::TempDir() + "replace.XXXXXX";
        directory_ = mkdtemp(path.data());
        std::ofstream(directory_ / "f") << "old";
    }
    ~ReplaceFile() override { std::filesystem::remove_all(directory_); }
    std::string text(const char* name) { return *read_text_file(directory_ / name); }

    std::filesystem::path directory_;
};

TEST_F(ReplaceFile, KeepsModeAndBackup) {
    chmod((directory_ / "f").c_str(), 0640);
    ASSERT_TRUE(replace_file(directory_ / "f", "new", ".orig"));
    EXPECT_EQ(text("f"), "new");
    EXPECT_EQ(text("f.orig"), "old");
    struct stat info;
    ASSERT_EQ(stat((directory_ / "f").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0640u);
    ASSERT_TRUE(replace_file(directory_ / "f", "newer", ".orig"));
    EXPECT_EQ(text("f.orig"), "new");
}

TEST_F(ReplaceFile, FollowsSymbolicLinksAndLeavesNothing) {
    std::filesystem::create_symlink("f", directory_ / "link");
    ASSERT_TRUE(replace_file(directory_ / "link", "new", ""));
    EXPECT_TRUE(std::filesystem::is_symlink(directory_ / "link"));
    EXPECT_EQ(text("f"), "new");
    EXPECT_FALSE(replace_file(directory_ / "missing", "new", ""));
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), {}), 2);
}

}  // namespace
}  // namespace dmu
