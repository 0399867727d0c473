/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thin: devices that together are larger than the pool they take their blocks
 * from. A block is taken by the first write, and given back by a discard.
 *
 *     thin METADATA DATA GRAIN-SECTORS NAME:SECTORS [NAME:SECTORS]...
 *
 * Devices that the metadata knows are served whether named or not; others are
 * made. A device's name is its key. What a block of DATA goes through is said
 * in pool.h.
 *
 * A thread for each device; all that they share is under one lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "pool.h"
#include "table.h"

#define POOL 1
enum { START, AGAIN }; /* what is INVALIDATED */

static int send_one(struct thin* thin, const struct dmu_command* command) {
    return dmu_send(thin->channel, command, 1, NULL);
}

/* Blocks to a lease; a device holds at most one and a half of it that it does not use. */
static uint64_t lease_size(const struct pool* pool) {
    uint64_t size = pool->blocks / (32ull * pool->count);

    return size < 8 ? 8 : smaller(size, 512);
}

static uint64_t low_mark(const struct pool* pool) {
    return 2 * lease_size(pool) * pool->count;
}

/* What others have and do not use is to be had again. */
static void recall(struct pool* pool) {
    struct dmu_command command;

    pool->scarce = true;
    dmu_cmd_revoke(&command, POOL);
    for (unsigned i = 0; i < pool->count; i++) (void)send_one(&pool->thins[i], &command);
}

/* In pieces, if need be: one that leaves the device below its mark would not be followed by another. */
static int lease(struct thin* thin) {
    struct pool* pool = thin->pool;
    uint64_t wanted = lease_size(pool), first, count;
    struct dmu_command command;
    int error = 0;

    if (!pool->scarce && pool->free < low_mark(pool)) recall(pool);
    if (pool->scarce) return 0;
    for (; wanted && !error && (count = take(pool, wanted, LEASED, &first)); wanted -= count) {
        dmu_cmd_lease(&command, POOL, thin->table.store, first * pool->grain, count * pool->grain, 0);
        error = send_one(thin, &command);
    }
    return error;
}

/* ----------------------------------------------------------------- commit --- */

/* Blocks that are durably gone are free once what was in flight has ended. */
static int start_drain(struct thin* thin) {
    struct dmu_command command;

    if (thin->draining || !thin->durable) return 0;
    thin->draining = thin->durable;
    dmu_cmd_invalidate(&command, thin->pool->ids + AGAIN, 0, 0);
    return send_one(thin, &command);
}

static int commit(struct thin* thin, uint64_t data_durable) {
    int error = thin->applied > data_durable ? sync_file(thin->pool->data) : 0;
    struct dmu_command command;

    if (!error) error = table_write(&thin->table);
    if (error) return error;
    thin->durable = thin->freed_count;
    dmu_cmd_committed(&command, thin->applied);
    error = send_one(thin, &command);
    return error ? error : start_drain(thin);
}

/* ------------------------------------------------- writes that need blocks --- */

/* 1: it has them, 0: none are there, or an error. */
static int place(struct thin* thin, const struct dmu_event* event) {
    uint64_t first, count = take(thin->pool, table_wants(&thin->table, event), USED, &first);
    struct dmu_command command;
    int error;

    if (!count) return 0;
    table_cmd_place(&thin->table, &command, event, first, count);
    error = send_one(thin, &command);
    return error ? error : 1;
}

/* Will there be free blocks without anybody doing more? What is only not durable yet is made so. */
static bool may_hope(struct pool* pool) {
    bool hope = pool->leased;

    if (pool->undrained) return true;
    for (unsigned i = 0; i < pool->count; i++) {
        struct thin* thin = &pool->thins[i];

        if (thin->freed_count > thin->durable && commit(thin, 0)) continue;
        hope |= thin->freed_count > 0;
    }
    return hope;
}

/* Something has become free, or has turned out not to. */
static int serve_waiting(struct pool* pool) {
    int error = 0;

    if (pool->scarce && pool->free > 2 * low_mark(pool)) {
        pool->scarce = false;
        for (unsigned i = 0; i < pool->count; i++) (void)lease(&pool->thins[i]);
    }
    for (unsigned i = 0; i < pool->count && error >= 0; i++) {
        struct thin* thin = &pool->thins[i];

        while (thin->waiting_count && (error = place(thin, &thin->waiting[thin->waiting_count - 1])) > 0)
            thin->waiting_count--;
        if (thin->waiting_count && !error && !pool->scarce && !pool->undrained) recall(pool);
        while (thin->waiting_count && !error && !may_hope(pool)) {
            struct dmu_command fail;

            dmu_cmd_fail(&fail, thin->waiting[--thin->waiting_count].id, ENOSPC);
            error = send_one(thin, &fail);
        }
    }
    return error < 0 ? error : 0;
}

/* ----------------------------------------------------------------- events --- */

static int miss(struct thin* thin, const struct dmu_event* event) {
    if (event->op != DMU_OP_WRITE || !(event->flags & DMU_MISS_MAPPED) || table_at(&thin->table, event->start))
        return table_map(&thin->table, thin->channel, event);
    /* A first write that found no lease. */
    thin->waiting = grow(thin->waiting, thin->waiting_count, &thin->waiting_room, sizeof(*thin->waiting));
    thin->waiting[thin->waiting_count++] = *event;
    return serve_waiting(thin->pool);
}

static void free_later(struct thin* thin, uint64_t block) {
    set_state(thin->pool, block, FREED);
    thin->freed = grow(thin->freed, thin->freed_count, &thin->freed_room, sizeof(*thin->freed));
    thin->freed[thin->freed_count++] = block;
}

static int changed(struct thin* thin, const struct dmu_event* event) {
    struct pool* pool = thin->pool;
    uint64_t grain = pool->grain, count = (event->length + grain - 1) / grain;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = event->start / grain + i, block = event->physical / grain + i;
        uint64_t old = thin->table.entries[index], now = event->kind == DMU_KIND_LINEAR ? block + 1 : 0;

        /* LOST is nobody's until the next start. */
        if (event->kind != DMU_KIND_ZERO) set_state(pool, block, USED);
        if (event->kind == DMU_KIND_LOST) continue;
        /* They are the same where a predecessor wrote the table and died before it said so. */
        if (old && old != now) free_later(thin, old - 1);
        table_set(&thin->table, index, now);
    }
    thin->applied = event->sequence;
    return serve_waiting(pool);
}

/*
 * Changes that a predecessor had written to the table but not said so have been
 * applied a second time, older ones over newer: what they seemed to free may be
 * in use, or freed twice.
 */
static void sift_freed(struct thin* thin) {
    uint64_t kept = 0;

    for (uint64_t i = 0; i < thin->freed_count; i++) {
        if (thin->pool->state[thin->freed[i]] != FREED) continue;
        set_state(thin->pool, thin->freed[i], SEEN);
        thin->freed[kept++] = thin->freed[i];
    }
    thin->freed_count = kept;
    for (uint64_t i = 0; i < kept; i++) set_state(thin->pool, thin->freed[i], FREED);
}

static int attached(struct thin* thin) {
    struct pool* pool = thin->pool;
    struct dmu_command commands[2];

    sift_freed(thin);
    dmu_cmd_pool(&commands[0], POOL, pool->grain, pool->grain, lease_size(pool) / 2 * pool->grain);
    dmu_cmd_invalidate(&commands[1], pool->ids + START, 0, 0);
    return dmu_send(thin->channel, commands, 2, NULL);
}

static int drained(struct thin* thin, const struct dmu_event* event) {
    struct pool* pool = thin->pool;
    int error = 0;

    if (event->id == pool->ids + AGAIN) {
        for (uint64_t i = 0; i < thin->draining; i++) set_state(pool, thin->freed[i], FREE);
        thin->freed_count -= thin->draining;
        thin->durable -= thin->draining;
        memmove(thin->freed, thin->freed + thin->draining, thin->freed_count * sizeof(*thin->freed));
        thin->draining = 0;
        error = start_drain(thin);
    } else if (event->id == pool->ids + START && !--pool->undrained) {
        for (unsigned i = 0; i < pool->count && !error; i++) error = lease(&pool->thins[i]);
    }
    return error ? error : serve_waiting(pool);
}

/* 1: answered, or failed; the table that could not be written stays dirty. */
static int flush(struct thin* thin, const struct dmu_event* event) {
    struct dmu_command fail;
    int error = commit(thin, event->sequence);

    if (!error) return 1;
    dmu_cmd_fail(&fail, event->id, EIO);
    error = dmu_queue(thin->channel, &fail);
    return error ? error : 1;
}

static int handle(struct thin* thin, const struct dmu_event* event) {
    switch (event->type) {
        case DMU_EV_MISS:
            return miss(thin, event);
        case DMU_EV_CHANGED:
            return changed(thin, event);
        case DMU_EV_FLUSH:
            return flush(thin, event);
        case DMU_EV_LEASED:
            set_states(thin->pool, event, LEASED);
            return 0;
        case DMU_EV_PLACED:
            set_states(thin->pool, event, USED);
            return 0;
        case DMU_EV_REVOKED:
            set_states(thin->pool, event, FREE);
            return serve_waiting(thin->pool);
        case DMU_EV_ATTACHED:
            return attached(thin);
        case DMU_EV_INVALIDATED:
            return drained(thin, event);
        case DMU_EV_LEASE_LOW:
            return lease(thin);
        default:
            return 0;
    }
}

static int on_event(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct thin* thin = context;
    int result;

    (void)channel;
    pthread_mutex_lock(&thin->pool->lock);
    result = handle(thin, event);
    pthread_mutex_unlock(&thin->pool->lock);
    return result;
}

/* ------------------------------------------------------------------- main --- */

static void* run(void* context) {
    struct dmu_handlers handlers = {
        .size = sizeof(handlers), .miss = on_event, .changed = on_event, .flush = on_event, .other = on_event};
    struct thin* thin = context;
    int error = dmu_run(thin->channel, &handlers, thin);

    if (error) die(thin->slot.name, error);
    return NULL;
}

/* All before any is served: what one of them uses is not free for the others. */
static void attach_all(struct pool* pool, const char* data) {
    uint64_t size;

    for (unsigned i = 0; i < pool->count; i++) {
        struct thin* thin = &pool->thins[i];

        thin->channel = attach(thin->slot.name);
        destination(thin->channel, thin->table.store, data, O_RDWR, &size);
    }
    pool->undrained = pool->count;
}

static void serve_all(struct pool* pool) {
    char options[96];
    sigset_t signals;
    int signal;

    snprintf(options, sizeof(options), "5 grain %llu discard %llu write_zeroes", (unsigned long long)pool->grain,
             (unsigned long long)pool->grain);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    for (unsigned i = 0; i < pool->count; i++) {
        struct thin* thin = &pool->thins[i];
        int error = pthread_create(&thin->thread, NULL, run, thin);

        if (error) die("start a thread", error);
        announce(thin->channel, thin->slot.sectors, options);
    }
    sigwait(&signals, &signal);
    for (unsigned i = 0; i < pool->count; i++) dmu_stop(pool->thins[i].channel);
    for (unsigned i = 0; i < pool->count; i++) pthread_join(pool->thins[i].thread, NULL);
}

int main(int argc, char** argv) {
    struct pool pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .ids = fresh_ids()};

    if (argc < 4) usage("METADATA DATA GRAIN-SECTORS [NAME:SECTORS]...");
    pool.grain = number(argv[3], 8);
    if (pool.grain & (pool.grain - 1)) usage("METADATA DATA GRAIN-SECTORS, a power of two, [NAME:SECTORS]...");
    pool_open(&pool, argv[1], argv[2], argv + 4);
    attach_all(&pool, argv[2]);
    serve_all(&pool);
    for (unsigned i = 0; i < pool.count; i++) {
        int error = last_changes(pool.thins[i].channel, on_event, &pool.thins[i]);

        if (!error) error = commit(&pool.thins[i], 0);
        if (error) die(argv[1], error);
    }
    return 0;
}
