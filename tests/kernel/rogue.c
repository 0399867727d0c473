/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mapper that misbehaves, for tests/kernel/rogue.sh: what it does may harm its
 * own device and nothing else.
 *
 *     rogue KEY FILE silent|wrong|garbage|churn|greedy [SEED]
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "xen-backend/libdmu/dmu.h"

#define SECTORS 65536u

static uint64_t state;

/* xorshift: the same for the same seed. */
static uint64_t any(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

/* Mostly near what is there, sometimes far outside. */
static uint64_t a_sector(void) {
    return any(8) ? any(SECTORS) : state;
}

/* A command that could be one, in which nothing fits anything else. */
static void make_command(struct dmu_command* command, uint64_t id) {
    memset(command, 0, sizeof(*command));
    command->type = (uint32_t)any(12);
    command->flags = (uint32_t)(any(4) ? any(64) : state);
    command->id = any(3) ? id : any(1000);
    command->start = a_sector();
    command->length = any(4) ? any(1024) : a_sector();
    command->sequence = any(4) ? 0 : any(1000);
    command->physical = a_sector();
    command->physical2 = a_sector();
    command->destination = (uint32_t)any(3);
    command->destination2 = (uint32_t)any(3);
    command->kind = (uint32_t)any(8);
    command->error = (uint32_t)any(5000);
    command->pool = (uint32_t)any(3);
    command->discard = (uint32_t)any(5);
    command->zeroes = (uint32_t)any(5);
}

/* Anything at all, in pieces of any size. */
static void write_garbage(struct dmu_channel* channel) {
    uint64_t words[64];
    size_t size = any(sizeof(words)) + 1;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) words[i] = any(2) ? any(16) : state;
    if (write(dmu_fd(channel), words, size) < 0 && errno == EFAULT) exit(1);
}

/* Its extents and destinations come and go while I/O is under way. */
static void churn(struct dmu_channel* channel, int fd, uint64_t id) {
    struct dmu_command commands[3];

    dmu_cmd_map_linear(&commands[0], id, any(SECTORS / 1024) * 1024, 1024, (uint32_t)any(2), any(SECTORS - 1024),
                       DMU_MAP_WRITABLE);
    dmu_cmd_invalidate(&commands[1], any(100), any(SECTORS), any(SECTORS));
    dmu_cmd_fail(&commands[2], any(2) ? id : any(1000), EIO);
    (void)dmu_send(channel, commands, any(3) + 1, NULL);
    if (!any(16)) (void)dmu_destination_remove(channel, (uint32_t)any(2));
    if (!any(16)) (void)dmu_destination_add(channel, (uint32_t)any(2), fd, 0, 0, NULL);
}

/* Takes what it can get of the kernel's memory. */
static void grab(struct dmu_channel* channel) {
    struct dmu_command command;

    for (int i = 0; i < 256; i++) {
        dmu_cmd_map_linear(&command, 0, any(SECTORS), 1, 0, any(SECTORS), DMU_MAP_WRITABLE);
        (void)dmu_send(channel, &command, 1, NULL);
        dmu_cmd_pool(&command, (uint32_t)any(5000), 8, 8, 0);
        (void)dmu_send(channel, &command, 1, NULL);
        dmu_cmd_lease(&command, (uint32_t)any(5000), 0, any(SECTORS) / 8 * 8, 8, 0);
        (void)dmu_send(channel, &command, 1, NULL);
    }
}

static void act(struct dmu_channel* channel, const char* how, int fd, uint64_t id) {
    struct dmu_command command;

    if (!strcmp(how, "wrong")) {
        make_command(&command, id);
        (void)dmu_send(channel, &command, 1, NULL);
    } else if (!strcmp(how, "garbage")) {
        write_garbage(channel);
    } else if (!strcmp(how, "churn")) {
        churn(channel, fd, id);
    } else if (!strcmp(how, "greedy")) {
        grab(channel);
    }
}

int main(int argc, char** argv) {
    struct dmu_channel* channel = NULL;
    int fd = argc > 3 ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
    uint64_t id = 0;

    if (fd < 0 || dmu_attach(argv[1], DMU_ATTACH_CREATE, &channel)) return 2;
    state = argc > 4 ? strtoull(argv[4], NULL, 0) : 1;
    (void)dmu_destination_add(channel, 0, fd, 0, 0, NULL);
    (void)dmu_destination_add(channel, 1, fd, 0, 0, NULL);
    printf("0 %u userspace %s 0\n", SECTORS, argv[1]);
    fflush(stdout);
    for (;;) {
        struct pollfd poller = {.fd = dmu_fd(channel), .events = POLLIN};
        struct dmu_event events[16];
        int count;

        poll(&poller, 1, 1);
        count = dmu_next_events(channel, events, 16);
        if (count < 0) return 1;
        for (int i = 0; i < count; i++)
            if (events[i].id) id = events[i].id;
        act(channel, argv[3], fd, id);
    }
}
