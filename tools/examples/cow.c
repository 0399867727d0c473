/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cow: copy-on-write of any device or file. The base is only read; what is
 * written goes to a store, grain by grain.
 *
 *     cow KEY BASE STORE [GRAIN-SECTORS]
 *
 * The store begins with a header and a table: where in the store each grain of
 * the device lies, if it is not in the base. A store whose first page is zeros is
 * made; one that is something else is refused.
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

#include "common.h"
#include "table.h"

enum { BASE, STORE };
#define POOL 1
#define LEASE 256 /* grains */

struct cow {
    struct table table;
    uint64_t first, next, end; /* grains of the store: where its data begins, is free from, ends */
    uint64_t leased;           /* grains, as far as we were told when we came */
    uint64_t applied;          /* the last change that the table has */
};

static void make_store(const struct table* table, struct header* header) {
    int error = table_make(table->fd, PAGE, table->sectors, table->grain);

    header->grain = table->grain;
    header->sectors = table->sectors;
    if (!error) error = header_write(table->fd, header);
    if (error) die("make the store", error);
}

static void open_store(struct cow* cow, const char* path, uint64_t store_sectors) {
    struct table* table = &cow->table;
    struct header header = {.magic = "dmu-cow"};
    unsigned char* taken;
    int error;

    if (!header_read(table->fd, path, &header)) make_store(table, &header);
    if (header.sectors != table->sectors) {
        fprintf(stderr, "cow: %s is the store of a base of %llu sectors, not of %llu\n", path,
                (unsigned long long)header.sectors, (unsigned long long)table->sectors);
        exit(1);
    }
    table->grain = header.grain;
    error = table_load(table);
    if (error) die(path, error);
    cow->end = store_sectors / table->grain;
    cow->first = round_up_to((PAGE + table_size(table->sectors, table->grain)) / SECTOR, table->grain) / table->grain;
    if (cow->first > cow->end) die(path, ENOSPC);
    taken = alloc_pages(cow->end);
    table_check(table, path, cow->first, cow->end, taken, 1);
    for (cow->next = cow->end; cow->next > cow->first && !taken[cow->next - 1];) cow->next--;
    free(taken);
}

/* Everything up to a change is durable, its data already or not. */
static int commit(struct cow* cow, uint64_t data_durable) {
    int error = cow->applied > data_durable ? sync_file(cow->table.fd) : 0;

    return error ? error : table_write(&cow->table);
}

/* ----------------------------------------------------------------- events --- */

/* At most most grains of the store; 0: it is full. */
static uint64_t take(struct cow* cow, uint64_t most, uint64_t* first) {
    uint64_t count = smaller(most, cow->end - cow->next);

    *first = cow->next;
    cow->next += count;
    return count;
}

static int lease(struct cow* cow, struct dmu_channel* channel) {
    uint64_t first, count = take(cow, LEASE, &first);
    struct dmu_command command;

    if (!count) return 0;
    dmu_cmd_lease(&command, POOL, STORE, first * cow->table.grain, count * cow->table.grain, 0);
    return dmu_queue(channel, &command);
}

static int on_miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct cow* cow = context;
    struct dmu_command command;
    uint64_t first, count;

    if (event->op != DMU_OP_WRITE || !(event->flags & DMU_MISS_MAPPED) || table_at(&cow->table, event->start))
        return table_map(&cow->table, channel, event);
    /* A first write that found no lease. */
    count = take(cow, table_wants(&cow->table, event), &first);
    if (!count) return -ENOSPC;
    table_cmd_place(&cow->table, &command, event, first, count);
    return dmu_queue(channel, &command);
}

/* What an event says of the store is in use from now on. */
static uint64_t note_used(struct cow* cow, const struct dmu_event* event) {
    uint64_t count = round_up_to(event->length, cow->table.grain) / cow->table.grain;

    if (event->physical / cow->table.grain + count > cow->next) cow->next = event->physical / cow->table.grain + count;
    return count;
}

static int on_changed(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct cow* cow = context;
    uint64_t grain = cow->table.grain, count = note_used(cow, event);

    (void)channel;
    /* LOST is not put to use again while we run. */
    for (uint64_t i = 0; event->kind == DMU_KIND_LINEAR && i < count; i++)
        table_set(&cow->table, event->start / grain + i, event->physical / grain + i + 1);
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
    uint64_t grain = cow->table.grain;
    struct dmu_command pool;

    switch (event->type) {
        case DMU_EV_LEASED:
            cow->leased += note_used(cow, event);
            return 0;
        case DMU_EV_PLACED:
            note_used(cow, event);
            return 0;
        case DMU_EV_ATTACHED:
            dmu_cmd_pool(&pool, POOL, grain, grain, LEASE / 2 * grain);
            if (dmu_queue(channel, &pool)) return -ENOMEM;
            return cow->leased < LEASE / 2 ? lease(cow, channel) : 0;
        case DMU_EV_LEASE_LOW:
            return lease(cow, channel);
        default:
            return 0;
    }
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {
        .size = sizeof(handlers), .miss = on_miss, .changed = on_changed, .flush = on_flush, .other = on_other};
    struct cow cow = {.table = {.offset = PAGE, .store = STORE, .base = BASE, .pool = POOL}};
    struct table* table = &cow.table;
    struct dmu_channel* channel;
    uint64_t store_sectors;
    char options[64];
    int error;

    table->grain = argc == 5 ? number(argv[4], 8) : 128;
    if (argc < 4 || argc > 5 || table->grain & (table->grain - 1))
        usage("KEY BASE STORE [GRAIN-SECTORS, a power of two]");
    channel = attach(argv[1]);
    destination(channel, BASE, argv[2], O_RDONLY, &table->sectors);
    table->fd = destination(channel, STORE, argv[3], O_RDWR, &store_sectors);
    open_store(&cow, argv[3], store_sectors);
    snprintf(options, sizeof(options), "2 grain %llu", (unsigned long long)table->grain);
    announce(channel, table->sectors, options);
    serve(channel, &handlers, &cow);
    error = last_changes(channel, on_changed, &cow);
    if (!error) error = commit(&cow, 0);
    if (error) die(argv[3], error);
    return 0;
}
