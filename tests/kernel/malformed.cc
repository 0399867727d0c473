// SPDX-License-Identifier: GPL-2.0-or-later
// Commands and ioctls that a channel must refuse: each gets its errno and changes
// nothing. For tests/kernel/target.sh; a line "ok NAME" or "not ok NAME" for each.
//
//     dmu-malformed KEY BLOCK-DEVICE DIRECTORY
//
// DIRECTORY is on tmpfs, where a file may be larger than what the map can name.
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

namespace {

constexpr uint64_t sectors = 65536, grain = 128;
// What is mapped where; the rest of the device is LINEAR.
constexpr uint64_t zero_start = 32768, hole_start = 49152, hole_stop = 57344;
constexpr uint32_t held = 0, disk = 1, read_only = 2, huge = 3;
constexpr uint32_t pool = 1, other_pool = 2;

dmu_channel* channel;
dmu_state before;

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
    // Reads of the device itself are nobody's fault.
    now.hits_read = now.hits_write = now.misses = 0;
    return now;
}

bool no_event() {
    pollfd fd{dmu_fd(channel), POLLIN, 0};
    return poll(&fd, 1, 0) == 0;
}

// "call" is refused with this errno, and nothing is different afterwards.
void refused(const std::string& name, int error, const std::function<long()>& call) {
    before = state();
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
const void* unreadable() {
    static volatile uintptr_t address = 8;
    return reinterpret_cast<const void*>(address);
}

using Change = void (*)(dmu_command&);

struct Case {
    const char* name;
    int error;
    Change change;
};

// Each case is this command with one thing wrong.
void refuse_all(const std::string& name, const dmu_command& good, const std::vector<Case>& cases) {
    for (const Case& one : cases) {
        dmu_command command = good;
        one.change(command);
        refused(name + ", " + one.name, one.error, [&] { return send(command); });
    }
}

dmu_command map_command() {
    dmu_command command;
    dmu_cmd_map_linear(&command, 0, hole_start, grain, disk, hole_start, DMU_MAP_WRITABLE);
    return command;
}

void refuse_maps() {
    refuse_all(
        "MAP", map_command(),
        {{"no length", EINVAL, [](dmu_command& c) { c.length = 0; }},
         {"a length that overflows", EINVAL, [](dmu_command& c) { c.length = ~0ull; }},
         {"past the device", ERANGE, [](dmu_command& c) { c.length = sectors; }},
         {"a start past the device", ERANGE, [](dmu_command& c) { c.start = 1ull << 60; }},
         {"of kind NONE", EINVAL, [](dmu_command& c) { c.kind = DMU_KIND_NONE; }},
         {"of kind LOST", EINVAL, [](dmu_command& c) { c.kind = DMU_KIND_LOST; }},
         {"of no kind", EINVAL, [](dmu_command& c) { c.kind = ~0u; }},
         {"an unknown flag", EINVAL, [](dmu_command& c) { c.flags |= 1u << 31; }},
         {"a flag of PLACE", EINVAL, [](dmu_command& c) { c.flags |= DMU_READS_ZERO; }},
         {"RETURN without ONCE", EINVAL, [](dmu_command& c) { c.flags |= DMU_MAP_RETURN; }},
         {"ASK with another flag", EINVAL, [](dmu_command& c) { c.flags |= DMU_MAP_ASK; }},
         {"a mirror of zeros", EINVAL, [](dmu_command& c) { c.kind = DMU_KIND_ZERO, c.flags = DMU_MAP_MIRROR; }},
         {"ASK once", EINVAL, [](dmu_command& c) { c.kind = DMU_KIND_ASK, c.flags = DMU_MAP_ONCE; }},
         {"an unknown policy", EINVAL, [](dmu_command& c) { c.discard = DMU_POLICY_ASK + 1; }},
         {"another unknown policy", EINVAL, [](dmu_command& c) { c.zeroes = ~0u; }},
         {"an unknown pool", ENOENT, [](dmu_command& c) { c.pool = 7; }},
         {"an unknown destination", ENOENT, [](dmu_command& c) { c.destination = 7; }},
         {"a number that is none", ENOENT, [](dmu_command& c) { c.destination = ~0u; }},
         {"a destination that is only held", EINVAL, [](dmu_command& c) { c.destination = held; }},
         {"writable on a read-only destination", EINVAL, [](dmu_command& c) { c.destination = read_only; }},
         {"a place past the destination", ERANGE, [](dmu_command& c) { c.physical = 1ull << 40; }},
         {"a place that overflows", ERANGE, [](dmu_command& c) { c.physical = ~0ull - 64; }},
         {"a place that no map can name", ERANGE,
          [](dmu_command& c) { c.destination = huge, c.physical = (1ull << 48) - 64; }},
         {"an unknown mirror", ENOENT, [](dmu_command& c) { c.flags |= DMU_MAP_MIRROR, c.destination2 = 7; }},
         {"a read-only mirror", EINVAL, [](dmu_command& c) { c.flags |= DMU_MAP_MIRROR, c.destination2 = read_only; }},
         {"a mirror's place past its destination", ERANGE,
          [](dmu_command& c) { c.flags |= DMU_MAP_MIRROR, c.destination2 = disk, c.physical2 = ~0ull - 64; }},
         {"reserved space used", EINVAL, [](dmu_command& c) { c.reserved = 1; }}});
}

void refuse_places() {
    dmu_command place;
    dmu_cmd_place(&place, 0, zero_start, grain, disk, hole_start, 0);
    refuse_all("PLACE", place,
               {{"no length", EINVAL, [](dmu_command& c) { c.length = 0; }},
                {"past the device", ERANGE, [](dmu_command& c) { c.start = sectors; }},
                {"an unknown flag", EINVAL, [](dmu_command& c) { c.flags = 1; }},
                {"an unknown policy", EINVAL, [](dmu_command& c) { c.discard = 9; }},
                {"an unknown pool", ENOENT, [](dmu_command& c) { c.pool = 7; }},
                {"an unknown destination", ENOENT, [](dmu_command& c) { c.destination = 7; }},
                {"a read-only destination", EINVAL, [](dmu_command& c) { c.destination = read_only; }},
                {"past the destination", ERANGE, [](dmu_command& c) { c.physical = 1ull << 40; }},
                {"a place that no map can name", ERANGE,
                 [](dmu_command& c) { c.destination = huge, c.physical = 1ull << 50; }}});
}

void refuse_leases() {
    dmu_command command;
    dmu_cmd_lease(&command, pool, disk, hole_start, grain, 0);
    refuse_all("LEASE", command,
               {{"no length", EINVAL, [](dmu_command& c) { c.length = 0; }},
                {"a part of a grain", EINVAL, [](dmu_command& c) { c.length = grain / 2; }},
                {"an unknown flag", EINVAL, [](dmu_command& c) { c.flags = 1; }},
                {"an unknown pool", ENOENT, [](dmu_command& c) { c.pool = 7; }},
                {"an unknown destination", ENOENT, [](dmu_command& c) { c.destination = 7; }},
                {"a read-only destination", EINVAL, [](dmu_command& c) { c.destination = read_only; }},
                {"a length that overflows", ERANGE, [](dmu_command& c) { c.length = ~0ull & ~(grain - 1); }},
                {"past the destination", ERANGE, [](dmu_command& c) { c.physical = 1ull << 40; }},
                {"a place that no map can name", ERANGE,
                 [](dmu_command& c) { c.destination = huge, c.physical = 1ull << 48; }}});
    dmu_cmd_pool(&command, other_pool, grain, grain, 0);
    refuse_all("POOL", command,
               {{"number 0", EINVAL, [](dmu_command& c) { c.pool = 0; }},
                {"a number past the last", EINVAL, [](dmu_command& c) { c.pool = 4097; }},
                {"no grain", EINVAL, [](dmu_command& c) { c.length = 0; }},
                {"a grain that is no power of two", EINVAL, [](dmu_command& c) { c.length = c.physical = 96; }},
                {"a fill unit of its own", EINVAL, [](dmu_command& c) { c.physical = 8; }},
                {"a mark that no pool reaches", EINVAL, [](dmu_command& c) { c.sequence = ~0ull; }},
                {"another grain for one there is", EINVAL,
                 [](dmu_command& c) { c.pool = pool, c.length = c.physical = 2 * grain; }}});
    dmu_cmd_revoke(&command, 7);
    refused("REVOKE, an unknown pool", ENOENT, [&] { return send(command); });
}

void refuse_rest() {
    dmu_command command;
    dmu_cmd_fail(&command, 12345, EIO);
    refuse_all("FAIL", command,
               {{"without an error", EINVAL, [](dmu_command& c) { c.error = 0; }},
                {"with none that exists", EINVAL, [](dmu_command& c) { c.error = 4096; }},
                {"a flag", EINVAL, [](dmu_command& c) { c.flags = 1; }}});
    dmu_cmd_committed(&command, 1);
    refused("COMMITTED, a change still to come", EINVAL, [&] { return send(command); });
    dmu_cmd_invalidate(&command, 1, 8, ~0ull);
    refused("INVALIDATE, a length that overflows", EINVAL, [&] { return send(command); });
    for (uint32_t type : {0u, 10u, ~0u}) {
        command = map_command();
        command.type = type;
        refused("a command of type " + std::to_string(type), EINVAL, [&] { return send(command); });
    }
    command = map_command();
    refused("a write of nothing", EINVAL, [&] { return write(dmu_fd(channel), &command, 0); });
    refused("a part of a command", EINVAL, [&] { return write(dmu_fd(channel), &command, sizeof(command) - 1); });
    refused("a command that can't be read", EFAULT,
            [&] { return write(dmu_fd(channel), unreadable(), sizeof(command)); });
    dmu_event event;
    refused("a read of a part of an event", EINVAL, [&] { return read(dmu_fd(channel), &event, sizeof(event) - 1); });
}

// --- ioctls ---

long add(uint32_t number, int fd, uint32_t flags) {
    dmu_destination wire{};
    wire.number = number;
    wire.fd = fd;
    wire.flags = flags;
    const long result = ioctl(dmu_fd(channel), DMU_DEST_ADD, &wire);
    const int error = errno;
    if (fd > 2 && fd != dmu_fd(channel)) close(fd);
    errno = error;
    return result;
}

void refuse_destinations(const std::string& device, const std::string& file, const std::string& directory) {
    const auto opened = [&](const std::string& path, int mode) {
        const int fd = open(path.c_str(), mode | O_CLOEXEC);
        if (fd < 0) die(path, errno);
        return fd;
    };
    int pipes[2];
    must("pipe", pipe(pipes));
    close(pipes[1]);
    refused("DEST_ADD, no descriptor", EBADF, [&] { return add(8, -1, 0); });
    refused("DEST_ADD, a number past the last", EINVAL, [&] { return add(4096, opened(file, O_RDWR), 0); });
    refused("DEST_ADD, an unknown flag", EINVAL, [&] { return add(8, opened(file, O_RDWR), DMU_DEST_BLOCK); });
    refused("DEST_ADD, a number that is taken", EEXIST, [&] { return add(disk, opened(file, O_RDWR), 0); });
    refused("DEST_ADD, a directory", EINVAL, [&] { return add(8, opened(directory, O_RDONLY), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, a pipe", EINVAL, [&] { return add(8, pipes[0], DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, a character device", EINVAL, [&] { return add(8, opened("/dev/zero", O_RDWR), 0); });
    refused("DEST_ADD, the channel", EINVAL, [&] { return add(8, dmu_fd(channel), 0); });
    refused("DEST_ADD, only a path", EBADF, [&] { return add(8, opened(file, O_PATH), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, opened for reading", EBADF, [&] { return add(8, opened(file, O_RDONLY), 0); });
    refused("DEST_ADD, opened for writing", EBADF, [&] { return add(8, opened(file, O_WRONLY), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, the device itself", EINVAL, [&] { return add(8, opened(device, O_RDWR), 0); });
    refused("DEST_ADD, the device itself, only held", EINVAL,
            [&] { return add(8, opened(device, O_RDONLY), DMU_DEST_HOLD); });
    dmu_destination wire{};
    wire.number = 8;
    refused("DEST_GET, an unknown number", ENOENT, [&] { return ioctl(dmu_fd(channel), DMU_DEST_GET, &wire); });
    refused("DEST_FD, an unknown number", ENOENT, [&] { return ioctl(dmu_fd(channel), DMU_DEST_FD, &wire); });
    for (uint32_t number : {8u, ~0u})
        refused("DEST_REMOVE, number " + std::to_string(number), ENOENT,
                [&] { return ioctl(dmu_fd(channel), DMU_DEST_REMOVE, &number); });
    uint32_t number = disk;
    refused("DEST_REMOVE, one that is mapped", EBUSY, [&] { return ioctl(dmu_fd(channel), DMU_DEST_REMOVE, &number); });
}

void refuse_ioctls(const std::string& key) {
    const int dmu = open("/dev/dmu", O_RDWR | O_CLOEXEC);
    if (dmu < 0) die("/dev/dmu", errno);
    struct dmu_attach attach = {};
    snprintf(attach.key, sizeof(attach.key), "%s", key.c_str());
    refused("ATTACH, twice", EBUSY, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.flags = 1u << 31;
    refused("ATTACH, an unknown flag", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.flags = 0;
    memset(attach.key, 'x', sizeof(attach.key));
    refused("ATTACH, a key without an end", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.key[5] = 0;
    refused("ATTACH, a key that is not there", ENOENT, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.key[0] = 0;
    refused("ATTACH, no key", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    refused("ATTACH, no argument", EFAULT, [&] { return ioctl(dmu, DMU_ATTACH, nullptr); });
    refused("HELLO, no argument", EFAULT, [&] { return ioctl(dmu, DMU_HELLO, nullptr); });
    refused("an unknown ioctl", ENOTTY, [&] { return ioctl(dmu, DMU_STATE, nullptr); });
    refused("an unknown ioctl of a channel", ENOTTY, [&] { return ioctl(dmu_fd(channel), DMU_HELLO, &attach); });
    for (auto request : {DMU_DEST_ADD, DMU_DEST_GET, DMU_DEST_FD, DMU_DEST_REMOVE, DMU_STATE, DMU_SET})
        refused("ioctl " + std::to_string(request & 0xff) + ", no argument", EFAULT,
                [&] { return ioctl(dmu_fd(channel), request, nullptr); });
    dmu_set set{};
    set.what = 1u << 30;
    refused("SET, something unknown", EINVAL, [&] { return ioctl(dmu_fd(channel), DMU_SET, &set); });
    const dmu_command command = map_command();
    dmu_state found;
    must("seteuid", seteuid(65534));
    const long written = send(command);
    const int write_error = errno;
    const long asked = ioctl(dmu_fd(channel), DMU_STATE, &found);
    const int ask_error = errno;
    must("seteuid", seteuid(0));
    verdict(written < 0 && write_error == EPERM, "a command of somebody else", strerror(write_error));
    verdict(asked < 0 && ask_error == EPERM, "an ioctl of somebody else", strerror(ask_error));
    close(dmu);
}

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
        before = state();
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

void take_good_ones() {
    dmu_command commands[4];
    commands[0] = map_command();
    commands[0].start += 2 * grain;
    commands[1] = map_command();
    commands[1].kind = 99;
    commands[2] = commands[0];
    commands[2].start += grain;
    const dmu_state old = state();
    const long taken = write(dmu_fd(channel), commands, 3 * sizeof(dmu_command));
    verdict(taken == long(sizeof(dmu_command)), "of a batch the ones before the bad one are taken",
            std::to_string(taken));
    verdict(state().extents == old.extents + 1, "and none behind it", std::to_string(state().extents));
    verdict(write(dmu_fd(channel), &commands[2], sizeof(dmu_command) + 7) == long(sizeof(dmu_command)),
            "what is left over at the end is left", strerror(errno));
    dmu_cmd_pool(&commands[0], other_pool, grain, grain, 0);
    dmu_cmd_lease(&commands[1], other_pool, huge, (1ull << 48) - 2 * grain, grain, 0);
    verdict(write(dmu_fd(channel), commands, 2 * sizeof(dmu_command)) == 2 * long(sizeof(dmu_command)),
            "the last place that the map can name is taken", strerror(errno));
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
    refuse_maps();
    refuse_places();
    refuse_leases();
    refuse_rest();
    refuse_destinations(device, directory + "/file", directory);
    refuse_ioctls(key);
    refuse_answers(fd);
    take_good_ones();
    close(fd);
    return 0;
}
