// SPDX-License-Identifier: GPL-2.0-or-later
#include <gmock/gmock.h>

#include <cerrno>

#include "tools/debug/held.h"
#include "tools/debug/rule.h"

namespace dmu::debug {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Rule rule(const std::string& text) {
    const auto parsed = parse_rule(text);
    EXPECT_TRUE(parsed) << text << ": " << parsed.error().message;
    return parsed ? *parsed : Rule{};
}

std::string refused(const std::string& text) {
    const auto parsed = parse_rule(text);
    EXPECT_FALSE(parsed) << text;
    return parsed ? "" : parsed.error().message;
}

Request request(Op op, Range range, std::uint32_t flags = 0) {
    Request made;
    made.op = op;
    made.range = range;
    made.flags = flags;
    made.record.number = 7;
    return made;
}

TEST(Rule, Actions) {
    EXPECT_EQ(rule("stop write").action.what, Do::stop);
    EXPECT_FALSE(rule("stop before write").action.after);
    EXPECT_TRUE(rule("break after write").action.after);
    EXPECT_EQ(rule("fail write").action.error, EIO);
    EXPECT_EQ(rule("fail ENOSPC write").action.error, ENOSPC);
    EXPECT_EQ(rule("fail 5").action.error, 5);
    EXPECT_EQ(rule("tear 1+2 write").action.part, (Range{1, 2}));
    EXPECT_EQ(rule("delay 1.5s any").action.delay, std::chrono::milliseconds(1500));
    EXPECT_EQ(rule("corrupt 4 read").action.bytes, 4u);
}

TEST(Rule, SaysWhatIsWrong) {
    EXPECT_THAT(refused(""), HasSubstr("action is missing"));
    EXPECT_THAT(refused("lose write"), HasSubstr("there are stop, through"));
    EXPECT_THAT(refused("drop wrte"), HasSubstr("no condition 'wrte'"));
    EXPECT_THAT(refused("tear write"), HasSubstr("write"));
    EXPECT_THAT(refused("tear 0+1 read"), HasSubstr("only for write"));
    EXPECT_THAT(refused("corrupt write"), HasSubstr("only for read"));
    EXPECT_THAT(refused("drop read data \"x\""), HasSubstr("only for write"));
    EXPECT_THAT(refused("drop flush at 3"), HasSubstr("possible only for"));
    EXPECT_THAT(refused("fail ENOSUCH write"), HasSubstr("not an error"));
    EXPECT_THAT(refused("drop at 5-3"), HasSubstr("range"));
    EXPECT_THAT(refused("drop at 700B"), HasSubstr("whole sectors"));
    EXPECT_THAT(refused("drop nth"), HasSubstr("wants"));
    EXPECT_THAT(refused("drop every 0"), HasSubstr("from 1"));
    EXPECT_THAT(refused("drop data hex:5"), HasSubstr("not a pattern"));
    EXPECT_THAT(refused("delay soon write"), HasSubstr("not a time"));
}

TEST(Rule, Conditions) {
    const Past past{};
    const Rule at = rule("drop write,discard at 8-15 size 2-4");
    EXPECT_TRUE(may_match(at, request(Op::write, {6, 3}), past));
    EXPECT_TRUE(may_match(at, request(Op::discard, {15, 2}), past));
    EXPECT_FALSE(may_match(at, request(Op::write, {16, 3}), past));
    EXPECT_FALSE(may_match(at, request(Op::write, {8, 1}), past));
    EXPECT_FALSE(may_match(at, request(Op::read, {8, 2}), past));
    EXPECT_TRUE(may_match(rule("drop fua"), request(Op::write, {0, 1}, flag_fua | flag_meta), past));
    EXPECT_FALSE(may_match(rule("drop fua sync"), request(Op::write, {0, 1}, flag_fua), past));
    EXPECT_TRUE(may_match(rule("drop number 7-"), request(Op::write, {0, 1}), past));
    EXPECT_FALSE(may_match(rule("drop number 8"), request(Op::write, {0, 1}), past));
}

TEST(Rule, AfterAFlush) {
    const Rule first = rule("stop write after-flush"), second = rule("stop write flushes 2");
    EXPECT_FALSE(may_match(first, request(Op::write, {0, 1}), {.flushes = 0}));
    EXPECT_TRUE(may_match(first, request(Op::write, {0, 1}), {.flushes = 1, .written_since_flush = false}));
    EXPECT_FALSE(may_match(first, request(Op::write, {0, 1}), {.flushes = 1, .written_since_flush = true}));
    EXPECT_TRUE(may_match(second, request(Op::write, {0, 1}), {.flushes = 2}));
    EXPECT_FALSE(may_match(second, request(Op::write, {0, 1}), {.flushes = 3}));
}

TEST(Rule, CountsMatches) {
    Rule nth = rule("drop nth 2-3"), every = rule("drop every 2");
    std::vector<bool> due, turns;
    for (int i = 0; i < 4; ++i) {
        due.push_back(is_due(nth));
        turns.push_back(is_due(every));
    }
    EXPECT_THAT(due, ElementsAre(false, true, true, false));
    EXPECT_THAT(turns, ElementsAre(false, true, false, true));
}

TEST(Rule, Patterns) {
    std::vector<std::byte> data(16);
    data[8] = std::byte{0x53};
    data[9] = std::byte{0xef};
    EXPECT_TRUE(rule("drop data hex:53ef").pattern->in(data));
    EXPECT_TRUE(rule("drop data hex:53ef@8").pattern->in(data));
    EXPECT_FALSE(rule("drop data hex:53ef@9").pattern->in(data));
    EXPECT_FALSE(rule("drop data hex:53ef@400").pattern->in(data));
    const Rule quoted = rule("drop write data \"two words; \\\"quoted\\\"\"");
    const std::vector<std::byte>& bytes = quoted.pattern.value().bytes;
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "two words; \"quoted\"");
}

TEST(HeldOrder, IsRepeatableAndLegal) {
    std::vector<Request> requests(40);
    std::vector<Request*> held;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        requests[i].range = {i % 10 * 8, i % 3 == 0 ? 16u : 8u};
        requests[i].record.number = i + 1;
        held.push_back(&requests[i]);
    }
    for (const char* how : {"random", "reverse", "same", "40 3 1"}) {
        std::uint64_t seed = 5, again = 5;
        const auto order = put_in_order(held, *parse_order(how), seed);
        EXPECT_EQ(order, put_in_order(held, *parse_order(how), again));
        ASSERT_EQ(order.size(), held.size());
        for (std::size_t i = 0; i < order.size(); ++i)
            for (std::size_t j = i + 1; j < order.size(); ++j)
                if (order[i]->range.overlaps(order[j]->range)) {
                    EXPECT_LT(order[i]->number(), order[j]->number()) << how;
                }
    }
    EXPECT_FALSE(parse_order("sideways"));
}

}  // namespace
}  // namespace dmu::debug
