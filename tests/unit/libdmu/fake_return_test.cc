// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that come back to the mapper, and flushes that it is asked for, in the fake kernel.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

#include "tests/fakes/fake_channel.h"
#include "xen-backend/libdmu/dmu.h"

namespace dmu {
namespace {

std::vector<std::byte> pattern(std::uint64_t sectors, unsigned value) {
    return std::vector<std::byte>(sectors * DMU_SECTOR_SIZE, static_cast<std::byte>(value));
}

class FakeReturnTest : public testing::Test {
protected:
    void SetUp() override {
        for (int& fd : files_) {
            char name[] = "/tmp/fake-return-XXXXXX";
            fd = mkstemp(name);
            ASSERT_GE(fd, 0);
            unlink(name);
            ASSERT_EQ(ftruncate(fd, 1000 * 512), 0);
        }
        attach();
        ASSERT_TRUE(channel_->add_destination(0, files_[0], 0, 0));
        ASSERT_TRUE(channel_->add_destination(1, files_[1], 0, 0));
        target().load_table({.sectors = 1000, .ask_flush = true});
        events();
    }
    void TearDown() override {
        for (const int fd : files_) close(fd);
    }

    FakeTarget& target() { return kernel_.target("key"); }
    void attach() {
        channel_.reset();
        auto made = kernel_.attach("key", true);
        ASSERT_TRUE(made) << made.error().message;
        channel_ = std::move(*made);
    }
    std::vector<dmu_event> events() {
        std::vector<dmu_event> all(64);
        all.resize(*channel_->read(all));
        return all;
    }
    dmu_event event() {
        const auto all = events();
        EXPECT_EQ(all.size(), 1u);
        return all.empty() ? dmu_event{} : all[0];
    }
    bool send(const dmu_command& command) { return static_cast<bool>(channel_->write(std::span(&command, 1))); }
    bool ask() {
        dmu_command map;
        dmu_cmd_map_ask(&map, 0, 0, 1000);
        return send(map);
    }
    bool once(const dmu_event& miss, std::uint64_t length, std::uint32_t flags) {
        dmu_command map;
        dmu_cmd_map_linear(&map, miss.id, miss.start, length, 0, miss.start, DMU_MAP_WRITABLE | DMU_MAP_ONCE | flags);
        return send(map);
    }
    bool mirror(std::uint32_t flags) {
        dmu_command map;
        dmu_cmd_map_linear(&map, 0, 0, 500, 0, 0, DMU_MAP_WRITABLE | flags);
        dmu_cmd_mirror(&map, 1, 100);
        return send(map);
    }
    bool done(std::uint64_t id) {
        dmu_command command;
        dmu_cmd_done(&command, id);
        return send(command);
    }
    bool fail(std::uint64_t id, std::uint32_t error) {
        dmu_command command;
        dmu_cmd_fail(&command, id, error);
        return send(command);
    }
    std::vector<std::byte> file(int which, std::uint64_t physical, std::uint64_t length) {
        std::vector<std::byte> bytes(length * 512);
        EXPECT_EQ(pread(files_[which], bytes.data(), bytes.size(), static_cast<off_t>(physical * 512)),
                  static_cast<ssize_t>(bytes.size()));
        return bytes;
    }

    FakeKernel kernel_{DMU_FEATURE_LOG | DMU_FEATURE_ONCE | DMU_FEATURE_MIRROR | DMU_FEATURE_RETURN |
                       DMU_FEATURE_ASK_FLUSH};
    std::unique_ptr<Channel> channel_;
    int files_[2] = {-1, -1};
};

TEST_F(FakeReturnTest, WriteComesBackAndIsLetGo) {
    ASSERT_TRUE(ask());
    const auto write = target().write(8, pattern(4, 1), DMU_MISS_FUA);
    const dmu_event miss = event();
    EXPECT_EQ(miss.flags & (DMU_MISS_FUA | DMU_MISS_RETURNED), DMU_MISS_FUA);
    ASSERT_TRUE(once(miss, 4, DMU_MAP_RETURN));
    EXPECT_EQ(file(0, 8, 4), pattern(4, 1));
    EXPECT_FALSE(write->done());
    const dmu_event back = event();
    EXPECT_NE(back.id, miss.id);
    EXPECT_EQ(back.flags & (DMU_MISS_FUA | DMU_MISS_RETURNED), DMU_MISS_FUA | DMU_MISS_RETURNED);
    EXPECT_EQ(back.start, 8u);
    EXPECT_EQ(back.length, 4u);
    EXPECT_EQ(back.error, 0u);
    ASSERT_TRUE(done(back.id));
    EXPECT_TRUE(write->done());
    EXPECT_EQ(write->error(), 0);
}

TEST_F(FakeReturnTest, ComesBackInPartsAndMayFail) {
    ASSERT_TRUE(ask());
    const auto write = target().write(8, pattern(4, 1));
    ASSERT_TRUE(once(event(), 3, DMU_MAP_RETURN));
    const dmu_event back = event();
    EXPECT_EQ(back.length, 3u);
    ASSERT_TRUE(done(back.id));
    const dmu_event rest = event();
    EXPECT_EQ(rest.start, 11u);
    EXPECT_EQ(rest.length, 1u);
    ASSERT_TRUE(fail(rest.id, ENOSPC));
    EXPECT_EQ(write->error(), ENOSPC);
}

TEST_F(FakeReturnTest, DoneReadHasWhatItsRequestReadOrZeros) {
    ASSERT_TRUE(ask());
    target().write(0, pattern(8, 7));
    ASSERT_TRUE(once(event(), 8, 0));
    const auto read = target().read(0, 8);
    ASSERT_TRUE(once(event(), 8, DMU_MAP_RETURN));
    ASSERT_TRUE(done(event().id));
    EXPECT_EQ(read->data(), pattern(8, 7));
    const auto never = target().read(0, 8);
    ASSERT_TRUE(done(event().id));
    EXPECT_TRUE(never->done());
    EXPECT_EQ(never->data(), pattern(8, 0));
}

TEST_F(FakeReturnTest, FailingLegIsTold) {
    ASSERT_TRUE(mirror(DMU_MAP_TELL));
    EXPECT_EQ(target().write(0, pattern(8, 3))->error(), 0);
    EXPECT_THAT(events(), testing::SizeIs(0));
    EXPECT_EQ(file(1, 100, 8), pattern(8, 3));
    target().fail_destination(1, EIO);
    const auto write = target().write(0, pattern(8, 4));
    const dmu_event back = event();
    EXPECT_EQ(back.flags, DMU_MISS_RETURNED | DMU_MISS_SECOND_FAILED);
    EXPECT_EQ(back.error, static_cast<std::uint32_t>(EIO));
    EXPECT_EQ(file(0, 0, 8), pattern(8, 4));
    dmu_command command;
    dmu_cmd_invalidate(&command, 1, 0, 500);
    ASSERT_TRUE(send(command));
    EXPECT_EQ(event().type, DMU_EV_INVALIDATED);
    dmu_cmd_map_linear(&command, back.id, 0, 500, 0, 0, DMU_MAP_WRITABLE);
    ASSERT_TRUE(send(command));
    EXPECT_TRUE(write->done());
    EXPECT_EQ(write->error(), 0);
}

TEST_F(FakeReturnTest, SuccessorIsToldAgain) {
    ASSERT_TRUE(ask());
    const auto write = target().write(8, pattern(4, 1));
    ASSERT_TRUE(once(event(), 4, DMU_MAP_RETURN));
    event();
    attach();
    const auto all = events();
    ASSERT_EQ(all.size(), 2u);
    EXPECT_EQ(all[1].flags, DMU_MISS_RETURNED | DMU_MISS_AGAIN);
    ASSERT_TRUE(done(all[1].id));
    EXPECT_TRUE(write->done());
}

TEST_F(FakeReturnTest, FlushWithNothingToCommitIsAsked) {
    const auto first = target().flush(), second = target().flush();
    const auto asked = events();
    ASSERT_EQ(asked.size(), 2u);
    EXPECT_EQ(asked[0].type, DMU_EV_FLUSH);
    EXPECT_EQ(asked[0].flags, DMU_FLUSH_ASKED);
    dmu_command command;
    dmu_cmd_committed(&command, asked[0].sequence);
    ASSERT_TRUE(send(command));
    EXPECT_FALSE(first->done());
    ASSERT_TRUE(done(asked[0].id));
    EXPECT_EQ(first->error(), 0);
    ASSERT_TRUE(fail(asked[1].id, EIO));
    EXPECT_EQ(second->error(), EIO);
}

TEST_F(FakeReturnTest, RefusesWhatMakesNoSense) {
    dmu_command map;
    dmu_cmd_map_linear(&map, 0, 0, 8, 0, 0, DMU_MAP_RETURN);
    EXPECT_FALSE(send(map));
    dmu_cmd_map_zero(&map, 0, 0, 8);
    map.flags = DMU_MAP_TELL;
    EXPECT_FALSE(send(map));
    target().read(0, 8);
    EXPECT_FALSE(done(event().id));  // waits for the map, not for a word
}

}  // namespace
}  // namespace dmu
