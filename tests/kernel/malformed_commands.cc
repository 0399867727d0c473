// SPDX-License-Identifier: GPL-2.0-or-later
// Commands with one thing wrong each.
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/kernel/malformed.h"

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

namespace {

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

}  // namespace

void refuse_commands() {
    refuse_maps();
    refuse_places();
    refuse_leases();
    refuse_rest();
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
