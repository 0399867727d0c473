// SPDX-License-Identifier: GPL-2.0-or-later
// Every rule of a descriptor, and what of it is read in which form.
#include "formats/vmdk/descriptor.h"

#include "tests/unit/formats/vmdk_support.h"

namespace dmu::vmdk {
namespace {

Result<Descriptor> parse(const std::string& text, Kept kept = Kept::file) {
    return parse_descriptor(text, kept, "d");
}

TEST(VmdkDescriptor, AnyCaseAnySpaces) {
    const auto made = parse(
        "# disk descriptorfile\r\nVERSION = 1\r\n  cid=00aBcDeF\r\nPARENTcid=fffffffe\r\nCreateType=\"x\"\r\n"
        "parentfilenamehint = \"a = b.vmdk\"\r\nENCODING=\"GBK\"\r\n"
        "\trw 10 flat \"a name\" 7\r\nNoAccess 5 SPARSE \"b\"\r\nRDONLY 3 zero\nRW 4 VMFS \"c\"");
    ASSERT_OK(made);
    EXPECT_EQ(made->cid, 0xabcdefu);
    EXPECT_EQ(made->text.substr(made->cid_at, made->cid_digits), "00aBcDeF");
    EXPECT_EQ(made->parent_cid, 0xfffffffeu);
    EXPECT_EQ(made->parent_name, "a = b.vmdk");
    EXPECT_EQ(made->encoding, "GBK");
    ASSERT_EQ(made->extents.size(), 4u);
    EXPECT_EQ(made->extents[0].name, "a name");
    EXPECT_EQ(made->extents[0].at_sector, 7u);
    EXPECT_EQ(made->extents[1].access, Access::none);
    EXPECT_EQ(made->extents[2].type, ExtentType::zero);
    EXPECT_EQ(made->extents[2].access, Access::read_only);
    EXPECT_EQ(made->extents[3].type, ExtentType::vmfs);
}

// Where the parser found the size, whatever stands around it.
TEST(VmdkDescriptor, AnotherSize) {
    const std::string head = "version=1\nCID=1\nparentCID=ffffffff\n# RW 3 ZERO\nRDONLY 5 ZERO\n";
    for (const auto* line :
         {"RW 11 ZERO\n", "\trw\t 11\tzero\r\n", "rw \r11 zero", "RW 11 SPARSE \"RW 11 SPARSE\"\n"}) {
        for (const auto kept : {Kept::file, Kept::embedded}) {
            const auto before = parse(head + line, kept);
            ASSERT_OK(before);
            const auto text = with_sectors(*before, 123456);
            std::string want = head + line;
            EXPECT_EQ(text, want.replace(want.find("11", head.size()), 2, "123456"));
            ASSERT_OK(parse(text, kept));
        }
    }
    const auto nothing = parse("version=1\nCID=1\nparentCID=ffffffff\nRW SPARSE\n", Kept::embedded);
    ASSERT_OK(nothing);
    EXPECT_EQ(with_sectors(*nothing, 9), nothing->text);
}

TEST(VmdkDescriptor, EveryRule) {
    const std::string good = "version=1\nCID=1\nparentCID=ffffffff\nRW 1 ZERO\n";
    ASSERT_OK(parse(good));
    const struct {
        std::string text;
        Code code;
        const char* message;
    } rules[] = {
        {"CID=1\nRW 1 ZERO\n", Code::corrupt, "says no version"},
        {"version=x\n" + good, Code::corrupt, "line 1 holds a version that is no number"},
        {"version=0\n" + good, Code::unsupported, "version 0"},
        {"version=5\n" + good, Code::unsupported, "version 5"},
        {"version=1\nRW 1 ZERO\n", Code::corrupt, "holds no CID"},
        {good + "CID=2\n", Code::corrupt, "line 5 holds a second cid"},
        {good + "parentCID=2\n", Code::corrupt, "second parentcid"},
        {"version=1\nCID=\n", Code::corrupt, "not 1 to 8 hexadecimal"},
        {"version=1\nCID=123456789\n", Code::corrupt, "not 1 to 8 hexadecimal"},
        {"version=1\nCID=12g\n", Code::corrupt, "not 1 to 8 hexadecimal"},
        {"version=1\nCID=-1\n", Code::corrupt, "not 1 to 8 hexadecimal"},
        {"version=1\nCID=1\nparentCID=2\nRW 1 ZERO\n", Code::corrupt, "no parentFileNameHint"},
        {"version=1\nCID=1\n", Code::corrupt, "lists no extents"},
        {good + "nonsense\n", Code::corrupt, "line 5 is neither"},
        {good + "RW\n", Code::corrupt, "without size and type"},
        {good + "RW 5\n", Code::corrupt, "without size and type"},
        {good + "RW 0 ZERO\n", Code::corrupt, "no number of sectors"},
        {good + "RW -1 ZERO\n", Code::corrupt, "no number of sectors"},
        {good + "RW 18446744073709551616 ZERO\n", Code::corrupt, "no number of sectors"},
        {good + "RW 18446744073709551615 ZERO\n", Code::corrupt, "too large"},
        {good + "RW 70368744177664 ZERO\n", Code::corrupt, "too large"},
        {good + "RW 5 VMFSRDM \"x\"\n", Code::unsupported, "type 'vmfsrdm'"},
        {good + "RW 5 SPARSE\n", Code::corrupt, "without a file"},
        {good + "RW 5 SPARSE \"\"\n", Code::corrupt, "without a file"},
        {good + "RW 5 SPARSE \"x\n", Code::corrupt, "quote that is not closed"},
        {good + "RW 5 FLAT \"x\"\n", Code::corrupt, "without the place"},
        {good + "RW 5 FLAT \"x\" y\n", Code::corrupt, "no number of a sector"},
        {good + "RW 5 FLAT \"x\" 18446744073709551615\n", Code::corrupt, "no number of a sector"},
        {std::string(max_descriptor_bytes + 1, '#'), Code::unsupported, "more than 2 MiB"},
    };
    for (const auto& rule : rules) EXPECT_TRUE(fails_with(parse(rule.text), rule.code, rule.message)) << rule.message;
    std::string many = good;
    for (std::size_t i = 0; i < max_extents; i++) many += "RW 1 ZERO\n";
    EXPECT_TRUE(fails_with(parse(many), Code::unsupported, "one extent more than"));
}

TEST(VmdkDescriptor, EmbeddedExtentsCountForNothing) {
    const auto made = parse("whatever this is\nversion=1\nCID=1\nRW nonsense\nmore nonsense\n", Kept::embedded);
    ASSERT_OK(made);
    EXPECT_TRUE(made->extents.empty());
}

TEST(VmdkDescriptor, ParentsComeAndGo) {
    const auto made = parse("version=1\nCID=12\nparentCID=ffffffff\nddb.x = \"1\"\nRW 1 ZERO\n");
    ASSERT_OK(made);
    const auto child = parse(with_parent(*made, Parent{0xab, "p.vmdk"}));
    ASSERT_OK(child);
    EXPECT_EQ(child->parent_cid, 0xabu);
    EXPECT_EQ(child->parent_name, "p.vmdk");
    EXPECT_NE(child->text.find("ddb.x"), std::string::npos);
    EXPECT_EQ(child->extents.size(), 1u);
    const auto orphan = parse(with_parent(*child, std::nullopt));
    ASSERT_OK(orphan);
    EXPECT_EQ(orphan->parent_cid, no_parent);
    EXPECT_EQ(orphan->parent_name, "");
}

TEST(VmdkDescriptor, TheNextCid) {
    for (const char* cid : {"f", "ff", "12345678", "fffffffd"}) {
        const auto made = parse(std::string("version=1\nRW 1 ZERO\nCID=") + cid + "\n");
        ASSERT_OK(made);
        for (int i = 0; i < 200; i++) {
            const auto next = next_cid(*made);
            ASSERT_EQ(next.size(), made->cid_digits);
            ASSERT_NE(next, cid);
            ASSERT_NE(std::stoul(next, nullptr, 16), 0u);
        }
    }
}

}  // namespace
}  // namespace dmu::vmdk
