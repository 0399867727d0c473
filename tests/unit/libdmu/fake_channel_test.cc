// SPDX-License-Identifier: GPL-2.0-or-later
// The fake kernel keeps to the wire's rules, so that mappers tested on it keep to them too.
#include "tests/fakes/fake_channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

namespace dmu {
namespace {

using testing::SizeIs;

std::vector<std::byte> pattern(std::uint64_t sectors, unsigned value) {
    return std::vector<std::byte>(sectors * DMU_SECTOR_SIZE, static_cast<std::byte>(value));
}

class FakeChannelTest : public testing::Test {
protected:
    static constexpr std::uint64_t sectors = 1000;  // not a multiple of the grain

    void SetUp() override {
        char name[] = "/tmp/fake-channel-XXXXXX";
        fd_ = mkstemp(name);
        ASSERT_GE(fd_, 0);
        unlink(name);
        ASSERT_EQ(ftruncate(fd_, 4096 * 512), 0);
        attach();
        ASSERT_TRUE(channel_->add_destination(0, fd_, 0, 77));
        target().load_table({.sectors = sectors, .grain = 16});
        events();
    }
    void TearDown() override { close(fd_); }

    FakeTarget& target() { return kernel_.target("key"); }
    void attach() {
        auto made = kernel_.attach("key", true);
        ASSERT_TRUE(made) << made.error().message;
        channel_ = std::move(*made);
    }
    std::vector<dmu_event> events() {
        std::vector<dmu_event> all(64);
        all.resize(*channel_->read(all));
        return all;
    }
    // The only event there is.
    dmu_event event() {
        const auto all = events();
        EXPECT_EQ(all.size(), 1u);
        return all.empty() ? dmu_event{} : all[0];
    }
    Status send(const dmu_command& command) { return channel_->write(std::span(&command, 1)); }
    Status linear(std::uint64_t id, std::uint64_t start, std::uint64_t length, std::uint64_t physical,
                  std::uint64_t sequence = 0) {
        dmu_command map;
        dmu_cmd_map_linear(&map, id, start, length, 0, physical, DMU_MAP_WRITABLE);
        dmu_cmd_policies(&map, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
        map.sequence = sequence;
        return send(map);
    }
    Status zero(std::uint64_t id, std::uint64_t start, std::uint64_t length, std::uint64_t sequence = 0) {
        dmu_command map;
        dmu_cmd_map_zero(&map, id, start, length);
        dmu_cmd_policies(&map, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
        map.sequence = sequence;
        return send(map);
    }
    Status place(std::uint64_t id, std::uint64_t start, std::uint64_t length, std::uint64_t physical,
                 std::uint32_t flags = 0) {
        dmu_command command;
        dmu_cmd_place(&command, id, start, length, 0, physical, flags);
        dmu_cmd_policies(&command, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
        return send(command);
    }
    Status committed(std::uint64_t sequence) {
        dmu_command command;
        dmu_cmd_committed(&command, sequence);
        return send(command);
    }
    std::vector<std::byte> file(std::uint64_t physical, std::uint64_t length) {
        std::vector<std::byte> bytes(length * 512);
        EXPECT_EQ(pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(physical * 512)),
                  static_cast<ssize_t>(bytes.size()));
        return bytes;
    }
    void put(std::uint64_t physical, const std::vector<std::byte>& bytes) {
        EXPECT_EQ(pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(physical * 512)),
                  static_cast<ssize_t>(bytes.size()));
    }
    // A first write of [start, start+length) answered with a place at physical.
    void first_write(std::uint64_t start, std::uint64_t length, std::uint64_t physical, unsigned value) {
        const auto write = target().write(start, pattern(length, value));
        const auto all = events();
        ASSERT_FALSE(all.empty());
        ASSERT_EQ(all.back().type, DMU_EV_MISS);
        ASSERT_TRUE(place(all.back().id, all.back().start, all.back().length, physical));
        ASSERT_TRUE(write->done());
        ASSERT_EQ(write->error(), 0);
    }

    FakeKernel kernel_{DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE | DMU_FEATURE_MIRROR};
    std::unique_ptr<Channel> channel_;
    int fd_ = -1;
};

TEST_F(FakeChannelTest, ReadMissesOnceAndThenHits) {
    put(160, pattern(16, 0x11));
    const auto first = target().read(20, 2), second = target().read(30, 1);
    const dmu_event miss = event();  // both wait for the same grain
    EXPECT_EQ(miss.type, DMU_EV_MISS);
    EXPECT_EQ(miss.op, DMU_OP_READ);
    EXPECT_EQ(miss.start, 16u);
    EXPECT_EQ(miss.length, 16u);
    EXPECT_FALSE(first->done());
    ASSERT_TRUE(linear(miss.id, 16, 16, 160));
    EXPECT_TRUE(first->done() && second->done());
    EXPECT_EQ(first->data(), pattern(2, 0x11));
    const auto third = target().read(16, 16);
    EXPECT_TRUE(third->done());
    EXPECT_EQ(target().state().hits_read, 1u);
    EXPECT_EQ(target().state().misses, 1u);
}

TEST_F(FakeChannelTest, PollDescriptorTells) {
    pollfd poller{channel_->poll_descriptor(), POLLIN, 0};
    EXPECT_EQ(poll(&poller, 1, 0), 0);
    target().read(0, 1);
    EXPECT_EQ(poll(&poller, 1, 0), 1);
    event();
    EXPECT_EQ(poll(&poller, 1, 0), 0);
}

TEST_F(FakeChannelTest, MapNeverReplaces) {
    ASSERT_TRUE(linear(0, 16, 16, 160));
    ASSERT_TRUE(zero(0, 0, 64));
    const auto map = target().map();
    ASSERT_THAT(map, SizeIs(3));
    EXPECT_EQ(map[1].start, 16u);
    EXPECT_EQ(map[1].kind, DMU_KIND_LINEAR);
    EXPECT_EQ(map[2].start, 32u);
    EXPECT_EQ(map[2].length, 32u);
}

TEST_F(FakeChannelTest, FirstWriteFillsLogsAndPublishes) {
    put(3200, pattern(32, 0x22));
    dmu_command cow;
    dmu_cmd_map_cow(&cow, 0, 16, 16, 0, 3200);
    ASSERT_TRUE(send(cow));
    const auto write = target().write(20, pattern(2, 0x33));
    const dmu_event miss = event();
    EXPECT_EQ(miss.op, DMU_OP_WRITE);
    ASSERT_TRUE(place(miss.id, 16, 16, 320));
    EXPECT_EQ(write->error(), 0);
    EXPECT_EQ(file(320, 4), pattern(4, 0x22));
    EXPECT_EQ(file(324, 2), pattern(2, 0x33));
    EXPECT_EQ(file(326, 10), pattern(10, 0x22));
    const dmu_event change = event();
    EXPECT_EQ(change.type, DMU_EV_CHANGED);
    EXPECT_EQ(change.sequence, 1u);
    EXPECT_EQ(change.kind, DMU_KIND_LINEAR);
    EXPECT_EQ(change.start, 16u);
    EXPECT_EQ(change.length, 16u);
    EXPECT_EQ(change.physical, 320u);
    const auto again = target().write(16, pattern(1, 0x44));  // now a hit
    EXPECT_TRUE(again->done());
    EXPECT_EQ(file(320, 1), pattern(1, 0x44));
    EXPECT_THAT(events(), SizeIs(0));
}

TEST_F(FakeChannelTest, SpaceThatReadsAsZeroIsNotFilled) {
    put(320, pattern(16, 0x55));  // it does not, as the mapper claims: seen at once
    ASSERT_TRUE(zero(0, 0, 16));
    target().write(4, pattern(1, 1));
    ASSERT_TRUE(place(event().id, 0, 16, 320, DMU_READS_ZERO));
    EXPECT_EQ(file(320, 4), pattern(4, 0x55));
    EXPECT_EQ(file(324, 1), pattern(1, 1));
}

TEST_F(FakeChannelTest, ShortPlaceMissesAgain) {
    ASSERT_TRUE(zero(0, 0, 64));
    const auto write = target().write(8, pattern(32, 9));
    const dmu_event miss = event();
    EXPECT_EQ(miss.start, 0u);
    EXPECT_EQ(miss.length, 48u);
    ASSERT_TRUE(place(miss.id, 0, 16, 320));
    EXPECT_FALSE(write->done());
    const auto next = events();
    ASSERT_THAT(next, SizeIs(2));
    EXPECT_EQ(next[0].type, DMU_EV_CHANGED);
    EXPECT_EQ(next[1].type, DMU_EV_MISS);
    EXPECT_EQ(next[1].start, 16u);
    EXPECT_NE(next[1].id, miss.id);
    ASSERT_TRUE(place(next[1].id, 16, 32, 640));
    EXPECT_EQ(write->error(), 0);
    EXPECT_EQ(file(640 + 24, 8), pattern(8, 0));
}

TEST_F(FakeChannelTest, SecondPlaceForOneMissIsLost) {
    ASSERT_TRUE(zero(0, 0, 64));
    target().write(0, pattern(16, 9));
    const dmu_event miss = event();
    ASSERT_TRUE(place(miss.id, 0, 16, 320));
    ASSERT_TRUE(place(miss.id, 0, 16, 640));
    const auto changes = events();
    ASSERT_THAT(changes, SizeIs(2));
    EXPECT_EQ(changes[1].kind, DMU_KIND_LOST);
    EXPECT_EQ(changes[1].physical, 640u);
}

TEST_F(FakeChannelTest, FailedPlaceIsLostAndTheRequestFails) {
    ASSERT_TRUE(zero(0, 0, 64));
    target().fail_places(1);
    const auto write = target().write(0, pattern(16, 9));
    ASSERT_TRUE(place(event().id, 0, 16, 320));
    EXPECT_EQ(write->error(), EIO);
    EXPECT_EQ(event().kind, DMU_KIND_LOST);
    EXPECT_EQ(target().map()[0].kind, DMU_KIND_ZERO);
}

TEST_F(FakeChannelTest, LastGrainIsClipped) {
    const auto read = target().read(999, 1);
    const dmu_event miss = event();
    EXPECT_EQ(miss.start, 992u);
    EXPECT_EQ(miss.length, 8u);
    EXPECT_EQ(zero(miss.id, 992, 16).error().code, Code::invalid);
    ASSERT_TRUE(zero(miss.id, 992, 8));
    EXPECT_EQ(read->data(), pattern(1, 0));
    target().write(999, pattern(1, 3));
    ASSERT_TRUE(place(event().id, 992, 8, 320));
    EXPECT_EQ(file(327, 1), pattern(1, 3));
}

TEST_F(FakeChannelTest, RefusesWhatTheWireRefuses) {
    ASSERT_TRUE(zero(0, 0, 32));
    ASSERT_TRUE(linear(0, 32, 16, 0));
    target().write(0, pattern(8, 1));
    const std::uint64_t id = event().id;
    dmu_command command;
    dmu_cmd_map_zero(&command, 0, 0, 0);
    EXPECT_FALSE(send(command));  // empty
    EXPECT_FALSE(zero(0, 990, 20));
    EXPECT_FALSE(linear(0, 64, 16, 4090));  // past the file's end
    dmu_cmd_map_linear(&command, 0, 64, 16, 9, 0, 0);
    EXPECT_EQ(send(command).error().code, Code::not_found);
    EXPECT_FALSE(zero(0, 64, 16, 5));     // a sequence that was never told
    EXPECT_FALSE(place(id, 0, 8, 320));   // no whole grain
    EXPECT_FALSE(place(id, 0, 32, 320));  // more than the miss asked for
    EXPECT_FALSE(place(0, 0, 16, 320));   // for no miss
    EXPECT_FALSE(committed(1));
    dmu_cmd_lease(&command, 1, 0, 0, 8, 0);
    EXPECT_EQ(send(command).error().code, Code::unsupported);
    dmu_cmd_fail(&command, id, 0);
    EXPECT_FALSE(send(command));
    EXPECT_THAT(target().refusals(), SizeIs(11));
    ASSERT_TRUE(place(id, 0, 16, 320));
}

TEST_F(FakeChannelTest, PlaceOverUnknownGroundIsRefused) {
    target().write(0, pattern(8, 1));
    EXPECT_FALSE(place(event().id, 0, 16, 320));
}

TEST_F(FakeChannelTest, WriteAppliesUpToTheRefusedOne) {
    dmu_command commands[3];
    dmu_cmd_map_zero(&commands[0], 0, 0, 16);
    dmu_cmd_map_zero(&commands[1], 0, 5000, 16);
    dmu_cmd_map_zero(&commands[2], 0, 32, 16);
    EXPECT_EQ(*channel_->write_some(commands), 1u);
    EXPECT_FALSE(channel_->write_some(std::span(commands).subspan(1)));
    EXPECT_THAT(target().map(), SizeIs(1));
}

TEST_F(FakeChannelTest, FlushAsksOnlyForWhatIsNotCommitted) {
    EXPECT_TRUE(target().flush()->done());
    ASSERT_TRUE(zero(0, 0, 64));
    first_write(0, 16, 320, 1);
    const auto flush = target().flush();
    EXPECT_FALSE(flush->done());
    const auto all = events();
    ASSERT_THAT(all, SizeIs(2));
    EXPECT_EQ(all[0].type, DMU_EV_CHANGED);
    EXPECT_EQ(all[1].type, DMU_EV_FLUSH);
    EXPECT_EQ(all[1].sequence, 1u);
    ASSERT_TRUE(committed(1));
    EXPECT_EQ(flush->error(), 0);
    EXPECT_TRUE(target().flush()->done());
    EXPECT_THAT(target().log(), SizeIs(0));
}

TEST_F(FakeChannelTest, FailEndsMissAndFlush) {
    ASSERT_TRUE(zero(0, 0, 64));
    first_write(0, 16, 320, 1);
    const auto flush = target().flush();
    dmu_command fail;
    dmu_cmd_fail(&fail, events().back().id, EIO);
    ASSERT_TRUE(send(fail));
    EXPECT_EQ(flush->error(), EIO);
    const auto write = target().write(16, pattern(16, 1));
    dmu_cmd_fail(&fail, event().id, ENOSPC);
    ASSERT_TRUE(send(fail));
    EXPECT_EQ(write->error(), ENOSPC);
    EXPECT_TRUE(send(fail));  // an id that is gone is no error
}

TEST_F(FakeChannelTest, FullLogHoldsFirstWrites) {
    target().load_table({.sectors = sectors, .grain = 16, .log = 2});
    ASSERT_TRUE(zero(0, 0, 160));
    first_write(0, 16, 320, 1);
    first_write(16, 16, 336, 1);
    auto all = events();
    EXPECT_EQ(all.back().type, DMU_EV_FLUSH);  // the kernel's own, to make room
    const auto third = target().write(32, pattern(16, 1));
    ASSERT_TRUE(place(event().id, 32, 16, 352));
    EXPECT_FALSE(third->done());
    ASSERT_TRUE(committed(1));
    EXPECT_TRUE(third->done());
}

TEST_F(FakeChannelTest, DiscardOfWholeGrainsIsLogged) {
    ASSERT_TRUE(linear(0, 0, 64, 320));
    const auto discard = target().discard(8, 40);
    EXPECT_EQ(discard->error(), 0);
    const auto changes = events();
    ASSERT_FALSE(changes.empty());
    std::uint64_t next = 16;
    for (const auto& change : changes) {
        EXPECT_EQ(change.kind, DMU_KIND_ZERO);
        EXPECT_EQ(change.start, next);
        next = change.start + change.length;
    }
    EXPECT_EQ(next, 48u);
    EXPECT_EQ(target().read(16, 1)->data(), pattern(1, 0));
}

TEST_F(FakeChannelTest, WriteZeroesZeroesParts) {
    put(320, pattern(64, 7));
    ASSERT_TRUE(linear(0, 0, 64, 320));
    EXPECT_EQ(target().write_zeroes(8, 24)->error(), 0);
    EXPECT_EQ(file(328, 8), pattern(8, 0));
    EXPECT_EQ(event().start, 16u);
    EXPECT_EQ(target().read(0, 8)->data(), pattern(8, 7));
}

TEST_F(FakeChannelTest, PolicyAskMissesWithItsExactRange) {
    dmu_command map;
    dmu_cmd_map_linear(&map, 0, 0, 64, 0, 320, DMU_MAP_WRITABLE);
    dmu_cmd_policies(&map, DMU_POLICY_ASK, DMU_POLICY_IGNORE);
    ASSERT_TRUE(send(map));
    const auto discard = target().discard(5, 20);
    const dmu_event miss = event();
    EXPECT_EQ(miss.op, DMU_OP_DISCARD);
    EXPECT_EQ(miss.start, 5u);
    dmu_command done;
    dmu_cmd_done(&done, miss.id);
    ASSERT_TRUE(send(done));
    // Asked again for what the first answer did not cover, if anything.
    while (!discard->done()) {
        dmu_cmd_done(&done, event().id);
        ASSERT_TRUE(send(done));
    }
    EXPECT_EQ(discard->error(), 0);
}

TEST_F(FakeChannelTest, SuccessorGetsLogPlacesMissesAndDescriptors) {
    ASSERT_TRUE(zero(0, 0, 160));
    first_write(0, 16, 320, 1);
    target().hold_places(true);
    const auto held = target().write(16, pattern(16, 2));
    auto all = events();
    ASSERT_TRUE(place(all.back().id, 16, 16, 336));
    const auto told = target().write(32, pattern(16, 3));
    const dmu_event first = event();
    const auto flush = target().flush();
    channel_.reset();
    const auto untold = target().read(500, 1);

    attach();
    all = events();
    ASSERT_THAT(all, SizeIs(6));
    EXPECT_EQ(all[0].type, DMU_EV_CHANGED);
    EXPECT_EQ(all[1].type, DMU_EV_PLACED);
    EXPECT_EQ(all[1].physical, 336u);
    EXPECT_EQ(all[2].type, DMU_EV_ATTACHED);
    EXPECT_EQ(all[2].sequence, 1u);
    EXPECT_EQ(all[2].length, sectors);
    EXPECT_EQ(all[3].type, DMU_EV_MISS);
    EXPECT_EQ(all[3].id, first.id);
    EXPECT_EQ(all[3].flags & DMU_MISS_AGAIN, DMU_MISS_AGAIN);
    EXPECT_EQ(all[4].flags & DMU_MISS_AGAIN, 0u);
    EXPECT_EQ(all[5].type, DMU_EV_FLUSH);

    const auto destination = channel_->get_destination(0);
    ASSERT_TRUE(destination);
    EXPECT_EQ(destination->cookie, 77u);
    EXPECT_EQ(destination->sectors, 4096u);
    const auto descriptor = channel_->destination_descriptor(0);
    ASSERT_TRUE(descriptor);
    close(*descriptor);
    EXPECT_EQ(channel_->get_destination(1).error().code, Code::not_found);

    target().hold_places(false);
    EXPECT_EQ(held->error(), 0);
    EXPECT_EQ(event().sequence, 2u);
    ASSERT_TRUE(committed(2));
    EXPECT_TRUE(flush->done());
    EXPECT_FALSE(told->done() || untold->done());
}

TEST_F(FakeChannelTest, OneMapperAtATime) {
    EXPECT_EQ(kernel_.attach("key", false).error().code, Code::busy);
    EXPECT_EQ(kernel_.attach("other", false).error().code, Code::not_found);
    channel_.reset();
    EXPECT_TRUE(kernel_.has_key("key"));  // the table names it
    target().remove_table();
    EXPECT_FALSE(kernel_.has_key("key"));
}

TEST_F(FakeChannelTest, InvalidateForgetsAndDrains) {
    ASSERT_TRUE(zero(0, 0, 64));
    target().hold_places(true);
    target().write(0, pattern(16, 1));
    ASSERT_TRUE(place(event().id, 0, 16, 320));
    dmu_command invalidate;
    dmu_cmd_invalidate(&invalidate, 5, 32, 16);
    ASSERT_TRUE(send(invalidate));
    EXPECT_EQ(event().type, DMU_EV_INVALIDATED);
    dmu_cmd_invalidate(&invalidate, 6, 0, 0);
    ASSERT_TRUE(send(invalidate));
    EXPECT_THAT(events(), SizeIs(0));  // a place is in flight
    target().hold_places(false);
    EXPECT_EQ(events().back().id, 6u);
    const auto read = target().read(40, 1);
    EXPECT_EQ(event().type, DMU_EV_MISS);
}

TEST_F(FakeChannelTest, OldMapDoesNotUndoAChange) {
    ASSERT_TRUE(linear(0, 0, 64, 320));
    target().discard(16, 16);  // sequence 1, not read by the mapper yet
    dmu_command invalidate;
    dmu_cmd_invalidate(&invalidate, 1, 0, 64);
    ASSERT_TRUE(send(invalidate));
    ASSERT_TRUE(linear(0, 0, 64, 320, 0));
    EXPECT_THAT(target().map(), SizeIs(0));
    const auto read = target().read(16, 1);
    auto all = events();
    ASSERT_TRUE(linear(all.back().id, 0, 64, 320, 0));
    EXPECT_FALSE(read->done());  // the miss comes again
    ASSERT_TRUE(zero(event().id, 16, 16, 1));
    EXPECT_EQ(read->data(), pattern(1, 0));
}

TEST_F(FakeChannelTest, FeaturesNotOffered) {
    FakeKernel plain;
    auto channel = plain.attach("k", true);
    ASSERT_TRUE(channel);
    plain.target("k").load_table({.sectors = 64, .grain = 8});
    ASSERT_TRUE((*channel)->add_destination(0, fd_, 0, 0));
    dmu_command map;
    dmu_cmd_map_linear(&map, 0, 0, 8, 0, 0, DMU_MAP_WRITABLE);
    dmu_cmd_mirror(&map, 0, 64);
    EXPECT_EQ((*channel)->write(std::span(&map, 1)).error().code, Code::unsupported);
}

TEST_F(FakeChannelTest, OnceAndMirror) {
    put(320, pattern(1, 5));
    const auto read = target().read(0, 1);
    dmu_command map;
    dmu_cmd_map_linear(&map, event().id, 0, 16, 0, 320, DMU_MAP_ONCE);
    ASSERT_TRUE(send(map));
    EXPECT_EQ(read->data(), pattern(1, 5));
    EXPECT_THAT(target().map(), SizeIs(0));
    dmu_cmd_map_linear(&map, 0, 0, 16, 0, 640, DMU_MAP_WRITABLE);
    dmu_cmd_mirror(&map, 0, 1280);
    ASSERT_TRUE(send(map));
    target().write(1, pattern(1, 6));
    EXPECT_EQ(file(641, 1), pattern(1, 6));
    EXPECT_EQ(file(1281, 1), pattern(1, 6));
}

TEST_F(FakeChannelTest, DestinationsAreChecked) {
    EXPECT_FALSE(channel_->add_destination(0, fd_, 0, 0));     // taken
    EXPECT_FALSE(channel_->add_destination(4096, fd_, 0, 0));  // too high
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    EXPECT_FALSE(channel_->add_destination(1, pipes[0], 0, 0));
    close(pipes[0]);
    close(pipes[1]);
    const int read_only = open(("/proc/self/fd/" + std::to_string(fd_)).c_str(), O_RDONLY);
    EXPECT_FALSE(channel_->add_destination(1, read_only, 0, 0));
    ASSERT_TRUE(channel_->add_destination(1, read_only, DMU_DEST_READ_ONLY, 0));
    close(read_only);  // the kernel has its own
    dmu_command map;
    dmu_cmd_map_linear(&map, 0, 0, 16, 1, 0, DMU_MAP_WRITABLE);
    EXPECT_FALSE(send(map));
    map.flags = 0;
    ASSERT_TRUE(send(map));
    EXPECT_EQ(channel_->remove_destination(1).error().code, Code::busy);
    dmu_command invalidate;
    dmu_cmd_invalidate(&invalidate, 1, 0, 1000);
    ASSERT_TRUE(send(invalidate));
    EXPECT_TRUE(channel_->remove_destination(1));
}

TEST_F(FakeChannelTest, FailEndsWhatWaits) {
    const auto read = target().read(0, 1);
    ASSERT_TRUE(channel_->set_fail(true));
    EXPECT_EQ(read->error(), EIO);
    EXPECT_EQ(target().read(0, 1)->error(), EIO);
    ASSERT_TRUE(channel_->set_fail(false));
    EXPECT_FALSE(target().read(0, 1)->done());
}

TEST_F(FakeChannelTest, ResizeTellsTheMapper) {
    target().load_table({.sectors = 2000, .grain = 16});
    const dmu_event resized = event();
    EXPECT_EQ(resized.type, DMU_EV_RESIZED);
    EXPECT_EQ(resized.length, 2000u);
}

TEST_F(FakeChannelTest, ShrinkKeepsWhatIsNotCommitted) {
    ASSERT_TRUE(zero(0, 0, 160));
    first_write(0, 16, 320, 1);
    ASSERT_TRUE(linear(0, 320, 16, 0));
    target().shrink();
    EXPECT_THAT(target().map(), SizeIs(3)) << "the table does not say that anything may be forgotten";
    target().load_table({.sectors = sectors, .grain = 16, .map_memory = 1024});
    target().shrink();
    const auto map = target().map();
    ASSERT_THAT(map, SizeIs(1));
    EXPECT_EQ(map[0].start, 0u);
    EXPECT_EQ(map[0].length, 16u);
    EXPECT_EQ(target().state().map_limit, 1u << 20);
    EXPECT_EQ(target().state().forgotten, 2u);
}

}  // namespace
}  // namespace dmu
