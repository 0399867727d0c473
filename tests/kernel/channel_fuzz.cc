// SPDX-License-Identifier: GPL-2.0-or-later
// A fuzzer of the channel, for tests/kernel/target.sh: random commands after a proper
// attach, proper ones with random fields, recorded streams with bits turned, garbage, and
// every ioctl with descriptors of all sorts, from two threads, while I/O runs on the
// device. What it does may harm the device's data and nothing else; every write has to be
// taken or refused with an errno that dm-userspace.h names.
//
//     dmu-channel-fuzz --key KEY --block DEVICE --directory DIR --seconds N [--seed N]
//
// The seed is printed, and repeats what each thread does, not how they meet.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

namespace {

constexpr uint64_t sectors = 65536;

struct Options {
    std::string key, block, directory;
    unsigned seconds = 10;
    uint64_t seed = 0;
};

// What the threads know of each other's channel; ids that it has named.
struct Shared {
    std::atomic<int> fd{-1};
    std::array<std::atomic<uint64_t>, 16> ids{};
    std::atomic<uint64_t> sequence{0};
    std::atomic<uint64_t> writes{0}, taken{0}, refused{0}, ioctls{0}, events{0};
    std::atomic<bool> stop{false}, bad{false};
};

[[noreturn]] void die(const std::string& what) {
    fprintf(stderr, "channel_fuzz: %s: %s\n", what.c_str(), strerror(errno));
    exit(1);
}

// The compiler must not know.
void* unreadable() {
    static volatile uintptr_t address = 8;
    return reinterpret_cast<void*>(address);
}

class Fuzzer {
public:
    Fuzzer(const Options& options, Shared& shared, uint64_t seed) : o_(options), s_(shared), random_(seed) {
        open_all();
    }
    ~Fuzzer() {
        for (int fd : files_) close(fd);
    }
    Fuzzer(const Fuzzer&) = delete;
    Fuzzer& operator=(const Fuzzer&) = delete;

    void step(int fd) {
        switch (any(16)) {
            case 0:
            case 1:
                give(fd, garbage());
                break;
            case 2:
            case 3:
                give(fd, mutated());
                break;
            case 4:
                some_ioctl(fd);
                break;
            case 5:
                destination(fd);
                break;
            default:
                give(fd, some_commands());
        }
    }

    void read_events(int fd) {
        std::array<dmu_event, 32> events;
        const ssize_t got = read(fd, events.data(), any(8) ? sizeof(events) : any(sizeof(events)));
        for (ssize_t i = 0; i < got / ssize_t(sizeof(dmu_event)); i++) {
            s_.events++;
            if (events[i].id) s_.ids[any(s_.ids.size())] = events[i].id;
            if (events[i].sequence) s_.sequence = events[i].sequence;
        }
        if (!any(64)) (void)!read(fd, unreadable(), sizeof(events));
    }

    uint64_t any(uint64_t below) { return random_() % below; }

private:
    void open_all() {
        const auto keep = [this](int fd) {
            if (fd >= 0) files_.push_back(fd);
        };
        const std::string file = o_.directory + "/fuzzed", far = o_.directory + "/far";
        for (int mode : {O_RDWR | O_CREAT, O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_PATH})
            keep(open(file.c_str(), mode | O_CLOEXEC, 0600));
        if (files_.empty() || ftruncate(files_[0], sectors * 512)) die(file);
        // It may be read at any place; written, it would fill the memory.
        const int grown = open(far.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (grown < 0) die(far);
        // Only tmpfs has files as large as that.
        if (!ftruncate(grown, 1l << 60)) keep(open(far.c_str(), O_RDONLY | O_CLOEXEC));
        close(grown);
        for (const std::string& path :
             {o_.block, o_.directory, std::string("/dev/zero"), std::string("/dev/dmu"), "/dev/mapper/" + o_.key,
              std::string("/proc/self/maps"), std::string("/sys/kernel/uevent_seqnum")})
            keep(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        keep(open(o_.block.c_str(), O_RDWR | O_CLOEXEC));
        keep(open(o_.block.c_str(), O_RDWR | O_CLOEXEC | O_DIRECT));
        keep(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int pipes[2];
        if (!pipe2(pipes, O_CLOEXEC)) keep(pipes[0]), keep(pipes[1]);
    }

    // --- commands ---

    uint64_t wild() {
        static constexpr std::array<uint64_t, 10> edges = {
            0, 1, ~0ull, 1ull << 63, (1ull << 48) - 1, 1ull << 48, 1ull << 49, 1ull << 32, sectors, sectors - 1};
        return any(2) ? edges[any(edges.size())] : random_();
    }
    uint64_t sector() { return any(16) ? any(sectors + sectors / 64) : wild(); }
    uint64_t aligned() { return any(sectors) / 128 * 128; }
    uint64_t id() { return any(8) ? s_.ids[any(s_.ids.size())].load() : any(4) ? any(1000) : wild(); }

    // One that could be, in which nothing need fit anything else.
    dmu_command random_command() {
        dmu_command command{};
        command.type = uint32_t(any(64) ? any(11) : wild());
        command.flags = uint32_t(any(3) ? any(128) : any(2) ? 0 : wild());
        command.id = id();
        command.start = any(2) ? aligned() : sector();
        command.length = any(4) ? (1 + any(64)) * (any(2) ? 128 : 1) : sector();
        command.sequence = any(2) ? s_.sequence.load() : any(2) ? any(1000) : wild();
        command.physical = any(2) ? aligned() : sector();
        command.physical2 = any(2) ? aligned() : sector();
        command.destination = uint32_t(any(64) ? any(6) : wild());
        command.destination2 = uint32_t(any(64) ? any(6) : wild());
        command.kind = uint32_t(any(64) ? any(8) : wild());
        command.error = uint32_t(any(64) ? any(200) : wild());
        command.pool = uint32_t(any(64) ? any(4) : wild());
        command.discard = uint32_t(any(64) ? any(4) : wild());
        command.zeroes = uint32_t(any(64) ? any(4) : wild());
        command.reserved = uint32_t(any(64) ? 0 : wild());
        return command;
    }

    // One that has a chance to be taken.
    dmu_command likely_command() {
        dmu_command command;
        const uint64_t start = aligned(), length = std::min((1 + any(16)) * 128, sectors - start);
        const auto number = uint32_t(any(3));
        switch (any(12)) {
            case 0:
                dmu_cmd_map_zero(&command, 0, start, length);
                command.pool = uint32_t(any(2));
                break;
            case 1:
                dmu_cmd_map_cow(&command, 0, start, length, number, aligned());
                command.pool = uint32_t(any(2));
                break;
            case 2:
                dmu_cmd_map_ask(&command, id(), start, length);
                break;
            case 3:
            case 4:
                dmu_cmd_place(&command, id(), start, 128, number, aligned(), any(2) ? DMU_READS_ZERO : 0);
                break;
            case 5:
                dmu_cmd_invalidate(&command, any(100), any(4) ? start : 0, any(4) ? length : sectors);
                break;
            case 6:
                dmu_cmd_lease(&command, 1, number, aligned(), 128 * (1 + any(4)), 0);
                break;
            case 7:
                any(4) ? dmu_cmd_pool(&command, uint32_t(1 + any(2)), 128, 128, any(4096))
                       : dmu_cmd_revoke(&command, uint32_t(1 + any(2)));
                break;
            case 8:
                dmu_cmd_committed(&command, s_.sequence - any(2));
                break;
            case 9:
                any(2) ? dmu_cmd_done(&command, id()) : dmu_cmd_fail(&command, id(), uint32_t(1 + any(120)));
                break;
            default:
                dmu_cmd_map_linear(&command, any(2) ? id() : 0, start, length, number, aligned(),
                                   uint32_t(any(2) ? DMU_MAP_WRITABLE : any(64)));
                if (!any(8)) dmu_cmd_mirror(&command, uint32_t(any(3)), aligned());
        }
        if (!any(4)) dmu_cmd_policies(&command, uint32_t(any(4)), uint32_t(any(4)));
        command.sequence = command.type == DMU_CMD_MAP ? s_.sequence.load() : command.sequence;
        return command;
    }

    std::vector<char> some_commands() {
        std::vector<dmu_command> commands(any(8) ? 1 + any(3) : 1 + any(64));
        const bool likely = any(3);
        for (dmu_command& command : commands) command = likely || any(2) ? likely_command() : random_command();
        const auto* bytes = reinterpret_cast<const char*>(commands.data());
        recorded_.assign(bytes, bytes + commands.size() * sizeof(dmu_command));
        return recorded_;
    }

    // What was sent before, with bits turned, pieces taken out or doubled, cut anywhere.
    std::vector<char> mutated() {
        std::vector<char> stream = recorded_.empty() ? some_commands() : recorded_;
        for (uint64_t i = 0, times = 1 + any(8); i < times && !stream.empty(); i++) {
            const auto at = std::ptrdiff_t(any(stream.size()));
            const auto count = std::ptrdiff_t(any(std::min<uint64_t>(stream.size() - size_t(at), 96)));
            switch (any(5)) {
                case 0:
                    stream.erase(stream.begin() + at, stream.begin() + at + count);
                    break;
                case 1: {
                    const std::vector<char> again(stream.begin() + at, stream.begin() + at + count);
                    stream.insert(stream.begin() + at, again.begin(), again.end());
                    break;
                }
                case 2:
                    stream.resize(size_t(at));
                    break;
                case 3:
                    if (stream.size() >= 8) {
                        const uint64_t word = wild();
                        memcpy(&stream[any(stream.size() / 8) * 8], &word, sizeof(word));
                    }
                    break;
                default:
                    stream[size_t(at)] = char(stream[size_t(at)] ^ (1 << any(8)));
            }
        }
        return stream;
    }

    std::vector<char> garbage() {
        std::vector<char> bytes(any(700));
        for (char& byte : bytes) byte = char(any(3) ? any(4) : any(256));
        return bytes;
    }

    void give(int fd, const std::vector<char>& stream) {
        const ssize_t result =
            any(256) ? write(fd, stream.data(), stream.size()) : write(fd, unreadable(), stream.size());
        s_.writes++;
        if (result >= 0) {
            s_.taken += uint64_t(result) / sizeof(dmu_command);
            if (size_t(result) % sizeof(dmu_command) == 0 && size_t(result) <= stream.size()) return;
            fprintf(stderr, "channel_fuzz: a write of %zu bytes returned %zd\n", stream.size(), result);
            s_.bad = true;
            return;
        }
        s_.refused++;
        static constexpr std::array<int, 7> allowed = {EINVAL, ERANGE, ENOENT, EOPNOTSUPP, ENOMEM, ENOSPC, EFAULT};
        if (std::find(allowed.begin(), allowed.end(), errno) != allowed.end()) return;
        fprintf(stderr, "channel_fuzz: a write ended in %s\n", strerror(errno));
        s_.bad = true;
    }

    // --- ioctls ---

    void destination(int fd) {
        dmu_destination wire{};
        wire.number = uint32_t(any(32) ? any(6) : wild());
        wire.fd = any(8) ? files_[any(files_.size())] : any(2) ? fd : int(any(40)) - 4;
        wire.flags = uint32_t(any(4) ? any(4) : any(2) ? any(16) : wild());
        wire.cookie = random_();
        s_.ioctls++;
        switch (any(6)) {
            case 0:
                (void)ioctl(fd, DMU_DEST_REMOVE, &wire.number);
                break;
            case 1:
                if (!ioctl(fd, DMU_DEST_FD, &wire)) close(wire.fd);
                break;
            case 2:
                (void)ioctl(fd, DMU_DEST_GET, &wire);
                break;
            default:
                (void)ioctl(fd, DMU_DEST_ADD, &wire);
        }
    }

    void some_ioctl(int fd) {
        alignas(8) std::array<char, 256> argument;
        for (char& byte : argument) byte = char(any(2) ? 0 : any(256));
        s_.ioctls++;
        if (any(2)) {
            dmu_set set{};
            set.what = uint32_t(any(8) ? any(4) : wild());
            set.wait_seconds = uint32_t(any(2) ? any(4) : wild());
            set.fail = uint32_t(any(8) == 0);
            (void)ioctl(fd, DMU_SET, &set);
        } else if (any(2)) {
            (void)ioctl(fd, DMU_STATE, any(8) ? argument.data() : nullptr);
        } else if (any(2)) {
            // Never one that makes a descriptor nobody would close.
            const auto number = unsigned(any(64));
            if (number != 10) (void)ioctl(fd, _IOC(any(4), DMU_IOC_MAGIC, number, any(256)), argument.data());
        } else {
            attach_once_more();
        }
    }

    void attach_once_more() {
        struct dmu_attach attach = {};
        const int fd = open("/dev/dmu", O_RDWR | O_CLOEXEC);
        if (fd < 0) return;
        snprintf(attach.key, sizeof(attach.key), "%s", any(2) ? o_.key.c_str() : "another");
        attach.flags = uint32_t(any(8) ? any(2) : wild());
        const int got = ioctl(fd, DMU_ATTACH, &attach);
        if (got >= 0) {
            give(got, some_commands());
            close(got);
        }
        close(fd);
    }

    const Options& o_;
    Shared& s_;
    std::mt19937_64 random_;
    std::vector<int> files_;
    std::vector<char> recorded_;
};

void set_up(const Options& options, dmu_channel* channel) {
    const std::string file = options.directory + "/fuzzed";
    for (const auto& path : {std::make_pair(0u, options.block), std::make_pair(1u, file)}) {
        const int fd = open(path.second.c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0) die(path.second);
        (void)dmu_destination_add(channel, path.first, fd, 0, 0, nullptr);
        close(fd);
    }
    dmu_command pool;
    dmu_cmd_pool(&pool, 1, 128, 128, 1024);
    (void)dmu_send(channel, &pool, 1, nullptr);
    (void)dmu_set_fail(channel, 0);
    (void)dmu_set_wait(channel, 2);
}

// Attaches again and again: what one leaves behind the next is given.
void fuzz(const Options& options, Shared& shared) {
    Fuzzer first(options, shared, options.seed);
    while (!shared.stop) {
        dmu_channel* channel = nullptr;
        // The other thread may have it.
        if (dmu_attach(options.key.c_str(), DMU_ATTACH_CREATE, &channel)) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            continue;
        }
        set_up(options, channel);
        shared.fd = dmu_fd(channel);
        for (uint64_t i = 0, steps = 200 + first.any(2000); i < steps && !shared.stop; i++) {
            first.read_events(dmu_fd(channel));
            first.step(dmu_fd(channel));
        }
        shared.fd = -1;
        dmu_close(channel);
    }
}

// On whatever the descriptor is by now: a channel, nothing, another.
void fuzz_beside(const Options& options, Shared& shared) {
    Fuzzer second(options, shared, options.seed + 1);
    while (!shared.stop) {
        const int fd = shared.fd;
        if (fd < 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            continue;
        }
        // Its own reference: the number may be given to another file meanwhile.
        const int mine = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        if (mine < 0) continue;
        dmu_state state;
        for (int i = 0; i < 100 && !shared.stop && !ioctl(mine, DMU_STATE, &state); i++) second.step(mine);
        close(mine);
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app{"A fuzzer of the kernel target's channel"};
    app.add_option("--key", o.key)->required();
    app.add_option("--block", o.block)->required();
    app.add_option("--directory", o.directory)->required();
    app.add_option("--seconds", o.seconds);
    app.add_option("--seed", o.seed);
    CLI11_PARSE(app, argc, argv);
    if (!o.seed) o.seed = std::random_device{}();
    printf("# seed %llu\n", static_cast<unsigned long long>(o.seed));
    fflush(stdout);
    Shared shared;
    std::thread one(fuzz, std::cref(o), std::ref(shared)), two(fuzz_beside, std::cref(o), std::ref(shared));
    std::this_thread::sleep_for(std::chrono::seconds(o.seconds));
    shared.stop = true;
    one.join();
    two.join();
    printf("# %llu writes, %llu commands taken, %llu writes refused, %llu ioctls, %llu events\n",
           static_cast<unsigned long long>(shared.writes), static_cast<unsigned long long>(shared.taken),
           static_cast<unsigned long long>(shared.refused), static_cast<unsigned long long>(shared.ioctls),
           static_cast<unsigned long long>(shared.events));
    // Something of each, or nothing was tried.
    return shared.bad || !shared.taken || !shared.refused || !shared.events ? 1 : 0;
}
