// SPDX-License-Identifier: GPL-2.0-or-later
// The control socket's two ends, and the state files.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

// One connection that says what it is told to.
class RawClient {
public:
    explicit RawClient(const std::string& path) : socket_(socket(AF_UNIX, SOCK_STREAM, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path.c_str());
        EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        timeval limit{10, 0};
        setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    ~RawClient() { close(socket_); }
    bool say(const std::string& text) {
        return send(socket_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
    }
    // "" at the end of the connection.
    std::string hear() {
        std::string line;
        for (char c; recv(socket_, &c, 1, 0) == 1 && c != '\n';) line += c;
        return line;
    }
    void half_close() { shutdown(socket_, SHUT_WR); }

private:
    int socket_;
};

TEST(Control, GarbageIsAnsweredAndHurtsNobody) {
    Place place;
    TestHost host;
    TestMapper mapper(host);
    RawClient client(control::socket_path("dom-5"));
    for (const char* line : {"", "{", "[]", "42", "{\"command\":7}", "{}", "\xff\xfe", "{\"command\":\"add\"}",
                             "{\"command\":\"remove\"}", "{\"command\":\"dance\"}"}) {
        ASSERT_TRUE(client.say(std::string(line) + "\n"));
        auto reply = control::decode(client.hear());
        ASSERT_TRUE(reply) << line;
        EXPECT_FALSE(control::reply_status(*reply)) << line;
    }
    ASSERT_TRUE(client.say("{\"command\":\"pi"));
    std::this_thread::sleep_for(20ms);
    ASSERT_TRUE(client.say("ng\"}\n{\"command\":\"ping\"}\n"));
    EXPECT_EQ(client.hear(), "{\"ok\":true}");
    EXPECT_EQ(client.hear(), "{\"ok\":true}");
    client.half_close();
    EXPECT_EQ(client.hear(), "");
}

TEST(Control, ALineWithoutEndEndsTheConnection) {
    Place place;
    TestHost host;
    TestMapper mapper(host);
    {
        RawClient client(control::socket_path("dom-5"));
        std::string chunk(4096, 'x');
        for (unsigned i = 0; i < 64 && client.say(chunk); ++i) {
        }
        while (!client.hear().empty()) {
        }
    }
    EXPECT_TRUE(control::call("dom-5", {{"command", "ping"}}));
}

TEST(Control, TheSocketIsRootsAlone) {
    Place place;
    TestHost host;
    TestMapper mapper(host);
    struct stat info;
    ASSERT_EQ(stat(control::socket_path("dom-5").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(Control, ManyClientsAtOnce) {
    Place place;
    TestHost host;
    TestMapper mapper(host);
    std::vector<std::thread> clients;
    std::atomic<unsigned> answered = 0;
    for (unsigned i = 0; i < 16; ++i) {
        clients.emplace_back([&] {
            for (unsigned turn = 0; turn < 20; ++turn) {
                if (control::call("dom-5", {{"command", "list"}})) ++answered;
            }
        });
    }
    for (auto& client : clients) client.join();
    EXPECT_EQ(answered, 320u);
}

TEST(Control, NobodyThereIsNotFound) {
    Place place;
    auto reply = control::call("dom-77", {{"command", "ping"}});
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().code, Code::not_found);
    EXPECT_EQ(control::mapper_pid("dom-77"), 0);
}

TEST(Control, InstancesAreFoundByTheirSockets) {
    Place place;
    TestHost host;
    TestMapper one(host, "dom-5"), two(host, "name-test.1");
    EXPECT_EQ(control::instances(), (std::vector<std::string>{"dom-5", "name-test.1"}));
}

TEST(Control, InstanceNamesAreChecked) {
    for (const char* good : {"dom-0", "dom-123", "name-a", "name-My_disk.1"})
        EXPECT_TRUE(control::check_instance(good));
    for (const char* bad : {"", "dom-", "foo", "name-a/b", "name-..\n", "name-a b", "../dom-1"}) {
        EXPECT_FALSE(control::check_instance(bad)) << bad;
    }
    EXPECT_FALSE(control::check_instance("name-" + std::string(200, 'a')));
}

TEST(Control, AMissingMapperProgramIsTheCause) {
    Place place;
    setenv("XEN_DMU_MAPPER", "/nonexistent/xen-dmu-mapper", 1);
    Status started = control::ensure_mapper("dom-5", 1);
    unsetenv("XEN_DMU_MAPPER");
    ASSERT_FALSE(started);
    EXPECT_NE(started.error().message.find("/nonexistent/xen-dmu-mapper is missing"), std::string::npos);
}

control::DiskState sample_state() {
    control::DiskState state;
    state.instance = "dom-5";
    state.name = "dmu-5-51712";
    state.key = "803-1a2b";
    state.uuid = "DMU-803-1a2b";
    state.spec = "qcow:/vm/a \"disk\", with: \xc3\xa4 and \xff.qcow";
    state.writable = true;
    state.complete = true;
    state.major = 253;
    state.minor = 4;
    state.on_full = "error";
    state.wait_seconds = 17;
    state.commit_seconds = 3;
    state.users = {"backend/vbd/5/51712", "backend/vbd/6/51712"};
    state.files = {{0, 0, "/vm/a", 0, true}, {1, 0, "/vm/\xff", 16, false}};
    return state;
}

TEST(StateFile, ComesBackWhole) {
    Place place;
    control::DiskState state = sample_state();
    ASSERT_TRUE(control::write_state(state));
    auto read = control::read_state(control::state_path(state.key));
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->instance, state.instance);
    EXPECT_EQ(read->name, state.name);
    EXPECT_EQ(read->uuid, state.uuid);
    EXPECT_EQ(read->spec, state.spec);
    EXPECT_EQ(read->writable, true);
    EXPECT_EQ(read->complete, true);
    EXPECT_EQ(read->major, 253u);
    EXPECT_EQ(read->minor, 4u);
    EXPECT_EQ(read->on_full, "error");
    EXPECT_EQ(read->wait_seconds, 17u);
    EXPECT_EQ(read->commit_seconds, 3u);
    EXPECT_EQ(read->users, state.users);
    ASSERT_EQ(read->files.size(), 2u);
    EXPECT_EQ(read->files[1].path, state.files[1].path);
    EXPECT_EQ(read->files[1].destination, 16u);
    EXPECT_TRUE(read->files[0].buffered);
    struct stat info;
    ASSERT_EQ(stat(control::state_path(state.key).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    ASSERT_TRUE(control::remove_state(state.key));
    EXPECT_TRUE(control::remove_state(state.key)) << "missing is no error";
    EXPECT_TRUE(control::all_states().empty());
}

TEST(StateFile, BrokenOnesAreNamedTheOthersRead) {
    Place place;
    ASSERT_TRUE(control::write_state(sample_state()));
    std::ofstream(control::disks_directory() + "/broken.json") << "{\"instance\":";
    std::ofstream(control::disks_directory() + "/empty.json") << "{}";
    std::ofstream(control::disks_directory() + "/half.json.new") << "{}";
    std::vector<std::string> problems;
    EXPECT_EQ(control::all_states(&problems).size(), 1u);
    EXPECT_EQ(problems.size(), 2u);
}

}  // namespace
}  // namespace dmu::test
