/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pool of thin: which of its blocks are free, and its metadata, which begins
 * with a header and a sector for each device; then comes a table for each.
 *
 * What a block goes through:
 *
 *     FREE -> LEASED -> USED -> FREED -> FREE
 *
 * FREED is a block that no table in memory names, but one on disk may, or a
 * request under way may read it: it is FREE when the table without it is
 * durable, and then what was in flight has ended.
 */
#ifndef DMU_EXAMPLES_POOL_H
#define DMU_EXAMPLES_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common.h"
#include "table.h"

enum { FREE, LEASED, USED, FREED, SEEN };
#define DEVICES 32

/* A sector of its own, so that it is there or not. */
struct slot {
    char name[DMU_KEY_MAX];
    uint64_t sectors, table, checksum;
};

struct pool {
    pthread_mutex_t lock;
    struct thin* thins;
    unsigned count;
    int data, metadata;
    uint64_t grain, blocks;
    unsigned char* state;
    uint64_t free, leased, cursor;
    uint64_t ids;       /* what is INVALIDATED */
    unsigned undrained; /* devices of which I/O that a predecessor let in may be under way */
    bool scarce;        /* no leases: whoever needs a block asks */
};

struct thin {
    struct pool* pool;
    struct dmu_channel* channel;
    struct slot slot;
    struct table table;
    pthread_t thread;
    uint64_t applied;
    /* FREED blocks, oldest first: so many are durably gone, so many of these wait for the drain. */
    uint64_t* freed;
    uint64_t freed_count, durable, draining, freed_room;
    /* Writes that wait for a block. */
    struct dmu_event* waiting;
    uint64_t waiting_count, waiting_room;
};

/* Devices that the metadata knows are loaded, others among the NAME:SECTORS made. */
void pool_open(struct pool* pool, const char* metadata, const char* data, char** names);

void set_state(struct pool* pool, uint64_t block, unsigned char state);
/* Of all the blocks that an event is about. */
void set_states(struct pool* pool, const struct dmu_event* event, unsigned char state);
/* A run of at most most free blocks, looked for from where the last one ended. 0: there is none. */
uint64_t take(struct pool* pool, uint64_t most, unsigned char state, uint64_t* first);

#endif /* DMU_EXAMPLES_POOL_H */
