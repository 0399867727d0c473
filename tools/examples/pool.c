/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------- blocks --- */

void set_state(struct pool* pool, uint64_t block, unsigned char state) {
    pool->free += (state == FREE) - (pool->state[block] == FREE);
    pool->leased += (state == LEASED) - (pool->state[block] == LEASED);
    pool->state[block] = state;
}

void set_states(struct pool* pool, const struct dmu_event* event, unsigned char state) {
    for (uint64_t at = 0; at < event->length; at += pool->grain)
        set_state(pool, (event->physical + at) / pool->grain, state);
}

uint64_t take(struct pool* pool, uint64_t most, unsigned char state, uint64_t* first) {
    uint64_t count = 0;

    if (!pool->free || pool->undrained) return 0;
    while (pool->state[pool->cursor] != FREE) pool->cursor = (pool->cursor + 1) % pool->blocks;
    *first = pool->cursor;
    while (count < most && pool->cursor + count < pool->blocks && pool->state[pool->cursor + count] == FREE)
        set_state(pool, pool->cursor + count++, state);
    pool->cursor = (pool->cursor + count) % pool->blocks;
    return count;
}

/* ------------------------------------------------------------ metadata --- */

/* slots: as they are on disk. */
static char* open_slots(struct pool* pool, const char* path) {
    struct header header = {.magic = "dmu-thn"};
    char* slots = alloc_pages(DEVICES * SECTOR);
    int error;

    if (header_read(pool->metadata, path, &header)) {
        error = read_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
    } else {
        header.grain = pool->grain;
        error = write_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
        if (!error) error = sync_file(pool->metadata);
        if (!error) error = header_write(pool->metadata, &header);
    }
    if (error) die(path, error);
    if (header.grain != pool->grain) {
        fprintf(stderr, "thin: the blocks of %s are of %llu sectors, not of %llu\n", path,
                (unsigned long long)header.grain, (unsigned long long)pool->grain);
        exit(1);
    }
    return slots;
}

static void load_device(struct pool* pool, const struct slot* slot) {
    struct thin* thin = &pool->thins[pool->count++];
    int error;

    *thin = (struct thin){.pool = pool, .slot = *slot};
    thin->table = (struct table){.fd = pool->metadata,
                                 .offset = slot->table,
                                 .sectors = slot->sectors,
                                 .grain = pool->grain,
                                 .store = 0,
                                 .base = ZEROS,
                                 .pool = 1,
                                 .policy = DMU_POLICY_ZERO};
    error = table_load(&thin->table);
    if (error) die(slot->name, error);
    pool->free -= table_check(&thin->table, slot->name, 0, pool->blocks, pool->state, USED);
}

/* Where the next table goes. */
static uint64_t tables_end(const struct pool* pool) {
    const struct slot* last = pool->count ? &pool->thins[pool->count - 1].slot : NULL;

    return last ? last->table + table_size(last->sectors, pool->grain) : round_up_to(PAGE + DEVICES * SECTOR, PAGE);
}

/* A table is there before what names it. */
static void make_device(struct pool* pool, char* slots, const char* name, uint64_t sectors) {
    struct slot* slot = (struct slot*)(slots + pool->count * SECTOR);
    int error;

    if (pool->count == DEVICES) die("too many devices in the pool", ENOSPC);
    memcpy(slot->name, name, strlen(name) + 1);
    slot->sectors = sectors;
    slot->table = tables_end(pool);
    slot->checksum = checksum(slot, offsetof(struct slot, checksum));
    error = table_make(pool->metadata, slot->table, sectors, pool->grain);
    if (!error) error = write_at(pool->metadata, slots, DEVICES * SECTOR, PAGE);
    if (!error) error = sync_file(pool->metadata);
    if (error) die(name, error);
    load_device(pool, slot);
}

static void name_device(struct pool* pool, char* slots, char* word) {
    char* colon = strrchr(word, ':');
    uint64_t sectors;

    if (!colon || colon == word || colon - word >= DMU_KEY_MAX) usage("METADATA DATA GRAIN NAME:SECTORS...");
    *colon = '\0';
    sectors = number(colon + 1, 1);
    for (unsigned i = 0; i < pool->count; i++) {
        if (strcmp(pool->thins[i].slot.name, word)) continue;
        if (pool->thins[i].slot.sectors != sectors) die(word, EEXIST);
        return;
    }
    make_device(pool, slots, word, sectors);
}

void pool_open(struct pool* pool, const char* metadata, const char* data, char** names) {
    uint64_t size;
    char* slots;

    pool->metadata = open_file(metadata, O_RDWR, &size);
    pool->data = open_file(data, O_RDWR, &size);
    pool->blocks = pool->free = size / pool->grain;
    pool->state = calloc(1, pool->blocks + 1);
    pool->thins = calloc(DEVICES, sizeof(*pool->thins));
    if (!pool->state || !pool->thins) die("memory", ENOMEM);
    slots = open_slots(pool, metadata);
    for (unsigned i = 0; i < DEVICES; i++) {
        const struct slot* slot = (const struct slot*)(slots + i * SECTOR);

        if (!slot->checksum) break;
        if (slot->checksum != checksum(slot, offsetof(struct slot, checksum))) die(metadata, EUCLEAN);
        load_device(pool, slot);
    }
    for (; *names; names++) name_device(pool, slots, *names);
    free(slots);
}
