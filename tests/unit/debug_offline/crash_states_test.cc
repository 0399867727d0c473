// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/crash_states.h"

#include <set>

#include "tests/unit/debug_offline/recorder.h"
#include "tools/debug/offline/image_file.h"

namespace dmu::debug {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::vector<std::uint64_t> numbers(const std::vector<Applied>& list) {
    std::vector<std::uint64_t> found;
    for (const auto& one : list) found.push_back(one.record->number);
    return found;
}

class Crash : public Recorded {
protected:
    CrashPoint at(std::uint64_t number) {
        log_ = log();
        auto point = crash_point(*log_, number);
        EXPECT_TRUE(point) << (point ? "" : point.error().message);
        return *point;
    }
    // The first sectors, by letters.
    std::string device(const CrashState& state, std::size_t length) {
        write_file(base_, Bytes(sectors * 512, std::byte{'-'}));
        const auto path = directory_ / "image";
        const auto image = make_image(*log_, contents_of(state), base_, path);
        EXPECT_TRUE(image) << (image ? "" : image.error().message);
        return letters(path).substr(0, length);
    }
    std::set<std::string> devices(const CrashPoint& point, std::size_t length) {
        std::set<std::string> found;
        const auto states = all_states(point, 1000);
        EXPECT_TRUE(states) << (states ? "" : states.error().message);
        for (const auto& state : *states) found.insert(device(state, length));
        return found;
    }
    std::unique_ptr<LogReader> log_;
};

TEST_F(Crash, FlushedWritesStayOthersMayGo) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    r.flush();
    r.write(1, 1, 'b');
    r.write(0, 1, 'c');
    const auto point = at(4);
    EXPECT_THAT(numbers(point.durable), ElementsAre(1));
    EXPECT_THAT(numbers(point.uncertain), ElementsAre(3, 4));
    EXPECT_EQ(count_states(point), 4u);
    EXPECT_THAT(devices(point, 2), UnorderedElementsAre("a-", "ab", "c-", "cb"));
    EXPECT_EQ(device(state_without(point), 2), "a-");
    EXPECT_EQ(device(state_with_all(point), 2), "cb");
    EXPECT_EQ(state_text(point, state_without(point)), "without 3, 4");
    EXPECT_EQ(state_text(point, *state_with(point, {4})), "with 4; without 3");
    EXPECT_THAT(state_with(point, {1}).error().message, HasSubstr("record 1 is not one that a crash at 4 may lose"));
    EXPECT_THAT(all_states(point, 3).error().message, HasSubstr("has 4 possible results"));
}

TEST_F(Crash, TheMomentIsJustBeforeTheNextRequest) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    r.flush();
    EXPECT_THAT(numbers(at(1).uncertain), ElementsAre(1));
    EXPECT_THAT(numbers(at(2).durable), ElementsAre(1));
    EXPECT_THAT(numbers(at(0).durable), ElementsAre());
    EXPECT_THAT(crash_point(*log_, 3).error().message, HasSubstr("has 2 records, no number 3"));
}

TEST_F(Crash, AFlushThatHasNotEndedKeepsNothing) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    auto flush = r.begin(Op::flush);
    auto next = r.begin(Op::write, 1, 1);
    r.end(flush);
    r.end(next);
    EXPECT_THAT(numbers(at(2).uncertain), ElementsAre(1));
    EXPECT_THAT(numbers(at(3).durable), ElementsAre(1));
}

TEST_F(Crash, AFlushKeepsOnlyWhatHadEndedBefore) {
    Recorder& r = recorder();
    auto late = r.begin(Op::write, 0, 1);
    r.write(1, 1, 'b');
    r.flush();
    r.end(late);
    const auto point = at(3);
    EXPECT_THAT(numbers(point.durable), ElementsAre(2));
    EXPECT_THAT(numbers(point.uncertain), ElementsAre(1));
}

TEST_F(Crash, ADroppedFlushKeepsNothing) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    r.flush(Outcome::dropped);
    EXPECT_THAT(numbers(at(2).uncertain), ElementsAre(1));
}

TEST_F(Crash, AnAcknowledgedFuaWriteStays) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    auto fua = r.begin(Op::write, 1, 1, flag_fua, 'f');
    r.end(fua);
    auto open = r.begin(Op::write, 2, 1, flag_fua, 'g');
    const auto point = at(3);
    EXPECT_THAT(numbers(point.durable), ElementsAre(2));
    EXPECT_THAT(numbers(point.uncertain), ElementsAre(1, 3));
    r.end(open);
    EXPECT_THAT(numbers(at(3).durable), ElementsAre(2, 3));
}

TEST_F(Crash, WhatWasDroppedOrFailedIsNeverThere) {
    Recorder& r = recorder();
    r.write(0, 1, 'a', Outcome::dropped);
    r.write(1, 1, 'b', Outcome::failed);
    EXPECT_EQ(count_states(at(2)), 1u);
    EXPECT_THAT(devices(at(2), 2), UnorderedElementsAre("--"));
}

TEST_F(Crash, ATornWriteIsThereInPart) {
    Recorder& r = recorder();
    auto torn = r.begin(Op::write, 0, 4, 0, 't');
    torn.torn_first = 1, torn.torn_count = 2;
    r.end(torn, Outcome::torn);
    r.flush();
    EXPECT_THAT(devices(at(2), 4), UnorderedElementsAre("-tt-"));
}

TEST_F(Crash, WritesAtOnceMayBeInEitherOrder) {
    Recorder& r = recorder();
    auto a = r.begin(Op::write, 0, 2, 0, 'a'), b = r.begin(Op::write, 1, 2, 0, 'b');
    r.end(a), r.end(b);
    EXPECT_THAT(devices(at(2), 3), UnorderedElementsAre("---", "aa-", "-bb", "abb", "aab"));
}

TEST_F(Crash, WritesAfterAnotherMayNot) {
    Recorder& r = recorder();
    r.write(0, 2, 'a');
    r.write(1, 2, 'b');
    EXPECT_THAT(devices(at(2), 3), UnorderedElementsAre("---", "aa-", "-bb", "abb"));
}

TEST_F(Crash, TheOrderOnTheDeviceCounts) {
    Recorder& r = recorder();
    auto a = r.begin(Op::write, 0, 1, 0, 'a'), b = r.begin(Op::write, 0, 1, 0, 'b');
    r.end(b), r.end(a);  // b reached it first
    r.flush();
    EXPECT_THAT(devices(at(3), 1), UnorderedElementsAre("a"));
    EXPECT_EQ(numbers(reached_up_to(*log_, 3)), (std::vector<std::uint64_t>{2, 1}));
}

TEST_F(Crash, DiscardsAndZerosAreChangesToo) {
    Recorder& r = recorder();
    r.write(0, 4, 'a');
    r.flush();
    r.change(Op::discard, 1, 1);
    r.change(Op::zero, 2, 1);
    EXPECT_THAT(devices(at(4), 4), UnorderedElementsAre("aaaa", "a.aa", "aa.a", "a..a"));
}

TEST_F(Crash, SamplesAreRepeatableAndLegal) {
    Recorder& r = recorder();
    for (std::uint64_t i = 0; i < 8; i++) r.write(i, 1, 'w');
    const auto point = at(8);
    const auto one = sample_states(point, 20, 7, 0), same = sample_states(point, 20, 7, 0);
    ASSERT_EQ(one.size(), 20u);
    std::set<std::string> different;
    for (std::size_t i = 0; i < one.size(); i++) {
        EXPECT_EQ(numbers(one[i]), numbers(same[i]));
        different.insert(state_text(point, one[i]));
    }
    EXPECT_EQ(different.size(), 20u);
    EXPECT_NE(numbers(sample_states(point, 20, 8, 0)[5]), numbers(one[5]));
    EXPECT_LE(sample_states(at(2), 100, 7, 0).size(), 4u);
}

TEST_F(Crash, TornSamplesAreCutAtBlocks) {
    Recorder& r = recorder();
    r.write(0, 64, 'w');
    bool torn = false;
    for (const auto& state : sample_states(at(1), 50, 1, 8))
        for (const auto& one : state) {
            EXPECT_EQ(one.first % 8, 0u);
            EXPECT_EQ(one.count % 8, 0u);
            EXPECT_LE(one.first + one.count, 64u);
            torn = torn || one.count != 64;
        }
    EXPECT_TRUE(torn);
}

}  // namespace
}  // namespace dmu::debug
