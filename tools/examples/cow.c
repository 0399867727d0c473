/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cow: copy-on-write of any device or file. The base is only read; what is
 * written goes to a store, grain by grain.
 *
 *     cow KEY BASE STORE [GRAIN-SECTORS]
 *
 * The store begins with a header and a table of one entry for each grain of the
 * device: where in the store it lies, or 0: in the base. A store whose first
 * page is zeros is made; one that is something else is refused.
 *
 * First writes take their places from a lease, and nobody is asked; the kernel
 * tells of them by CHANGED. They are in memory then, and on disk with the next
 * flush: data first, then the table. Space that no entry of the table names is
 * free, whatever was there when the machine went down.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "table.h"

enum { BASE, STORE };
#define POOL 1
#define LEASE 256    /* grains */
#define WINDOW 65536 /* grains that an answer tells of */

struct header {
    char magic[8];
    uint64_t grain, sectors, checksum; /* of what is before it */
};
static const char magic[8] = "dmu-cow";

struct cow {
    struct table table;
    int store;
    uint64_t sectors, grain;
    uint64_t first, next, end; /* of the store's data, in sectors: where it begins, is free from, ends */
    uint64_t leased;           /* sectors, as far as we were told when we came */
    uint64_t applied;          /* the last change that the table has */
};

/* -------------------------------------------------------------- the store --- */

static void make_store(struct cow* cow, struct header* header) {
    int error;

    memcpy(header->magic, magic, sizeof(magic));
    header->grain = cow->grain;
    header->sectors = cow->sectors;
    header->checksum = checksum(header, offsetof(struct header, checksum));
    /* The header last: it says that there is a table. */
    error = table_make(cow->store, PAGE, (cow->sectors + cow->grain - 1) / cow->grain);
    if (!error) error = write_at(cow->store, header, PAGE, 0);
    if (!error) error = sync_file(cow->store);
    if (error) die("make the store", error);
}

/* The table is believed only if its entries are grains inside the store, each of them once. */
static void check_table(struct cow* cow) {
    uint64_t places = (cow->end - cow->first) / cow->grain;
    unsigned char* taken = calloc(1, places + 1);

    if (!taken) die("memory", ENOMEM);
    for (uint64_t i = 0; i < cow->table.count; i++) {
        uint64_t entry = cow->table.entries[i], place = (entry - cow->first) / cow->grain;

        if (!entry) continue;
        if (entry < cow->first || (entry - cow->first) % cow->grain || place >= places || taken[place]++) {
            fprintf(stderr, "cow: the store's table is damaged: entry %llu says sector %llu\n", (unsigned long long)i,
                    (unsigned long long)entry);
            exit(1);
        }
        if (entry + cow->grain > cow->next) cow->next = entry + cow->grain;
    }
    free(taken);
}

static void open_store(struct cow* cow, const char* path) {
    static const char zeros[PAGE];
    struct header* header = alloc_pages(PAGE);
    int error = read_at(cow->store, header, PAGE, 0);

    if (error) die(path, error);
    if (!memcmp(header, zeros, PAGE)) make_store(cow, header);
    if (memcmp(header->magic, magic, sizeof(magic)) ||
        header->checksum != checksum(header, offsetof(struct header, checksum)) || header->grain == 0) {
        fprintf(stderr, "cow: %s is no store; to make it one, write zeros to its first 4096 bytes\n", path);
        exit(1);
    }
    if (header->sectors != cow->sectors) {
        fprintf(stderr, "cow: %s is the store of a base of %llu sectors, not of %llu\n", path,
                (unsigned long long)header->sectors, (unsigned long long)cow->sectors);
        exit(1);
    }
    cow->grain = header->grain;
    error = table_load(&cow->table, cow->store, PAGE, (cow->sectors + cow->grain - 1) / cow->grain);
    if (error) die(path, error);
    cow->first = cow->next = round_up_to((PAGE + table_size(cow->table.count)) / SECTOR, cow->grain);
    if (cow->first > cow->end) die(path, ENOSPC);
    check_table(cow);
    free(header);
}

/* Everything up to a change is durable, its data already or not. */
static int commit(struct cow* cow, uint64_t data_durable) {
    int error = cow->applied > data_durable ? sync_file(cow->store) : 0;

    return error ? error : table_write(&cow->table);
}

/* ----------------------------------------------------------------- events --- */

/* At most most sectors of the store, whole grains; 0: it is full. */
static uint64_t take(struct cow* cow, uint64_t most, uint64_t* place) {
    uint64_t length = smaller(round_up_to(most, cow->grain), (cow->end - cow->next) / cow->grain * cow->grain);

    *place = cow->next;
    cow->next += length;
    return length;
}

static int lease(struct cow* cow, struct dmu_channel* channel) {
    struct dmu_command command;
    uint64_t place, length = take(cow, LEASE * cow->grain, &place);

    if (!length) return 0;
    dmu_cmd_lease(&command, POOL, STORE, place, length, 0);
    return dmu_queue(channel, &command);
}

static uint64_t entry_at(const struct cow* cow, uint64_t sector) {
    return cow->table.entries[sector / cow->grain];
}

/* From a grain's first sector on: where does what goes on in one piece end? */
static uint64_t run_end(const struct cow* cow, uint64_t start, uint64_t stop) {
    uint64_t entry = entry_at(cow, start), at = start + cow->grain;

    while (at < stop && entry_at(cow, at) == (entry ? entry + (at - start) : 0)) at += cow->grain;
    return smaller(at, stop);
}

/* What the table knows of the neighbourhood; the last extent ends the miss. */
static int map(struct cow* cow, struct dmu_channel* channel, const struct dmu_event* event) {
    uint64_t window = WINDOW * cow->grain, at = event->start / window * window;
    uint64_t last = round_up_to(event->start + event->length, window), stop;
    struct dmu_command map;
    int error = 0;

    for (last = smaller(last, cow->sectors); at < last && !error; at = stop) {
        uint64_t entry = entry_at(cow, at);

        stop = run_end(cow, at, last);
        if (entry)
            dmu_cmd_map_linear(&map, 0, at, stop - at, STORE, entry, DMU_MAP_WRITABLE);
        else
            dmu_cmd_map_cow(&map, 0, at, stop - at, BASE, at);
        map.pool = POOL;
        if (stop == last) map.id = event->id;
        error = dmu_queue(channel, &map);
    }
    return error;
}

static int on_miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct cow* cow = context;
    struct dmu_command command;
    uint64_t place, length;

    if (event->op != DMU_OP_WRITE || !(event->flags & DMU_MISS_MAPPED) || entry_at(cow, event->start))
        return map(cow, channel, event);
    /* A first write that found no lease. */
    length = take(cow, run_end(cow, event->start, event->start + event->length) - event->start, &place);
    if (!length) return -ENOSPC;
    dmu_cmd_place(&command, event->id, event->start, smaller(length, event->length), STORE, place, 0);
    command.pool = POOL;
    return dmu_queue(channel, &command);
}

static int on_changed(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct cow* cow = context;

    (void)channel;
    if (event->kind == DMU_KIND_LINEAR)
        for (uint64_t at = 0; at < event->length; at += cow->grain)
            table_set(&cow->table, (event->start + at) / cow->grain, event->physical + at);
    /* LOST is not put to use again while we run. */
    if (event->physical + event->length > cow->next)
        cow->next = event->physical + round_up_to(event->length, cow->grain);
    cow->applied = event->sequence;
    return 0;
}

static int on_flush(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct dmu_command fail;
    int error = commit(context, event->sequence);

    if (!error) return 0;
    dmu_cmd_fail(&fail, event->id, EIO);
    error = dmu_queue(channel, &fail);
    return error ? error : 1;
}

static int on_other(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct cow* cow = context;
    struct dmu_command pool;
    uint64_t end = event->physical + round_up_to(event->length, cow->grain);

    switch (event->type) {
        case DMU_EV_LEASED:
            cow->leased += event->length;
            /* fall through */
        case DMU_EV_PLACED:
            if (end > cow->next) cow->next = end;
            return 0;
        case DMU_EV_ATTACHED:
            dmu_cmd_pool(&pool, POOL, cow->grain, cow->grain, LEASE / 2 * cow->grain);
            if (dmu_queue(channel, &pool)) return -ENOMEM;
            return cow->leased < LEASE / 2 * cow->grain ? lease(cow, channel) : 0;
        case DMU_EV_LEASE_LOW:
            return lease(cow, channel);
        default:
            return 0;
    }
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {
        .size = sizeof(handlers), .miss = on_miss, .changed = on_changed, .flush = on_flush, .other = on_other};
    struct cow cow = {.grain = argc == 5 ? number(argv[4], 8) : 128};
    struct dmu_channel* channel;
    char options[64];
    int error;

    if (argc < 4 || argc > 5 || cow.grain & (cow.grain - 1)) usage("KEY BASE STORE [GRAIN-SECTORS, a power of two]");
    channel = attach(argv[1]);
    destination(channel, BASE, argv[2], O_RDONLY, &cow.sectors);
    cow.store = destination(channel, STORE, argv[3], O_RDWR, &cow.end);
    open_store(&cow, argv[3]);
    snprintf(options, sizeof(options), "2 grain %llu", (unsigned long long)cow.grain);
    announce(channel, cow.sectors, options);
    serve(channel, &handlers, &cow);
    error = commit(&cow, 0);
    if (error) die(argv[3], error);
    return 0;
}
