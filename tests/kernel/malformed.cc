// SPDX-License-Identifier: GPL-2.0-or-later
// Commands and ioctls that a channel must refuse: each gets its errno and changes
// nothing. For tests/kernel/target.sh; a line "ok NAME" or "not ok NAME" for each.
//
//     dmu-malformed KEY BLOCK-DEVICE DIRECTORY
//
// DIRECTORY is on tmpfs, where a file may be larger than what the map can name.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "tests/kernel/malformed.h"

dmu_channel* channel;

[[noreturn]] void die(const std::string& what, int error) {
    printf("not ok malformed: %s: %s\n", what.c_str(), strerror(error < 0 ? -error : error));
    exit(1);
}

void must(const std::string& what, int result) {
    if (result < 0) die(what, result);
}

void verdict(bool good, const std::string& name, const std::string& detail) {
    printf(good ? "ok malformed: %s\n" : "not ok malformed: %s: %s\n", name.c_str(), detail.c_str());
}

dmu_state state() {
    dmu_state now;
    must("DMU_STATE", dmu_get_state(channel, &now));
    now.hits_read = now.hits_write = now.misses = 0;
    return now;
}

bool no_event() {
    pollfd fd{dmu_fd(channel), POLLIN, 0};
    return poll(&fd, 1, 0) == 0;
}

void refused(const std::string& name, int error, const std::function<long()>& call) {
    const dmu_state before = state();
    errno = 0;
    const long result = call();
    const int found = result < 0 ? errno : 0;
    if (found != error) return verdict(false, name, "it ended with " + std::to_string(found) + ": " + strerror(found));
    const dmu_state now = state();
    if (memcmp(&before, &now, sizeof(now)) != 0) return verdict(false, name, "the state has changed");
    verdict(no_event(), name, "an event came of it");
}

long send(const dmu_command& command) {
    return write(dmu_fd(channel), &command, sizeof(command));
}

void apply(const char* name, const dmu_command& command) {
    if (send(command) != long(sizeof(command))) die(name, errno);
}

// The compiler must not know.
void* unreadable() {
    static volatile uintptr_t address = 8;
    return reinterpret_cast<void*>(address);
}

namespace {

// --- what waits for an answer ---

// A child that does this to the device; its status says how it went.
pid_t start(const std::function<bool()>& work) {
    fflush(stdout);
    const pid_t child = fork();
    must("fork", child);
    if (child == 0) _exit(work() ? 0 : 1);
    return child;
}

bool ended_well(pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    return status == 0;
}

dmu_event next_event(uint32_t type) {
    pollfd fd{dmu_fd(channel), POLLIN, 0};
    dmu_event event{};
    while (event.type != type) {
        if (poll(&fd, 1, 20000) != 1) die("an event of type " + std::to_string(type), ETIMEDOUT);
        must("events", dmu_next_events(channel, &event, 1));
    }
    return event;
}

void refuse_answers(int device) {
    static char data[grain * 512] __attribute__((aligned(4096)));
    const pid_t writer = start([&] {
        return pwrite(device, data, sizeof(data), hole_start * 512) == long(sizeof(data)) && fsync(device) == 0;
    });
    pollfd readable{dmu_fd(channel), POLLIN, 0};
    poll(&readable, 1, 20000);
    const long blind = read(dmu_fd(channel), unreadable(), sizeof(dmu_event));
    verdict(blind < 0 && errno == EFAULT, "a read that faults is refused", std::to_string(blind));
    // And has lost nothing.
    dmu_event miss = next_event(DMU_EV_MISS);
    dmu_command command;
    dmu_cmd_place(&command, miss.id, miss.start, grain, disk, hole_start, 0);
    refuse_all("PLACE for a miss", command,
               {{"another start", EINVAL, [](dmu_command& c) { c.start += grain; }},
                {"longer than it", EINVAL, [](dmu_command& c) { c.length += grain; }},
                {"a part of a grain", EINVAL, [](dmu_command& c) { c.length = 8; }}});
    dmu_cmd_fail(&command, miss.id, 0);
    refused("FAIL for a miss, without an error", EINVAL, [&] { return send(command); });
    dmu_cmd_done(&command, miss.id);
    refused("DONE for a miss that wants a place", EINVAL, [&] { return send(command); });

    dmu_cmd_map_zero(&command, 0, hole_start, grain);
    apply("MAP of zeros", command);
    dmu_cmd_place(&command, miss.id, miss.start, grain, disk, hole_start, 0);
    apply("PLACE", command);
    const uint64_t changed = next_event(DMU_EV_CHANGED).sequence;
    const dmu_event flush = next_event(DMU_EV_FLUSH);
    dmu_cmd_done(&command, flush.id);
    refused("DONE for a flush whose changes are not committed", EINVAL, [&] { return send(command); });
    dmu_cmd_committed(&command, changed + 1);
    refused("COMMITTED, one too many", EINVAL, [&] { return send(command); });
    dmu_cmd_committed(&command, changed);
    apply("COMMITTED", command);
    verdict(ended_well(writer), "the write that was asked for ends well", "it does not");

    // Ids of the past are no error, and do nothing.
    for (uint64_t id : std::initializer_list<uint64_t>{miss.id, flush.id, 0, UINT64_MAX}) {
        dmu_cmd_fail(&command, id, EIO);
        const dmu_state before = state();
        apply("FAIL of the past", command);
        const dmu_state now = state();
        verdict(memcmp(&before, &now, sizeof(now)) == 0 && no_event(), "an id that is gone is let be",
                "id " + std::to_string(id) + " did something");
    }
    // So does a place for one: it comes back.
    dmu_cmd_place(&command, miss.id, hole_start + grain, grain, disk, hole_start + grain, 0);
    apply("PLACE of the past", command);
    verdict(next_event(DMU_EV_CHANGED).kind == DMU_KIND_LOST, "a place for a miss that is gone is lost", "it is not");
}

bool ended_soon(pid_t child) {
    int status = -1;
    for (int tries = 0; tries < 200; tries++) {
        if (waitpid(child, &status, WNOHANG) == child) return status == 0;
        usleep(100000);
    }
    return false;
}

// Of a request one part is mapped and another misses: a drain does not wait for the answer.
void drain_before_an_answer(int device, const std::string& path) {
    static char data[2 * grain * 512] __attribute__((aligned(4096)));
    constexpr uint64_t known = hole_start + 4 * grain;
    constexpr uint32_t another = 8;
    static_assert(known + 2 * grain <= hole_stop);
    dmu_command command;
    dmu_cmd_map_linear(&command, 0, known, grain, disk, known, DMU_MAP_WRITABLE);
    apply("MAP of the first part", command);
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    must(path, dmu_destination_add(channel, another, fd, 0, 0, nullptr));
    close(fd);
    const pid_t reader = start([&] { return pread(device, data, sizeof(data), known * 512) == long(sizeof(data)); });
    const dmu_event miss = next_event(DMU_EV_MISS);
    verdict(miss.start == known + grain, "the second part of a request misses", std::to_string(miss.start));
    const pid_t remover = start([] {
        uint32_t number = another;
        return ioctl(dmu_fd(channel), DMU_DEST_REMOVE, &number) == 0;
    });
    verdict(ended_soon(remover), "a drain does not wait for what a miss is answered", "it does");
    dmu_cmd_map_linear(&command, miss.id, miss.start, miss.length, disk, miss.start, DMU_MAP_WRITABLE);
    apply("MAP of the second part", command);
    verdict(ended_well(reader), "and the request ends well", "it does not");
}

void set_up(const std::string& key, const std::string& disk_path, const std::string& file) {
    must("attach", dmu_attach(key.c_str(), DMU_ATTACH_CREATE, &channel));
    const auto give = [&](uint32_t number, const std::string& path, int mode, uint32_t flags) {
        const int fd =
            open(path.c_str(), mode | (number == disk || number == read_only ? 0 : O_CREAT) | O_CLOEXEC, 0600);
        if (fd < 0) die(path, errno);
        if (number == huge && ftruncate(fd, 1l << 60)) die(path, errno);
        must(path, dmu_destination_add(channel, number, fd, flags, 0, nullptr));
        close(fd);
    };
    give(held, file, O_RDWR, DMU_DEST_HOLD);
    give(disk, disk_path, O_RDWR, 0);
    give(read_only, disk_path, O_RDONLY, DMU_DEST_READ_ONLY);
    give(huge, file + ".huge", O_RDWR, 0);
    dmu_command commands[6];
    dmu_cmd_pool(&commands[0], pool, grain, grain, 0);
    dmu_cmd_lease(&commands[1], pool, disk, sectors, 8 * grain, 0);
    dmu_cmd_map_linear(&commands[2], 0, 0, zero_start, disk, 0, DMU_MAP_WRITABLE);
    dmu_cmd_map_zero(&commands[3], 0, zero_start, hole_start - zero_start);
    commands[3].pool = pool;
    dmu_cmd_map_linear(&commands[4], 0, hole_stop, sectors - hole_stop, disk, hole_stop, DMU_MAP_WRITABLE);
    must("commands", dmu_send(channel, commands, 5, nullptr));
    const std::string create = "dmsetup create " + key + " --table '0 " + std::to_string(sectors) + " userspace " +
                               key + " 2 grain " + std::to_string(grain) + "'; udevadm settle 2>/dev/null";
    if (system(create.c_str())) die(create, EIO);
    next_event(DMU_EV_ATTACHED);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    const std::string key = argv[1], directory = argv[3], device = "/dev/mapper/" + key;
    set_up(key, argv[2], directory + "/file");
    const int fd = open(device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) die(device, errno);
    refuse_commands();
    refuse_ioctls(key, device, directory + "/file", directory);
    refuse_answers(fd);
    take_good_ones();
    drain_before_an_answer(fd, directory + "/file");
    close(fd);
    return 0;
}
