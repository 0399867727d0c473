// SPDX-License-Identifier: GPL-2.0-or-later
// dmu_run() over a socket pair: the test is the kernel.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "xen-backend/libdmu/internal.h"

namespace {

class LoopTest : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets_), 0);
        ASSERT_EQ(dmu_adopt(sockets_[0], "k", nullptr, &channel_), 0);
        handlers_.size = sizeof(handlers_);
        handlers_.miss = [](dmu_channel* channel, const dmu_event* event, void*) {
            dmu_command map;
            dmu_cmd_map_linear(&map, event->id, event->start, event->length, 0, event->start, DMU_MAP_WRITABLE);
            return dmu_queue(channel, &map);
        };
    }
    void TearDown() override {
        stop();
        dmu_close(channel_);
        close(sockets_[1]);
    }
    void start() {
        thread_ = std::thread([this] { result_ = dmu_run(channel_, &handlers_, this); });
    }
    int stop() {
        if (!thread_.joinable()) return 0;
        dmu_stop(channel_);
        thread_.join();
        return result_;
    }
    int finish() {
        thread_.join();
        return result_;
    }
    void tell(const std::vector<dmu_event>& events) {
        const auto size = static_cast<ssize_t>(events.size() * sizeof(dmu_event));
        ASSERT_EQ(send(sockets_[1], events.data(), static_cast<std::size_t>(size), 0), size);
    }
    // The next write of the loop.
    std::vector<dmu_command> hear() {
        std::vector<dmu_command> commands(512);
        pollfd poller{sockets_[1], POLLIN, 0};
        if (poll(&poller, 1, 5000) != 1) return {};
        const ssize_t size = recv(sockets_[1], commands.data(), commands.size() * sizeof(dmu_command), 0);
        commands.resize(size > 0 ? static_cast<std::size_t>(size) / sizeof(dmu_command) : 0);
        return commands;
    }
    static dmu_event event(std::uint32_t type, std::uint64_t id, std::uint64_t sequence = 0) {
        dmu_event made{};
        made.type = type;
        made.id = id;
        made.start = id * 8;
        made.length = 8;
        made.sequence = sequence;
        return made;
    }

    int sockets_[2] = {-1, -1};
    dmu_channel* channel_ = nullptr;
    dmu_handlers handlers_{};
    std::thread thread_;
    int result_ = 0;
};

TEST_F(LoopTest, AnswersABatchInOneWrite) {
    start();
    tell({event(DMU_EV_MISS, 1), event(DMU_EV_MISS, 2), event(DMU_EV_MISS, 3)});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers[2].type, DMU_CMD_MAP);
    EXPECT_EQ(answers[2].id, 3u);
    EXPECT_EQ(answers[2].start, 24u);
    EXPECT_EQ(stop(), 0);
}

TEST_F(LoopTest, FailedHandlerFailsTheMiss) {
    handlers_.miss = [](dmu_channel*, const dmu_event*, void*) { return -ENOSPC; };
    start();
    tell({event(DMU_EV_MISS, 4)});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].type, DMU_CMD_FAIL);
    EXPECT_EQ(answers[0].error, static_cast<unsigned>(ENOSPC));
    EXPECT_EQ(stop(), 0);
}

TEST_F(LoopTest, FlushIsCommittedAndMapsCarryTheSequence) {
    start();
    tell({event(DMU_EV_CHANGED, 0, 17), event(DMU_EV_MISS, 5), event(DMU_EV_FLUSH, 6, 17)});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[0].sequence, 17u);
    EXPECT_EQ(answers[1].type, DMU_CMD_COMMITTED);
    EXPECT_EQ(answers[1].sequence, 17u);
}

TEST_F(LoopTest, FlushHandlerMayAnswerLater) {
    handlers_.flush = [](dmu_channel*, const dmu_event* flush, void*) { return flush->id == 1 ? 1 : 0; };
    start();
    tell({event(DMU_EV_FLUSH, 1, 1), event(DMU_EV_FLUSH, 2, 2)});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].sequence, 2u);
}

TEST_F(LoopTest, AskedFlushIsDone) {
    start();
    dmu_event asked = event(DMU_EV_FLUSH, 3, 1);
    asked.flags = DMU_FLUSH_ASKED;
    tell({asked});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].type, DMU_CMD_DONE);
    EXPECT_EQ(answers[0].id, 3u);
}

TEST_F(LoopTest, ErrorsOfOtherHandlersEndIt) {
    handlers_.changed = [](dmu_channel*, const dmu_event*, void*) { return -EIO; };
    start();
    tell({event(DMU_EV_MISS, 1), event(DMU_EV_CHANGED, 0, 1), event(DMU_EV_MISS, 2)});
    EXPECT_EQ(finish(), -EIO);
    const auto answers = hear();  // what was answered before is said
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].id, 1u);
}

TEST_F(LoopTest, OtherEventsAndIdle) {
    static std::atomic<int> others, idles;
    others = idles = 0;
    handlers_.other = [](dmu_channel*, const dmu_event* other, void*) {
        others += static_cast<int>(other->type);
        return 0;
    };
    handlers_.idle = [](dmu_channel*, void*) {
        ++idles;
        return 0;
    };
    start();
    tell({event(DMU_EV_ATTACHED, 0), event(DMU_EV_RESIZED, 0), event(DMU_EV_MISS, 1)});
    ASSERT_EQ(hear().size(), 1u);
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(others, DMU_EV_ATTACHED + DMU_EV_RESIZED);
    EXPECT_GE(idles, 2);
}

TEST_F(LoopTest, StopBeforeRun) {
    dmu_stop(channel_);
    EXPECT_EQ(dmu_run(channel_, &handlers_, nullptr), 0);
    // And again afterwards it serves.
    start();
    tell({event(DMU_EV_MISS, 1)});
    EXPECT_EQ(hear().size(), 1u);
}

TEST_F(LoopTest, OlderShorterHandlers) {
    handlers_.size = offsetof(dmu_handlers, flush);
    handlers_.flush = [](dmu_channel*, const dmu_event*, void*) { return -EIO; };  // must not be seen
    start();
    tell({event(DMU_EV_FLUSH, 1, 9)});
    const auto answers = hear();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].type, DMU_CMD_COMMITTED);
}

TEST_F(LoopTest, MissHandlerIsRequired) {
    handlers_.miss = nullptr;
    EXPECT_EQ(dmu_run(channel_, &handlers_, nullptr), -EINVAL);
}

TEST_F(LoopTest, OtherEndGoneEndsIt) {
    start();
    shutdown(sockets_[1], SHUT_RDWR);
    EXPECT_EQ(finish(), -EPIPE);
}

// ---------------------------------------------------------------- refusals

std::vector<dmu_command> taken;
std::uint64_t refused_id;

ssize_t refusing_write(int fd, const void* buffer, size_t size) {
    (void)fd;
    dmu_command first;
    std::memcpy(&first, buffer, sizeof(first));
    if (first.type == DMU_CMD_MAP && first.id == refused_id) {
        errno = ERANGE;
        return -1;
    }
    taken.push_back(first);
    return static_cast<ssize_t>(std::min(size, sizeof(first)));
}

class RefusalTest : public LoopTest {
protected:
    void SetUp() override {
        LoopTest::SetUp();
        channel_->system.write = refusing_write;
        taken.clear();
        refused_id = 2;
        handlers_.other = [](dmu_channel* channel, const dmu_event*, void*) {
            dmu_stop(channel);
            return 0;
        };
    }
};

TEST_F(RefusalTest, RefusedAnswerBecomesAFailure) {
    tell({event(DMU_EV_MISS, 1), event(DMU_EV_MISS, 2), event(DMU_EV_MISS, 3), event(DMU_EV_RESIZED, 0)});
    EXPECT_EQ(dmu_run(channel_, &handlers_, nullptr), 0);
    ASSERT_EQ(taken.size(), 3u);
    EXPECT_EQ(taken[0].id, 1u);
    EXPECT_EQ(taken[1].id, 3u);
    EXPECT_EQ(taken[2].type, DMU_CMD_FAIL);
    EXPECT_EQ(taken[2].id, 2u);
}

TEST_F(RefusalTest, HandlerIsTold) {
    static int told;
    told = 0;
    handlers_.refused = [](dmu_channel*, const dmu_command* command, int error, void*) {
        told = command->id == 2 ? error : 1;
        return 0;
    };
    tell({event(DMU_EV_MISS, 1), event(DMU_EV_MISS, 2), event(DMU_EV_RESIZED, 0)});
    EXPECT_EQ(dmu_run(channel_, &handlers_, nullptr), 0);
    EXPECT_EQ(told, -ERANGE);
    EXPECT_EQ(taken.size(), 1u);
}

TEST_F(RefusalTest, UnaskedMapEndsTheLoop) {
    refused_id = 0;
    handlers_.miss = [](dmu_channel* channel, const dmu_event* miss, void*) {
        dmu_command map;
        dmu_cmd_map_zero(&map, 0, miss->start, 8);
        return dmu_queue(channel, &map);
    };
    tell({event(DMU_EV_MISS, 1)});
    EXPECT_EQ(dmu_run(channel_, &handlers_, nullptr), -ERANGE);
}

}  // namespace
