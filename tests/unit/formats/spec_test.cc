// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/spec.h"

#include "tests/unit/formats/support.h"

namespace dmu {
namespace {

TEST(Spec, FormatAndPath) {
    const auto spec = parse_spec("qcow:/vm/disk.qcow");
    ASSERT_OK(spec);
    EXPECT_EQ(spec->format, "qcow");
    EXPECT_EQ(spec->path, "/vm/disk.qcow");
    EXPECT_TRUE(spec->options.empty());
    EXPECT_EQ(spec->text(), "qcow:/vm/disk.qcow");
}

TEST(Spec, ToolstackPrefix) {
    const auto spec = parse_spec("dmu:qcow:/vm/disk.qcow");
    ASSERT_OK(spec);
    EXPECT_EQ(spec->text(), "qcow:/vm/disk.qcow");
}

TEST(Spec, Options) {
    const auto spec = parse_spec("qcow;backing-format=qcow,raw;x=:/p");
    ASSERT_OK(spec);
    ASSERT_EQ(spec->options.size(), 2u);
    EXPECT_EQ(spec->options[0], (std::pair<std::string, std::string>("backing-format", "qcow,raw")));
    EXPECT_EQ(spec->options[1], (std::pair<std::string, std::string>("x", "")));
    EXPECT_EQ(spec->text(), "qcow;backing-format=qcow,raw;x=:/p");
}

TEST(Spec, PathsHoldAnything) {
    for (const std::string path :
         {"/a b", "/a,b", "/a:b", "a:b;c=d", "/it's \"x\"", "/\xc3\xa4\xe2\x82\xac", "/\xff\xfe", "/a\nb", "dmu:x"}) {
        const auto spec = parse_spec("dmu:raw:" + path);
        ASSERT_OK(spec);
        EXPECT_EQ(spec->path, path);
        const auto again = parse_spec(spec->text());
        ASSERT_OK(again);
        EXPECT_EQ(again->path, path);
    }
}

TEST(Spec, Refusals) {
    EXPECT_TRUE(fails_with(parse_spec("/vm/disk.qcow"), Code::invalid, "names no format"));
    EXPECT_TRUE(fails_with(parse_spec(""), Code::invalid, "names no format"));
    EXPECT_TRUE(fails_with(parse_spec("/vm/a:b"), Code::invalid, "not the name of a format"));
    EXPECT_TRUE(fails_with(parse_spec(":/p"), Code::invalid, "not the name of a format"));
    EXPECT_TRUE(fails_with(parse_spec("qcow:"), Code::invalid, "path is empty"));
    EXPECT_TRUE(fails_with(parse_spec("qcow;x:/p"), Code::invalid, "option 'x' is not key=value"));
    EXPECT_TRUE(fails_with(parse_spec("qcow;:/p"), Code::invalid, "is not key=value"));
    EXPECT_TRUE(fails_with(parse_spec(std::string("qcow:/a\0b", 9)), Code::invalid, "NUL"));
}

TEST(Errors, CodesAndNumbers) {
    EXPECT_EQ(system_error("x", ENOSPC).code, Code::no_space);
    EXPECT_EQ(system_error("x", EDQUOT).code, Code::no_space);
    EXPECT_EQ(system_error("x", ENOENT).code, Code::not_found);
    EXPECT_EQ(system_error("x", EACCES).code, Code::denied);
    EXPECT_EQ(system_error("x", EBUSY).code, Code::busy);
    EXPECT_EQ(system_error("x", EIO).code, Code::io);
    EXPECT_EQ((Error{Code::no_space, ""}.to_errno()), ENOSPC);
    EXPECT_EQ((Error{Code::corrupt, ""}.to_errno()), EIO);
    EXPECT_EQ((Error{Code::io, "y"}.in("x").message), "x: y");
}

TEST(Endian, BothWays) {
    Bytes raw(16);
    store_be<std::uint64_t>(raw, 1, 0x0102030405060708);
    EXPECT_EQ(raw[1], std::byte{1});
    EXPECT_EQ(raw[8], std::byte{8});
    EXPECT_EQ(load_be<std::uint64_t>(raw, 1), 0x0102030405060708u);
    EXPECT_EQ(load_be<std::uint32_t>(raw, 1), 0x01020304u);
    EXPECT_EQ(load_be<std::uint16_t>(raw, 7), 0x0708u);
    EXPECT_EQ(load_be<std::uint8_t>(raw, 3), 3u);
}

}  // namespace
}  // namespace dmu
