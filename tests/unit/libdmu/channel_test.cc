// SPDX-License-Identifier: GPL-2.0-or-later
// The C API and the C++ layer over descriptors that are no kernel.
#include "xen-backend/libdmu/channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <vector>

#include "xen-backend/libdmu/internal.h"

namespace {

using testing::HasSubstr;

// A kernel by script; one at a time.
struct Script {
    std::vector<dmu_command> taken;
    std::string bytes;                           // of a command not whole yet
    std::deque<std::pair<ssize_t, int>> writes;  // limit in bytes (or -1 and errno); empty: all
    std::size_t refuse_at = ~0ull;               // the command of this index is refused
    int refuse_with = ERANGE;
    unsigned long request = 0;
    dmu_destination destination{};
    dmu_set set{};
    std::uint32_t removed = 0;
    int ioctl_error = 0;
};
Script* script = nullptr;

ssize_t scripted_write(int, const void* buffer, size_t size) {
    if (!script->writes.empty()) {
        const auto [limit, error] = script->writes.front();
        script->writes.pop_front();
        if (limit < 0) {
            errno = error;
            return -1;
        }
        size = std::min<std::size_t>(size, static_cast<std::size_t>(limit));
    }
    const std::size_t before = script->bytes.size() + script->taken.size() * sizeof(dmu_command);
    const std::size_t wall = script->refuse_at == ~0ull ? ~0ull : script->refuse_at * sizeof(dmu_command);
    if (before >= wall) {
        errno = script->refuse_with;
        return -1;
    }
    size = std::min(size, wall - before);
    script->bytes.append(static_cast<const char*>(buffer), size);
    while (script->bytes.size() >= sizeof(dmu_command)) {
        dmu_command command;
        std::memcpy(&command, script->bytes.data(), sizeof(command));
        script->taken.push_back(command);
        script->bytes.erase(0, sizeof(command));
    }
    return static_cast<ssize_t>(size);
}

int scripted_ioctl(int, unsigned long request, void* argument) {
    script->request = request;
    if (script->ioctl_error != 0) {
        errno = script->ioctl_error;
        return -1;
    }
    auto* destination = static_cast<dmu_destination*>(argument);
    switch (request) {
        case DMU_DEST_ADD:
        case DMU_DEST_GET:
            script->destination = *destination;
            destination->sectors = 2048;
            destination->alignment = 512;
            return 0;
        case DMU_DEST_FD:
            destination->fd = dup(STDERR_FILENO);
            return 0;
        case DMU_DEST_REMOVE:
            script->removed = *static_cast<std::uint32_t*>(argument);
            return 0;
        case DMU_STATE:
            static_cast<dmu_state*>(argument)->sequence = 42;
            return 0;
        case DMU_SET:
            script->set = *static_cast<dmu_set*>(argument);
            return 0;
        default:
            errno = ENOTTY;
            return -1;
    }
}

class ChannelTest : public testing::Test {
protected:
    void SetUp() override {
        script = &script_;
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets_), 0);
        const dmu_system system = {.read = read, .write = scripted_write, .ioctl = scripted_ioctl};
        ASSERT_EQ(dmu_adopt(sockets_[0], "k", &system, &channel_), 0);
    }
    void TearDown() override {
        dmu_close(channel_);
        if (sockets_[1] >= 0) close(sockets_[1]);
        script = nullptr;
    }
    static std::vector<dmu_command> commands(std::size_t count) {
        std::vector<dmu_command> all(count);
        for (std::size_t i = 0; i < count; ++i) dmu_cmd_map_zero(&all[i], i + 1, i * 8, 8);
        return all;
    }
    void expect_taken(std::size_t count) {
        ASSERT_EQ(script_.taken.size(), count);
        for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(script_.taken[i].id, i + 1);
    }

    Script script_;
    int sockets_[2] = {-1, -1};
    dmu_channel* channel_ = nullptr;
};

TEST_F(ChannelTest, DescriptorDoesNotBlockAndIsNotInherited) {
    EXPECT_EQ(dmu_fd(channel_), sockets_[0]);
    EXPECT_STREQ(dmu_key(channel_), "k");
    EXPECT_TRUE(fcntl(sockets_[0], F_GETFL) & O_NONBLOCK);
    EXPECT_TRUE(fcntl(sockets_[0], F_GETFD) & FD_CLOEXEC);
}

TEST_F(ChannelTest, ReadsManyEventsAtOnceAndNoneWithoutBlocking) {
    dmu_event sent[3] = {}, got[8];
    for (unsigned i = 0; i < 3; ++i) sent[i].id = i + 1;
    EXPECT_EQ(dmu_next_events(channel_, got, 8), 0);
    ASSERT_EQ(send(sockets_[1], sent, sizeof(sent), 0), static_cast<ssize_t>(sizeof(sent)));
    EXPECT_EQ(dmu_next_events(channel_, got, 0), 0);
    ASSERT_EQ(dmu_next_events(channel_, got, 8), 3);
    EXPECT_EQ(got[2].id, 3u);
    EXPECT_EQ(dmu_next_events(channel_, got, 8), 0);
}

TEST_F(ChannelTest, OtherEndGone) {
    dmu_event got[1];
    close(sockets_[1]);
    sockets_[1] = -1;
    EXPECT_EQ(dmu_next_events(channel_, got, 1), -EPIPE);
}

TEST_F(ChannelTest, HalfAnEventIsAnError) {
    dmu_event got[2];
    ASSERT_EQ(send(sockets_[1], "half", 4, 0), 4);
    EXPECT_EQ(dmu_next_events(channel_, got, 2), -EPROTO);
}

TEST_F(ChannelTest, PartialWritesAreGoneOnWith) {
    const auto all = commands(5);
    // Also in the middle of a command, interrupted, and full for a moment.
    script_.writes = {{sizeof(dmu_command), 0}, {-1, EINTR}, {100, 0}, {-1, EAGAIN}, {1, 0}};
    std::size_t sent = 0;
    EXPECT_EQ(dmu_send(channel_, all.data(), all.size(), &sent), 0);
    EXPECT_EQ(sent, 5u);
    expect_taken(5);
}

TEST_F(ChannelTest, RefusedOneIsNamed) {
    const auto all = commands(5);
    script_.refuse_at = 3;
    std::size_t sent = 0;
    EXPECT_EQ(dmu_send(channel_, all.data(), all.size(), &sent), -ERANGE);
    EXPECT_EQ(sent, 3u);
    expect_taken(3);
}

TEST_F(ChannelTest, NothingToSendIsNoWrite) {
    script_.refuse_at = 0;
    EXPECT_EQ(dmu_send(channel_, nullptr, 0, nullptr), 0);
    EXPECT_EQ(dmu_send_queued(channel_, nullptr), 0);
}

TEST_F(ChannelTest, QueueGoesOutTogetherAndGoesOnAfterARefusal) {
    auto all = commands(200);  // more than the queue begins with
    for (const auto& command : all) ASSERT_EQ(dmu_queue(channel_, &command), 0);
    EXPECT_TRUE(script_.taken.empty());
    script_.refuse_at = 120;
    dmu_command refused{};
    EXPECT_EQ(dmu_send_queued(channel_, &refused), -ERANGE);
    EXPECT_EQ(refused.id, 121u);
    script_.refuse_at = ~0ull;
    EXPECT_EQ(dmu_send_queued(channel_, &refused), 0);
    ASSERT_EQ(script_.taken.size(), 199u);
    EXPECT_EQ(script_.taken[120].id, 122u);
    EXPECT_EQ(script_.taken[198].id, 200u);
}

TEST_F(ChannelTest, Destinations) {
    dmu_destination answer{};
    EXPECT_EQ(dmu_destination_add(channel_, 5, 17, DMU_DEST_READ_ONLY, 99, &answer), 0);
    EXPECT_EQ(script_.destination.number, 5u);
    EXPECT_EQ(script_.destination.fd, 17);
    EXPECT_EQ(script_.destination.cookie, 99u);
    EXPECT_EQ(answer.sectors, 2048u);
    EXPECT_EQ(dmu_destination_get(channel_, 6, &answer), 0);
    EXPECT_EQ(script_.destination.fd, -1);
    const int fd = dmu_destination_fd(channel_, 5);
    ASSERT_GE(fd, 0);
    EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    EXPECT_EQ(dmu_destination_remove(channel_, 4095), 0);
    EXPECT_EQ(script_.removed, 4095u);
    script_.ioctl_error = EBUSY;
    EXPECT_EQ(dmu_destination_remove(channel_, 5), -EBUSY);
}

TEST_F(ChannelTest, StateAndSettings) {
    dmu_state state{};
    EXPECT_EQ(dmu_get_state(channel_, &state), 0);
    EXPECT_EQ(state.sequence, 42u);
    EXPECT_EQ(dmu_set_wait(channel_, 30), 0);
    EXPECT_EQ(script_.set.what, DMU_SET_WAIT);
    EXPECT_EQ(script_.set.wait_seconds, 30u);
    EXPECT_EQ(dmu_set_fail(channel_, 7), 0);
    EXPECT_EQ(script_.set.what, DMU_SET_FAIL);
    EXPECT_EQ(script_.set.fail, 1u);
}

TEST(Attach, BadKeys) {
    dmu_channel* channel = nullptr;
    EXPECT_EQ(dmu_attach("", 0, &channel), -EINVAL);
    EXPECT_EQ(dmu_attach(std::string(DMU_KEY_MAX, 'x').c_str(), 0, &channel), -ENAMETOOLONG);
    EXPECT_EQ(channel, nullptr);
}

TEST(Attach, MissingModuleIsSaidInWords) {
    if (access("/dev/dmu", F_OK) == 0) GTEST_SKIP() << "this machine has the module loaded";
    dmu_channel* channel = nullptr;
    EXPECT_EQ(dmu_attach("key", DMU_ATTACH_CREATE, &channel), -ENOENT);
    const auto answer = dmu::hello();
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, dmu::Code::not_found);
    EXPECT_THAT(answer.error().message, HasSubstr("cannot open /dev/dmu"));
    EXPECT_THAT(answer.error().message, HasSubstr("modprobe dm-userspace"));
    const auto attached = dmu::attach("key", true);
    ASSERT_FALSE(attached);
    EXPECT_EQ(attached.error().message, answer.error().message);
}

TEST(Version, IsThePackages) {
    EXPECT_STREQ(dmu_version(), DMU_PACKAGE_VERSION);
}

// ---------------------------------------------------------------- C++ layer

class WrappedTest : public ChannelTest {
protected:
    void SetUp() override {
        ChannelTest::SetUp();
        wrapped_ = dmu::wrap_channel(channel_);
        channel_ = nullptr;
    }
    std::unique_ptr<dmu::Channel> wrapped_;
};

TEST_F(WrappedTest, WriteNamesTheRefusedCommand) {
    script_.refuse_at = 1;
    const auto all = commands(3);
    const dmu::Status done = wrapped_->write(all);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, dmu::Code::invalid);
    EXPECT_THAT(done.error().message, HasSubstr("target 'k'"));
    EXPECT_THAT(done.error().message, HasSubstr("command 2 of 3 (MAP id 2 start 8 length 8"));
    EXPECT_THAT(done.error().message, HasSubstr("outside the device or the destination"));
}

TEST_F(WrappedTest, WriteSomeTellsHowFarItGot) {
    script_.refuse_at = 2;
    const auto all = commands(3);
    const auto done = wrapped_->write_some(all);
    ASSERT_TRUE(done);
    EXPECT_EQ(*done, 2u);
    EXPECT_FALSE(wrapped_->write_some(std::span(all).subspan(2)));
}

TEST_F(WrappedTest, ReadsEvents) {
    dmu_event sent[2] = {}, got[4];
    ASSERT_EQ(send(sockets_[1], sent, sizeof(sent), 0), static_cast<ssize_t>(sizeof(sent)));
    const auto count = wrapped_->read(got);
    ASSERT_TRUE(count);
    EXPECT_EQ(*count, 2u);
    EXPECT_EQ(wrapped_->key(), "k");
}

TEST_F(WrappedTest, ErrorsHaveCodes) {
    script_.ioctl_error = ENOENT;
    EXPECT_EQ(wrapped_->get_destination(3).error().code, dmu::Code::not_found);
    script_.ioctl_error = EBUSY;
    const auto busy = wrapped_->remove_destination(3);
    EXPECT_EQ(busy.error().code, dmu::Code::busy);
    EXPECT_THAT(busy.error().message, HasSubstr("still mapped or in flight"));
    script_.ioctl_error = EBADF;
    EXPECT_THAT(wrapped_->add_destination(3, 0, 0, 0).error().message, HasSubstr("destination 3"));
}

}  // namespace
