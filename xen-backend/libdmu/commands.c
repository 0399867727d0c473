/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Filling struct dmu_command. */
#include <string.h>

#include "internal.h"

static void clear(struct dmu_command* command, uint32_t type) {
    memset(command, 0, sizeof(*command));
    command->type = type;
    command->destination = DMU_NO_DESTINATION;
    command->destination2 = DMU_NO_DESTINATION;
}

static void map(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length, uint32_t kind) {
    clear(command, DMU_CMD_MAP);
    command->id = id;
    command->start = start;
    command->length = length;
    command->kind = kind;
}

void dmu_cmd_map_linear(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length, uint32_t destination,
                        uint64_t physical, uint32_t flags) {
    map(command, id, start, length, DMU_KIND_LINEAR);
    command->destination = destination;
    command->physical = physical;
    command->flags = flags;
}

void dmu_cmd_map_zero(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length) {
    map(command, id, start, length, DMU_KIND_ZERO);
}

void dmu_cmd_map_cow(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length, uint32_t destination,
                     uint64_t physical) {
    map(command, id, start, length, DMU_KIND_COW);
    command->destination = destination;
    command->physical = physical;
}

void dmu_cmd_map_ask(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length) {
    map(command, id, start, length, DMU_KIND_ASK);
}

void dmu_cmd_map_error(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length) {
    map(command, id, start, length, DMU_KIND_ERROR);
}

void dmu_cmd_place(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length, uint32_t destination,
                   uint64_t physical, uint32_t flags) {
    clear(command, DMU_CMD_PLACE);
    command->id = id;
    command->start = start;
    command->length = length;
    command->destination = destination;
    command->physical = physical;
    command->flags = flags;
}

void dmu_cmd_fail(struct dmu_command* command, uint64_t id, uint32_t error) {
    clear(command, DMU_CMD_FAIL);
    command->id = id;
    command->error = error;
}

void dmu_cmd_done(struct dmu_command* command, uint64_t id) {
    clear(command, DMU_CMD_DONE);
    command->id = id;
}

void dmu_cmd_committed(struct dmu_command* command, uint64_t sequence) {
    clear(command, DMU_CMD_COMMITTED);
    command->sequence = sequence;
}

void dmu_cmd_pool(struct dmu_command* command, uint32_t pool, uint64_t grain, uint64_t fill, uint64_t low) {
    clear(command, DMU_CMD_POOL);
    command->pool = pool;
    command->length = grain;
    command->physical = fill;
    command->sequence = low;
}

void dmu_cmd_lease(struct dmu_command* command, uint32_t pool, uint32_t destination, uint64_t physical, uint64_t length,
                   uint32_t flags) {
    clear(command, DMU_CMD_LEASE);
    command->pool = pool;
    command->destination = destination;
    command->physical = physical;
    command->length = length;
    command->flags = flags;
}

void dmu_cmd_revoke(struct dmu_command* command, uint32_t pool) {
    clear(command, DMU_CMD_REVOKE);
    command->pool = pool;
}

void dmu_cmd_invalidate(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length) {
    clear(command, DMU_CMD_INVALIDATE);
    command->id = id;
    command->start = start;
    command->length = length;
}

void dmu_cmd_policies(struct dmu_command* command, uint32_t discard, uint32_t zeroes) {
    command->discard = discard;
    command->zeroes = zeroes;
}

void dmu_cmd_mirror(struct dmu_command* command, uint32_t destination2, uint64_t physical2) {
    command->flags |= DMU_MAP_MIRROR;
    command->destination2 = destination2;
    command->physical2 = physical2;
}
