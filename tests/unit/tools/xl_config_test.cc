// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/xl_config.h"

#include <gmock/gmock.h>

#include "tools/lib/text_file.h"

namespace dmu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> disks(const std::string& text) {
    const auto list = parse_disk_list(text, "guest.cfg");
    EXPECT_TRUE(list) << list.error().message;
    return list && *list ? **list : std::vector<std::string>{"(none)"};
}

TEST(XlConfig, ReadsTheDiskList) {
    EXPECT_THAT(disks("name = 'a'\ndisk = ['dmu:qcow:/vm/disk.qcow,xvda,w']\n"),
                ElementsAre("dmu:qcow:/vm/disk.qcow,xvda,w"));
    EXPECT_THAT(disks("disk=['a',\n # comment, 'x'\n 'b']\n"), ElementsAre("a", "b"));
    EXPECT_THAT(disks("disk=['a']\ndisk=['b']\n"), ElementsAre("b"));
    EXPECT_THAT(disks("disk=['a']\ndisk+=['b']\n"), ElementsAre("a", "b"));
    EXPECT_THAT(disks("disk=[]\n"), ElementsAre());
    EXPECT_THAT(disks("memory=3\n"), ElementsAre("(none)"));
}

TEST(XlConfig, SaysWhatItDoesNotUnderstand) {
    const auto python = parse_disk_list("import os\ndisk = ['a' % vmid]\n", "guest.cfg");
    ASSERT_FALSE(python);
    EXPECT_EQ(python.error().code, Code::invalid);
    EXPECT_THAT(python.error().message, HasSubstr("guest.cfg:1"));
    EXPECT_THAT(python.error().message, HasSubstr("Python"));
    const auto text = parse_disk_list("disk = 'a'\n", "guest.cfg");
    ASSERT_FALSE(text);
    EXPECT_THAT(text.error().message, HasSubstr("no list"));
    EXPECT_FALSE(parse_disk_list("disk = [['a']]\n", "guest.cfg"));
}

// What is quoted reads back as it was, by xl's own parser.
TEST(XlConfig, QuotesForItsParser) {
    const std::vector<std::string> nasty{"plain",     "it's \"quoted\"", "back\\slash\\", "a;b=[c],#d", "Übung диск",
                                         "tab\there", "line\nbreak",     "\x01\x7f",      " ",          ""};
    EXPECT_EQ(disks(disk_assignment(nasty) + "\n"), nasty);
    std::string single = "disk=[";
    for (const auto& entry : nasty) single += quote_for_xl(entry, '\'') + ",";
    EXPECT_EQ(disks(single + "]\n"), nasty);
    EXPECT_EQ(disk_assignment({"a", "b"}), "disk=[\"a\",\"b\"]");
}

TEST(XlConfig, ReadsFiles) {
    const auto missing = read_text_file("/nowhere/guest.cfg");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, Code::not_found);
    EXPECT_THAT(missing.error().message, HasSubstr("/nowhere/guest.cfg"));
    EXPECT_FALSE(read_text_file("/"));
}

}  // namespace
}  // namespace dmu
