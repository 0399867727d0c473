/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thin: devices that together are larger than the pool they take their blocks
 * from. A block is taken by the first write, and given back by a discard.
 *
 *     thin METADATA DATA GRAIN-SECTORS NAME:SECTORS [NAME:SECTORS]...
 *
 * Devices that the metadata knows are served whether named or not; others are
 * made. A device's name is its key. METADATA begins with a header, a sector for
 * each device, then a table for each: the block of DATA plus one, or 0.
 *
 * What a block goes through:
 *
 *     FREE -> LEASED -> USED -> FREED -> FREE
 *
 * FREED is a block that no table in memory names, but one on disk may, or a
 * request under way may read it: it is FREE when the table without it is
 * durable, and then what was in flight has ended.
 *
 * A thread for each device; all that they share is under one lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "table.h"

#define DATA 0
enum { FREE, LEASED, USED, FREED, SEEN };
#define POOL 1
#define LEASE 32 /* blocks; a device holds at most one and a half of it that it does not use */
#define DEVICES 32
enum { START, AGAIN }; /* what is INVALIDATED */
#define WINDOW 65536   /* blocks that an answer tells of */

struct header {
    char magic[8];
    uint64_t grain, checksum;
};
static const char magic[8] = "dmu-thn";

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
    uint64_t ids;       /* START and AGAIN follow it */
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

static void* grow(void* array, uint64_t count, uint64_t* room, size_t size) {
    if (count < *room) return array;
    *room = *room ? 2 * *room : 256;
    array = realloc(array, *room * size);
    if (!array) die("memory", ENOMEM);
    return array;
}

static int send_one(struct thin* thin, const struct dmu_command* command) {
    return dmu_send(thin->channel, command, 1, NULL);
}

/* ----------------------------------------------------------------- blocks --- */

static void set_state(struct pool* pool, uint64_t block, unsigned char state) {
    pool->free += (state == FREE) - (pool->state[block] == FREE);
    pool->leased += (state == LEASED) - (pool->state[block] == LEASED);
    pool->state[block] = state;
}

/* A run of at most most free blocks, looked for from where the last one ended. 0: there is none. */
static uint64_t take(struct pool* pool, uint64_t most, unsigned char state, uint64_t* first) {
    uint64_t count = 0;

    if (!pool->free || pool->undrained) return 0;
    while (pool->state[pool->cursor] != FREE) pool->cursor = (pool->cursor + 1) % pool->blocks;
    *first = pool->cursor;
    while (count < most && pool->cursor + count < pool->blocks && pool->state[pool->cursor + count] == FREE)
        set_state(pool, pool->cursor + count++, state);
    pool->cursor = (pool->cursor + count) % pool->blocks;
    return count;
}

static uint64_t low_mark(const struct pool* pool) {
    return 2ull * LEASE * pool->count;
}

static int lease(struct thin* thin) {
    struct pool* pool = thin->pool;
    struct dmu_command command;
    uint64_t first, count;

    if (pool->scarce) return 0;
    if (pool->free < low_mark(pool)) {
        /* What others have and do not use is to be had again. */
        pool->scarce = true;
        dmu_cmd_revoke(&command, POOL);
        for (unsigned i = 0; i < pool->count; i++) (void)send_one(&pool->thins[i], &command);
        return 0;
    }
    count = take(pool, LEASE, LEASED, &first);
    if (!count) return 0;
    dmu_cmd_lease(&command, POOL, DATA, first * pool->grain, count * pool->grain, 0);
    return send_one(thin, &command);
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

/* --------------------------------------------------------------- answers --- */

static uint64_t entry_at(const struct thin* thin, uint64_t sector) {
    return thin->table.entries[sector / thin->pool->grain];
}

/* From a block's first sector on: where does what goes on in one piece end? */
static uint64_t run_end(const struct thin* thin, uint64_t start, uint64_t stop) {
    uint64_t grain = thin->pool->grain, entry = entry_at(thin, start), at = start + grain;

    while (at < stop && entry_at(thin, at) == (entry ? entry + (at - start) / grain : 0)) at += grain;
    return smaller(at, stop);
}

static int map(struct thin* thin, const struct dmu_event* event) {
    uint64_t window = WINDOW * thin->pool->grain, at = event->start / window * window;
    uint64_t last = smaller(round_up_to(event->start + event->length, window), thin->slot.sectors), stop;
    struct dmu_command map;
    int error = 0;

    for (; at < last && !error; at = stop) {
        uint64_t entry = entry_at(thin, at);

        stop = run_end(thin, at, last);
        if (entry)
            dmu_cmd_map_linear(&map, 0, at, stop - at, DATA, (entry - 1) * thin->pool->grain, DMU_MAP_WRITABLE);
        else
            dmu_cmd_map_zero(&map, 0, at, stop - at);
        dmu_cmd_policies(&map, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
        map.pool = POOL;
        if (stop == last) map.id = event->id;
        error = dmu_queue(thin->channel, &map);
    }
    return error;
}

/* Blocks for a write: 1 when it has them, 0: none are there, or an error. */
static int place(struct thin* thin, const struct dmu_event* event) {
    struct pool* pool = thin->pool;
    uint64_t length = run_end(thin, event->start, event->start + event->length) - event->start, first;
    struct dmu_command command;
    int error;

    length = take(pool, (length + pool->grain - 1) / pool->grain, USED, &first) * pool->grain;
    if (!length) return 0;
    dmu_cmd_place(&command, event->id, event->start, smaller(length, event->length), DATA, first * pool->grain, 0);
    dmu_cmd_policies(&command, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
    command.pool = POOL;
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
    if (event->op != DMU_OP_WRITE || !(event->flags & DMU_MISS_MAPPED) || entry_at(thin, event->start))
        return map(thin, event);
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

static void set_states(struct pool* pool, const struct dmu_event* event, unsigned char state) {
    for (uint64_t at = 0; at < event->length; at += pool->grain)
        set_state(pool, (event->physical + at) / pool->grain, state);
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
    struct dmu_command commands[2];

    sift_freed(thin);

    dmu_cmd_pool(&commands[0], POOL, thin->pool->grain, thin->pool->grain, LEASE / 2 * thin->pool->grain);
    dmu_cmd_invalidate(&commands[1], thin->pool->ids + START, 0, 0);
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

static int other(struct thin* thin, const struct dmu_event* event) {
    switch (event->type) {
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

/* 1: answered, or failed; the table that could not be written stays dirty. */
static int flush(struct thin* thin, const struct dmu_event* event) {
    struct dmu_command fail;
    int error = commit(thin, event->sequence);

    if (!error) return 1;
    dmu_cmd_fail(&fail, event->id, EIO);
    error = dmu_queue(thin->channel, &fail);
    return error ? error : 1;
}

static int locked(int (*handle)(struct thin*, const struct dmu_event*), struct thin* thin,
                  const struct dmu_event* event) {
    int result;

    pthread_mutex_lock(&thin->pool->lock);
    result = handle(thin, event);
    pthread_mutex_unlock(&thin->pool->lock);
    return result;
}

static int on_miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    (void)channel;
    return locked(miss, context, event);
}

static int on_changed(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    (void)channel;
    return locked(changed, context, event);
}

static int on_flush(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    (void)channel;
    return locked(flush, context, event);
}

static int on_other(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    (void)channel;
    return locked(other, context, event);
}

/* ----------------------------------------------------------- the metadata --- */

static void open_header(struct pool* pool, const char* path) {
    static const char zeros[PAGE];
    struct header* header = alloc_pages(PAGE);
    int error = read_at(pool->metadata, header, PAGE, 0);

    if (!error && !memcmp(header, zeros, PAGE)) {
        char* slots = alloc_pages(DEVICES * SECTOR);

        /* The header last: it says that the rest is there. */
        error = write_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
        if (!error) error = sync_file(pool->metadata);
        memcpy(header->magic, magic, sizeof(magic));
        header->grain = pool->grain;
        header->checksum = checksum(header, offsetof(struct header, checksum));
        if (!error) error = write_at(pool->metadata, header, PAGE, 0);
        if (!error) error = sync_file(pool->metadata);
        free(slots);
    }
    if (error) die(path, error);
    if (memcmp(header->magic, magic, sizeof(magic)) ||
        header->checksum != checksum(header, offsetof(struct header, checksum)) || header->grain != pool->grain) {
        fprintf(stderr,
                "thin: %s is not the metadata of a pool with blocks of %llu sectors; to make it that, write zeros to "
                "its first 4096 bytes\n",
                path, (unsigned long long)pool->grain);
        exit(1);
    }
    free(header);
}

static void load_device(struct pool* pool, const struct slot* slot) {
    struct thin* thin = &pool->thins[pool->count++];
    uint64_t count = (slot->sectors + pool->grain - 1) / pool->grain;
    int error;

    *thin = (struct thin){.pool = pool, .slot = *slot};
    error = table_load(&thin->table, pool->metadata, slot->table, count);
    if (error) die(slot->name, error);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry = thin->table.entries[i];

        if (!entry) continue;
        if (entry > pool->blocks || pool->state[entry - 1] == USED) {
            fprintf(stderr, "thin: the table of %s is damaged: its block %llu is said to be block %llu of the pool\n",
                    slot->name, (unsigned long long)i, (unsigned long long)entry - 1);
            exit(1);
        }
        set_state(pool, entry - 1, USED);
    }
}

/* Where the next table goes. */
static uint64_t tables_end(const struct pool* pool) {
    const struct thin* last = pool->count ? &pool->thins[pool->count - 1] : NULL;

    return last ? last->slot.table + table_size(last->table.count) : round_up_to(PAGE + DEVICES * SECTOR, PAGE);
}

/* slots: as they are on disk. A table is there before what names it. */
static void make_device(struct pool* pool, char* slots, const char* name, uint64_t sectors) {
    struct slot* slot = (struct slot*)(slots + pool->count * SECTOR);
    int error;

    if (pool->count == DEVICES) die("too many devices in the pool", ENOSPC);
    memcpy(slot->name, name, strlen(name) + 1);
    slot->sectors = sectors;
    slot->table = tables_end(pool);
    slot->checksum = checksum(slot, offsetof(struct slot, checksum));
    error = table_make(pool->metadata, slot->table, (sectors + pool->grain - 1) / pool->grain);
    if (!error) error = write_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
    if (!error) error = sync_file(pool->metadata);
    if (error) die(name, error);
    load_device(pool, slot);
}

static void name_device(struct pool* pool, char* slots, char* word) {
    char* colon = strrchr(word, ':');

    if (!colon || colon == word || colon - word >= DMU_KEY_MAX) usage("METADATA DATA GRAIN NAME:SECTORS...");
    *colon = '\0';
    for (unsigned i = 0; i < pool->count; i++) {
        if (strcmp(pool->thins[i].slot.name, word)) continue;
        if (pool->thins[i].slot.sectors != number(colon + 1, 1)) die(word, EEXIST);
        return;
    }
    make_device(pool, slots, word, number(colon + 1, 1));
}

static void open_metadata(struct pool* pool, const char* path, char** names) {
    char* slots = alloc_pages(DEVICES * SECTOR);
    int error;

    open_header(pool, path);
    error = read_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
    if (error) die(path, error);
    for (unsigned i = 0; i < DEVICES; i++) {
        const struct slot* slot = (const struct slot*)(slots + i * SECTOR);

        if (!slot->checksum) break;
        if (slot->checksum != checksum(slot, offsetof(struct slot, checksum))) die(path, EUCLEAN);
        load_device(pool, slot);
    }
    for (; *names; names++) name_device(pool, slots, *names);
    free(slots);
}

/* ------------------------------------------------------------------- main --- */

static void* run(void* context) {
    struct dmu_handlers handlers = {
        .size = sizeof(handlers), .miss = on_miss, .changed = on_changed, .flush = on_flush, .other = on_other};
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
        destination(thin->channel, DATA, data, O_RDWR, &size);
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
    uint64_t size;
    int error;

    if (argc < 4) usage("METADATA DATA GRAIN-SECTORS [NAME:SECTORS]...");
    pool.grain = number(argv[3], 8);
    if (pool.grain & (pool.grain - 1)) usage("METADATA DATA GRAIN-SECTORS, a power of two, [NAME:SECTORS]...");
    pool.metadata = open_file(argv[1], O_RDWR, &size);
    pool.data = open_file(argv[2], O_RDWR, &size);
    pool.blocks = pool.free = size / pool.grain;
    pool.state = calloc(1, pool.blocks + 1);
    pool.thins = calloc(DEVICES, sizeof(*pool.thins));
    if (!pool.state || !pool.thins) die("memory", ENOMEM);
    open_metadata(&pool, argv[1], argv + 4);
    attach_all(&pool, argv[2]);
    serve_all(&pool);
    for (unsigned i = 0; i < pool.count; i++) {
        error = commit(&pool.thins[i], 0);
        if (error) die(argv[1], error);
    }
    return 0;
}
