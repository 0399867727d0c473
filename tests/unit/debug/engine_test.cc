// SPDX-License-Identifier: GPL-2.0-or-later
#include <gmock/gmock.h>

#include <unistd.h>

#include <filesystem>

#include "tests/unit/debug/bench.h"

namespace dmu::debug {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(EngineTest, EverythingGoesThrough) {
    const auto a = write(8, 1), b = flush(), c = read(8);
    EXPECT_FALSE(ended(a));
    EXPECT_TRUE(ended(b));
    EXPECT_TRUE(ended(c));
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(device->at(8), 1);
    EXPECT_TRUE(engine->idle());
    EXPECT_EQ(device->syncs, 0u) << "the kernel has synced";
}

TEST_F(EngineTest, AnErrorBelowIsToldAbove) {
    const auto a = write(8, 1);
    for (const auto& event : kernel->returns(ENOSPC)) give(event);
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(sent(a).error, ENOSPC);
}

TEST_F(EngineTest, DropEndsWellAndWritesNothing) {
    rule("drop write at 8+1");
    const auto a = write(8, 1), b = write(9, 2);
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(sent(a).error, 0);
    EXPECT_TRUE(ended(b));
    EXPECT_EQ(device->at(8), 0);
    EXPECT_EQ(device->at(9), 2);
    EXPECT_THAT(notes, ElementsAre("rule 1: drop: #1 write 8+1"));
}

TEST_F(EngineTest, FailOnlyTheThird) {
    rule("fail ENOSPC write nth 3");
    std::vector<int> errors;
    for (int i = 0; i < 4; ++i) {
        const auto id = write(static_cast<std::uint64_t>(i), 1);
        settle();
        errors.push_back(sent(id).error);
    }
    EXPECT_THAT(errors, ElementsAre(0, 0, ENOSPC, 0));
}

TEST_F(EngineTest, TearWritesAPart) {
    rule("tear 1+2 write");
    const auto a = write(16, 7, 4);
    EXPECT_FALSE(ended(a)) << "its data is on its way";
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(sent(a).error, 0);
    EXPECT_THAT(device->writes, ElementsAre(Range{17, 2}));
}

TEST_F(EngineTest, DelayGoesThroughWhenDue) {
    rule("delay 200ms write");
    const auto a = write(8, 1);
    ASSERT_TRUE(engine->next_due());
    time += std::chrono::milliseconds(199);
    engine->tick();
    EXPECT_TRUE(engine->send());
    EXPECT_FALSE(kernel->busy());
    time += std::chrono::milliseconds(1);
    engine->tick();
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(device->at(8), 1);
    EXPECT_FALSE(engine->next_due());
}

TEST_F(EngineTest, StopBeforeByPattern) {
    rule("stop before write data \"MARK\"");
    const auto plain = write(4, 'x');
    settle();
    EXPECT_TRUE(ended(plain));
    auto event = kernel->send(DMU_OP_WRITE, {8, 1}, 0);
    std::memcpy(kernel->requests.at(event.id).data.data() + 100, "MARK", 4);
    give(event);
    settle();
    EXPECT_FALSE(ended(event.id));
    EXPECT_THAT(stops, ElementsAre("#2 write 8+1: rule 1"));
    EXPECT_TRUE(engine->paused());
    // Nothing passes while it is paused.
    const auto later = write(12, 3), synced = flush();
    settle();
    EXPECT_FALSE(ended(later));
    EXPECT_FALSE(ended(synced));
    act("drop");
    EXPECT_TRUE(ended(event.id));
    EXPECT_FALSE(ended(later)) << "still paused";
    go();
    settle();
    EXPECT_TRUE(ended(later));
    EXPECT_TRUE(ended(synced));
    EXPECT_EQ(device->at(8), 0);
}

TEST_F(EngineTest, StopAfterHasWrittenButNotTold) {
    rule("stop after write");
    const auto a = write(8, 1);
    settle();
    EXPECT_EQ(device->at(8), 1);
    EXPECT_FALSE(ended(a));
    EXPECT_THAT(stops, ElementsAre("#1 write 8+1: done below"));
    EXPECT_FALSE(engine->act(Action{.what = Do::drop})) << "it has been written";
    act("fail EIO");
    EXPECT_EQ(sent(a).error, EIO);
}

TEST_F(EngineTest, StepStopsAtEach) {
    engine->pause();
    const auto a = write(0, 1), b = write(1, 2), c = write(2, 3);
    ASSERT_TRUE(engine->step(1));
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_FALSE(ended(a));
    ASSERT_TRUE(engine->step(1));
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_FALSE(ended(b));
    ASSERT_TRUE(engine->run_to(3));
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_TRUE(ended(b));
    EXPECT_FALSE(ended(c));
    EXPECT_THAT(stops, ElementsAre(": paused", "#1 write 0+1: step", "#2 write 1+1: step", "#3 write 2+1: run to 3"));
}

TEST_F(EngineTest, RunToFlush) {
    engine->pause();
    write(0, 1);
    const auto f = flush();
    ASSERT_TRUE(engine->run_to_flush());
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_FALSE(ended(f));
    EXPECT_THAT(stops.back(), HasSubstr("flush: run to flush"));
}

TEST_F(EngineTest, AStepKeepsWhatARuleHasPlanned) {
    rule("drop write at 1+1");
    engine->pause();
    const auto a = write(1, 9);
    ASSERT_TRUE(engine->step(1));
    EXPECT_THAT(stops.back(), "#1 write 1+1: step; rule 1: drop");
    go();
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(device->at(1), 0);
}

// ------------------------------------------------------------------ held ones

TEST_F(EngineTest, HeldWritesWaitForTheFlush) {
    start({.order = {HeldOrder::How::reverse}});
    rule("reorder write");
    const auto a = write(8, 1), b = write(16, 2), c = write(24, 3);
    settle();
    EXPECT_TRUE(ended(a) && ended(b) && ended(c));
    EXPECT_THAT(device->writes, IsEmpty());
    EXPECT_EQ(engine->held().size(), 3u);
    const auto f = flush();
    EXPECT_TRUE(ended(f));
    EXPECT_THAT(device->writes, ElementsAre(Range{24, 1}, Range{16, 1}, Range{8, 1}));
    EXPECT_EQ(device->syncs, 1u);
    EXPECT_TRUE(engine->idle());
}

TEST_F(EngineTest, AReadSeesWhatIsHeld) {
    device->bytes = filled(sectors, 5);
    rule("reorder write");
    write(9, 1);
    write(9, 2);
    settle();
    const auto r = read(8, 3);
    settle();
    ASSERT_TRUE(ended(r));
    const Bytes& data = sent(r).data;
    EXPECT_EQ(std::to_integer<int>(data[0]), 5);
    EXPECT_EQ(std::to_integer<int>(data[512]), 2);
    EXPECT_EQ(std::to_integer<int>(data[1024]), 5);
    EXPECT_EQ(device->at(9), 5);
}

TEST_F(EngineTest, NothingOvertakesAHeldWriteOfTheSamePlace) {
    start({.order = {HeldOrder::How::reverse}});
    rule("reorder write size 1");
    write(8, 1);
    write(8, 2);
    settle();
    flush();
    EXPECT_EQ(device->at(8), 2);
    write(8, 3);
    settle();
    write(8, 4, 2);  // not held
    settle();
    EXPECT_EQ(device->at(8), 4);
    flush();
    EXPECT_EQ(device->at(8), 4);
    EXPECT_TRUE(engine->idle());
}

TEST_F(EngineTest, ADiscardPushesHeldWritesOut) {
    rule("reorder write");
    write(8, 1);
    settle();
    give(kernel->send(DMU_OP_DISCARD, {0, 64}));
    settle();
    flush();
    EXPECT_EQ(device->at(8), 0);
}

TEST_F(EngineTest, FuaIsNotHeld) {
    rule("reorder write");
    const auto a = write(8, 1, 1, DMU_MISS_FUA);
    EXPECT_FALSE(ended(a));
    settle();
    EXPECT_TRUE(ended(a));
    EXPECT_EQ(device->at(8), 1);
}

TEST_F(EngineTest, AFlushFailsIfAHeldWriteIsLost) {
    rule("reorder write");
    write(8, 1);
    settle();
    device->broken = true;
    const auto f = flush();
    EXPECT_EQ(sent(f).error, EIO);
    EXPECT_THAT(notes.back(), HasSubstr("broken"));
}

TEST_F(EngineTest, ADroppedFlushLeavesThemHeld) {
    rule("reorder write");
    rule("drop flush");
    write(8, 1);
    settle();
    EXPECT_TRUE(ended(flush()));
    EXPECT_EQ(device->at(8), 0);
    EXPECT_EQ(engine->held().size(), 1u);
}

TEST_F(EngineTest, NoMoreAreHeldThanAllowed) {
    start({.hold_limit = 2});
    rule("reorder write");
    for (std::uint64_t i = 0; i < 3; ++i) write(i * 8, 1);
    settle();
    EXPECT_EQ(engine->held().size(), 1u);
    EXPECT_EQ(device->writes.size(), 2u);
}

// --------------------------------------------------------------------- reads

TEST_F(EngineTest, CorruptChangesWhatIsRead) {
    device->bytes = filled(sectors, 5);
    rule("corrupt 3 read once");
    const auto a = read(8), b = read(8);
    settle();
    ASSERT_TRUE(ended(a) && ended(b));
    EXPECT_NE(sent(a).data, filled(1, 5));
    EXPECT_EQ(sent(b).data, filled(1, 5));
    EXPECT_EQ(device->at(8), 5);
}

TEST_F(EngineTest, FailRead) {
    rule("fail EILSEQ read at 8");
    EXPECT_EQ(sent(read(8)).error, EILSEQ);
    EXPECT_EQ(sent(read(9)).error, 0);
}

TEST_F(EngineTest, ReadsPassUnlessTheyMatter) {
    const auto asks = [this] { return kernel->cached.back().kind == static_cast<unsigned>(DMU_KIND_ASK); };
    engine->watch();
    EXPECT_TRUE(engine->send());
    EXPECT_FALSE(asks());
    EXPECT_EQ(kernel->cached.back().flags, static_cast<unsigned>(DMU_MAP_ASK));
    rule("drop write at 100");
    EXPECT_TRUE(engine->send());
    EXPECT_EQ(kernel->cached.size(), 1u);
    rule("fail read at 8");
    EXPECT_TRUE(engine->send());
    EXPECT_TRUE(asks());
    engine->remove_rule(2);
    EXPECT_TRUE(engine->send());
    EXPECT_FALSE(asks());
    rule("stop write");
    write(8, 1);
    act("reorder");
    settle();
    EXPECT_TRUE(asks()) << "what is held has to be seen";
    engine->remove_rule(0);
    go();
    flush();
    engine->tick();
    EXPECT_TRUE(engine->send());
    EXPECT_FALSE(asks());
}

// -------------------------------------------------------------- same sectors

TEST_F(EngineTest, WritesOfTheSameSectorsGoOneAfterTheOther) {
    const auto a = write(8, 1), b = write(8, 2), c = write(16, 3);
    EXPECT_EQ(device->writes.size(), 2u) << "the second waits, the third does not";
    auto events = kernel->returns();
    give(events[0]);
    EXPECT_TRUE(ended(a));
    give(events[1]);
    EXPECT_TRUE(ended(c));
    settle();
    EXPECT_TRUE(ended(b));
    EXPECT_EQ(device->at(8), 2);
}

// ----------------------------------------------------------------------- end

TEST_F(EngineTest, AtTheEndEverythingGoesThrough) {
    rule("reorder write at 0+8");
    rule("delay 1000s write at 8+8");
    rule("stop write at 16+8");
    const auto a = write(0, 1), b = write(8, 2);
    settle();
    const auto c = write(16, 3), d = write(24, 4), f = flush();
    settle();
    EXPECT_TRUE(engine->paused());
    engine->finish();
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_TRUE(ended(a) && ended(b) && ended(c) && ended(d) && ended(f));
    EXPECT_TRUE(engine->idle());
    for (int i = 0; i < 4; ++i) EXPECT_EQ(device->at(static_cast<std::uint64_t>(i) * 8), i + 1);
    engine->pass();
    EXPECT_TRUE(engine->send());
    ASSERT_FALSE(kernel->cached.empty());
    EXPECT_EQ(kernel->cached.back().kind, static_cast<unsigned>(DMU_KIND_LINEAR));
    EXPECT_TRUE(kernel->cached.back().flags & DMU_MAP_WRITABLE);
}

TEST_F(EngineTest, WhatWasTakenAwayIsForgotten) {
    write(8, 1);
    write(8, 2);
    (void)kernel->returns();  // lost
    engine->finish();
    engine->drain();
    EXPECT_TRUE(engine->send());
    dmu_event event{};
    event.type = DMU_EV_INVALIDATED;
    event.id = 2;
    give(event);
    settle();
    EXPECT_TRUE(engine->idle());
    EXPECT_EQ(device->at(8), 2);
}

TEST_F(EngineTest, WhatAPredecessorHadSentOnBeginsAnew) {
    auto event = kernel->send(DMU_OP_WRITE, {8, 1}, 6);
    event.flags |= DMU_MISS_RETURNED | DMU_MISS_AGAIN;
    event.sequence = 7;
    give(event);
    settle();
    EXPECT_TRUE(ended(event.id));
    EXPECT_EQ(device->at(8), 6);
}

TEST_F(EngineTest, DataOfTheStoppedWriteIsFetched) {
    rule("stop write");
    const auto a = write(8, 0x41);
    Bytes seen;
    ASSERT_TRUE(engine->fetch([&](std::span<const std::byte> data) { seen.assign(data.begin(), data.end()); }));
    EXPECT_TRUE(engine->fetching());
    EXPECT_FALSE(engine->go());
    EXPECT_TRUE(engine->send());
    settle();
    EXPECT_EQ(seen, filled(1, 0x41));
    EXPECT_FALSE(ended(a));
    act("tear 0+1");
}

// ----------------------------------------------------------------------- log

class LoggedEngineTest : public EngineTest {
protected:
    void SetUp() override {
        // Tests of one program run side by side.
        directory = testing::TempDir() + "/debug_engine_log" + std::to_string(getpid());
        std::filesystem::remove_all(directory);
    }
    void TearDown() override { std::filesystem::remove_all(directory); }
    void start_logged(EngineSetup setup) {
        auto made = LogWriter::create(directory, {.sectors = sectors, .source = "test"});
        ASSERT_TRUE(made) << made.error().message;
        log = std::move(*made);
        log_store = make_log_store(*log);
        log_store->set_destination(MiniKernel::memory_number);
        setup.log = log.get();
        setup.log_store = nullptr;
        start(setup);
    }
    std::vector<Record> records() {
        const auto reader = LogReader::open(directory);
        EXPECT_TRUE(reader);
        return (*reader)->records();
    }
    std::string directory;
    std::unique_ptr<LogWriter> log;
    std::unique_ptr<Store> log_store;
};

TEST_F(LoggedEngineTest, HashesAndOutcomes) {
    start_logged({.data = KeepData::hash});
    rule("drop write at 16");
    rule("fail EIO write at 24");
    write(8, 1);
    write(16, 2);
    write(24, 3);
    settle();
    flush();
    ASSERT_TRUE(engine->mark("here"));
    give(kernel->send(DMU_OP_DISCARD, {0, 64}));
    settle();
    const auto all = records();
    ASSERT_EQ(all.size(), 6u);
    EXPECT_EQ(all[0].outcome, Outcome::through);
    EXPECT_EQ(all[0].hash, hash_of(filled(1, 1)));
    EXPECT_EQ(all[0].order, 1u);
    EXPECT_EQ(all[1].outcome, Outcome::dropped);
    EXPECT_EQ(all[1].order, 0u);
    EXPECT_EQ(all[2].outcome, Outcome::failed);
    EXPECT_EQ(all[2].error, static_cast<unsigned>(EIO));
    EXPECT_EQ(all[3].op, Op::flush);
    EXPECT_EQ(all[4].label, "here");
    EXPECT_EQ(all[5].op, Op::discard);
    EXPECT_EQ(all[5].sectors, 64u);
}

// The kernel has the disk below flushed before it tells: what ended meanwhile is not covered.
TEST_F(LoggedEngineTest, AFlushIsOfWhenItCame) {
    start_logged({.data = KeepData::none});
    write(8, 1);
    const auto came = time + std::chrono::nanoseconds(1);
    settle();
    auto event = kernel->flush();
    event.start = static_cast<std::uint64_t>(came.time_since_epoch().count());
    give(event);
    const auto all = records();
    ASSERT_EQ(all.size(), 2u);
    EXPECT_EQ(all[1].op, Op::flush);
    EXPECT_GT(all[0].end, all[1].time);
}

TEST_F(LoggedEngineTest, FiltersKeepOthersOut) {
    start_logged({.data = KeepData::none, .filter = {.ranges = {{0, 8}}, .size = {1, 1}}});
    write(0, 1);
    write(8, 1);
    write(0, 1, 2);
    read(0);
    settle();
    ASSERT_EQ(records().size(), 1u);
    EXPECT_EQ(device->at(8), 1);
}

TEST_F(LoggedEngineTest, HeldWritesHaveAnOrderOfTheirOwn) {
    start_logged({.data = KeepData::none, .order = {HeldOrder::How::reverse}});
    rule("reorder write");
    write(8, 1);
    write(16, 2);
    settle();
    EXPECT_EQ(records()[0].outcome, Outcome::pending);
    EXPECT_NE(records()[0].end, 0u);
    flush();
    const auto all = records();
    EXPECT_EQ(all[0].outcome, Outcome::through);
    EXPECT_GT(all[0].order, all[1].order);
}

}  // namespace
}  // namespace dmu::debug
