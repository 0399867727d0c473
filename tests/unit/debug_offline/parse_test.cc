// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/parse.h"

#include <gmock/gmock.h>

#include <cerrno>

namespace dmu::debug {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using namespace std::chrono_literals;

TEST(Parse, RangesInSectorsAndBytes) {
    EXPECT_EQ(*parse_range("2048+8"), (Range{2048, 8}));
    EXPECT_EQ(*parse_range("2048-2055"), (Range{2048, 8}));
    EXPECT_EQ(*parse_range("1M+64K"), (Range{2048, 128}));
    EXPECT_EQ(*parse_range("4k+512B"), (Range{8, 1}));
    EXPECT_EQ(*parse_range("3"), (Range{3, 1}));
    for (const char* wrong : {"", "x+1", "1+", "+1", "5+0", "9-5", "-5", "1000B+1", "1+2+3", "18446744073709551615+1",
                              "18446744073709551616", "1+18446744073709551615"}) {
        const auto range = parse_range(wrong);
        ASSERT_FALSE(range) << wrong;
        EXPECT_THAT(range.error().message, StartsWith("'" + std::string(wrong) + "' is not a range"));
    }
}

TEST(Parse, SpansOfNumbersAndSizes) {
    EXPECT_EQ(*parse_span("5"), (Span{5, 5}));
    EXPECT_EQ(*parse_span("5-9"), (Span{5, 9}));
    EXPECT_EQ(*parse_span("5-"), (Span{5, UINT64_MAX}));
    EXPECT_EQ(*parse_span("-9"), (Span{0, 9}));
    EXPECT_EQ(*parse_sizes("8-1M"), (Span{8, 2048}));
    EXPECT_EQ(*parse_sizes("4K-"), (Span{8, UINT64_MAX}));
    for (const char* wrong : {"", "-", "x", "5-x", "9-5", "5-6-7", "1K"}) EXPECT_FALSE(parse_span(wrong)) << wrong;
    for (const char* wrong : {"", "-", "700B", "2K-1K"}) EXPECT_FALSE(parse_sizes(wrong)) << wrong;
}

TEST(Parse, Times) {
    EXPECT_EQ(*parse_time("1.5s"), 1500ms);
    EXPECT_EQ(*parse_time("2"), 2s);
    EXPECT_EQ(*parse_time("20ms"), 20ms);
    EXPECT_EQ(*parse_time("300us"), 300us);
    EXPECT_EQ(*parse_time("7ns"), 7ns);
    for (const char* wrong : {"", "s", "-1s", "1m", "nan", "inf", "1e30s", "1s "})
        EXPECT_FALSE(parse_time(wrong)) << wrong;
    EXPECT_THAT(parse_time("soon").error().message, HasSubstr("'soon' is not a time"));
    EXPECT_EQ(*parse_times("1us..2us"), (Span{1000, 2000}));
    EXPECT_EQ(*parse_times("..30ns"), (Span{0, 30}));
    EXPECT_EQ(*parse_times("20ms.."), (Span{20'000'000, UINT64_MAX}));
    for (const char* wrong : {"", "..", "1s", "2s..1s", "1s..x"}) EXPECT_FALSE(parse_times(wrong)) << wrong;
}

TEST(Parse, Errors) {
    EXPECT_EQ(*parse_errno("ENOSPC"), ENOSPC);
    EXPECT_EQ(*parse_errno("5"), EIO);
    for (const char* wrong : {"", "0", "134", "ENOSUCH", "eio"}) EXPECT_FALSE(parse_errno(wrong)) << wrong;
}

}  // namespace
}  // namespace dmu::debug
