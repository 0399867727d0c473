// SPDX-License-Identifier: GPL-2.0-or-later
// The helpers that fill commands.
#include <gtest/gtest.h>

#include <cstring>

#include "xen-backend/libdmu/dmu.h"

namespace {

// What was there before must not shine through.
dmu_command dirty() {
    dmu_command command;
    std::memset(&command, 0xa5, sizeof(command));
    return command;
}

dmu_command expected(std::uint32_t type) {
    dmu_command command{};
    command.type = type;
    command.destination = DMU_NO_DESTINATION;
    command.destination2 = DMU_NO_DESTINATION;
    return command;
}

void expect_same(const dmu_command& got, const dmu_command& wanted) {
    EXPECT_EQ(std::memcmp(&got, &wanted, sizeof(got)), 0);
}

TEST(Commands, MapLinear) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_MAP);
    dmu_cmd_map_linear(&got, 7, 8, 16, 3, 4096, DMU_MAP_WRITABLE);
    wanted.id = 7;
    wanted.start = 8;
    wanted.length = 16;
    wanted.kind = DMU_KIND_LINEAR;
    wanted.destination = 3;
    wanted.physical = 4096;
    wanted.flags = DMU_MAP_WRITABLE;
    expect_same(got, wanted);
}

TEST(Commands, MapsWithoutDestination) {
    struct Case {
        void (*fill)(dmu_command*, std::uint64_t, std::uint64_t, std::uint64_t);
        std::uint32_t kind;
    };
    for (const Case& one : {Case{dmu_cmd_map_zero, DMU_KIND_ZERO}, Case{dmu_cmd_map_ask, DMU_KIND_ASK},
                            Case{dmu_cmd_map_error, DMU_KIND_ERROR}}) {
        dmu_command got = dirty(), wanted = expected(DMU_CMD_MAP);
        one.fill(&got, 1, 2, 3);
        wanted.id = 1;
        wanted.start = 2;
        wanted.length = 3;
        wanted.kind = one.kind;
        expect_same(got, wanted);
    }
}

TEST(Commands, MapCow) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_MAP);
    dmu_cmd_map_cow(&got, 0, 128, 64, 1, 99);
    wanted.start = 128;
    wanted.length = 64;
    wanted.kind = DMU_KIND_COW;
    wanted.destination = 1;
    wanted.physical = 99;
    expect_same(got, wanted);
}

TEST(Commands, Place) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_PLACE);
    dmu_cmd_place(&got, 5, 128, 128, 0, 1000, DMU_READS_ZERO);
    wanted.id = 5;
    wanted.start = wanted.length = 128;
    wanted.destination = 0;
    wanted.physical = 1000;
    wanted.flags = DMU_READS_ZERO;
    expect_same(got, wanted);
}

TEST(Commands, Answers) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_FAIL);
    dmu_cmd_fail(&got, 9, ENOSPC);
    wanted.id = 9;
    wanted.error = ENOSPC;
    expect_same(got, wanted);

    got = dirty(), wanted = expected(DMU_CMD_DONE);
    dmu_cmd_done(&got, 9);
    wanted.id = 9;
    expect_same(got, wanted);

    got = dirty(), wanted = expected(DMU_CMD_COMMITTED);
    dmu_cmd_committed(&got, 77);
    wanted.sequence = 77;
    expect_same(got, wanted);
}

TEST(Commands, Leases) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_POOL);
    dmu_cmd_pool(&got, 1, 128, 8, 1024);
    wanted.pool = 1;
    wanted.length = 128;
    wanted.physical = 8;
    wanted.sequence = 1024;
    expect_same(got, wanted);

    got = dirty(), wanted = expected(DMU_CMD_LEASE);
    dmu_cmd_lease(&got, 1, 2, 4096, 2048, DMU_READS_ZERO);
    wanted.pool = 1;
    wanted.destination = 2;
    wanted.physical = 4096;
    wanted.length = 2048;
    wanted.flags = DMU_READS_ZERO;
    expect_same(got, wanted);

    got = dirty(), wanted = expected(DMU_CMD_REVOKE);
    dmu_cmd_revoke(&got, 1);
    wanted.pool = 1;
    expect_same(got, wanted);
}

TEST(Commands, Invalidate) {
    dmu_command got = dirty(), wanted = expected(DMU_CMD_INVALIDATE);
    dmu_cmd_invalidate(&got, 4, 8, 24);
    wanted.id = 4;
    wanted.start = 8;
    wanted.length = 24;
    expect_same(got, wanted);
}

TEST(Commands, PoliciesAndMirrorAddToAMap) {
    dmu_command got = dirty();
    dmu_cmd_map_linear(&got, 1, 0, 8, 0, 0, DMU_MAP_WRITABLE);
    dmu_cmd_policies(&got, DMU_POLICY_ZERO, DMU_POLICY_ASK);
    dmu_cmd_mirror(&got, 6, 512);
    EXPECT_EQ(got.discard, DMU_POLICY_ZERO);
    EXPECT_EQ(got.zeroes, DMU_POLICY_ASK);
    EXPECT_EQ(got.flags, DMU_MAP_WRITABLE | DMU_MAP_MIRROR);
    EXPECT_EQ(got.destination2, 6u);
    EXPECT_EQ(got.physical2, 512u);
}

}  // namespace
