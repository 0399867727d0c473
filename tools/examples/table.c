/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "table.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define ENTRIES_PER_PAGE (PAGE / sizeof(uint64_t))
#define WINDOW 65536 /* grains that an answer tells of */

/* ------------------------------------------------------------- on disk --- */

bool header_read(int fd, const char* path, struct header* header) {
    static const char zeros[PAGE];
    char* page = alloc_pages(PAGE);
    int error = read_at(fd, page, PAGE, 0);
    bool made = !error && memcmp(page, zeros, PAGE);

    if (error) die(path, error);
    if (made) {
        struct header found;

        memcpy(&found, page, sizeof(found));
        if (memcmp(found.magic, header->magic, sizeof(found.magic)) || !found.grain ||
            found.checksum != checksum(&found, offsetof(struct header, checksum))) {
            fprintf(stderr,
                    "%s: it does not begin with '%s'; to have it made anew, write zeros to its first 4096 bytes\n",
                    path, header->magic);
            exit(1);
        }
        *header = found;
    }
    free(page);
    return made;
}

int header_write(int fd, struct header* header) {
    char* page = alloc_pages(PAGE);
    int error;

    header->checksum = checksum(header, offsetof(struct header, checksum));
    memcpy(page, header, sizeof(*header));
    error = write_at(fd, page, PAGE, 0);
    free(page);
    return error ? error : sync_file(fd);
}

static uint64_t entries(uint64_t sectors, uint64_t grain) {
    return (sectors + grain - 1) / grain;
}

uint64_t table_size(uint64_t sectors, uint64_t grain) {
    return round_up_to(entries(sectors, grain) * sizeof(uint64_t), PAGE);
}

int table_load(struct table* table) {
    uint64_t size = table_size(table->sectors, table->grain);

    table->count = entries(table->sectors, table->grain);
    table->entries = alloc_pages(size);
    table->dirty = alloc_pages(size / PAGE);
    return read_at(table->fd, table->entries, size, table->offset);
}

int table_make(int fd, uint64_t offset, uint64_t sectors, uint64_t grain) {
    void* zeros = alloc_pages(table_size(sectors, grain));
    int error = write_at(fd, zeros, table_size(sectors, grain), offset);

    free(zeros);
    return error ? error : sync_file(fd);
}

uint64_t table_check(const struct table* table, const char* name, uint64_t first, uint64_t blocks, unsigned char* taken,
                     unsigned char mark) {
    uint64_t used = 0;

    for (uint64_t i = 0; i < table->count; i++) {
        uint64_t block = table->entries[i] - 1;

        if (!table->entries[i]) continue;
        if (block < first || block >= blocks || taken[block]) {
            fprintf(stderr, "%s: its table is damaged: grain %llu is said to be in block %llu\n", name,
                    (unsigned long long)i, (unsigned long long)block);
            exit(1);
        }
        taken[block] = mark;
        used++;
    }
    return used;
}

uint64_t table_at(const struct table* table, uint64_t sector) {
    return table->entries[sector / table->grain];
}

void table_set(struct table* table, uint64_t index, uint64_t value) {
    if (table->entries[index] == value) return;
    table->entries[index] = value;
    table->dirty[index / ENTRIES_PER_PAGE] = 1;
}

int table_write(struct table* table) {
    uint64_t pages = table_size(table->sectors, table->grain) / PAGE, written = 0;
    int error = 0;

    for (uint64_t page = 0; page < pages && !error; page++) {
        if (!table->dirty[page]) continue;
        error = write_at(table->fd, (char*)table->entries + page * PAGE, PAGE, table->offset + page * PAGE);
        written++;
    }
    if (written && !error) error = sync_file(table->fd);
    if (!error) memset(table->dirty, 0, pages);
    return error;
}

/* ------------------------------------------------------------- answers --- */

/* From a grain's first sector on: where does what goes on in one piece end? */
static uint64_t run_end(const struct table* table, uint64_t start, uint64_t stop) {
    uint64_t entry = table_at(table, start), at = start + table->grain;

    for (; at < stop && table_at(table, at) == (entry ? ++entry : 0); at += table->grain) continue;
    return smaller(at, stop);
}

int table_map(const struct table* table, struct dmu_channel* channel, const struct dmu_event* event) {
    uint64_t window = WINDOW * table->grain, at = event->start / window * window;
    uint64_t last = smaller(round_up_to(event->start + event->length, window), table->sectors), stop;
    struct dmu_command map;
    int error = 0;

    for (; at < last && !error; at = stop) {
        uint64_t entry = table_at(table, at);

        stop = run_end(table, at, last);
        if (entry)
            dmu_cmd_map_linear(&map, 0, at, stop - at, table->store, (entry - 1) * table->grain, DMU_MAP_WRITABLE);
        else if (table->base == ZEROS)
            dmu_cmd_map_zero(&map, 0, at, stop - at);
        else
            dmu_cmd_map_cow(&map, 0, at, stop - at, table->base, at);
        dmu_cmd_policies(&map, table->policy, table->policy);
        map.pool = table->pool;
        if (stop == last) map.id = event->id;
        error = dmu_queue(channel, &map);
    }
    return error;
}

uint64_t table_wants(const struct table* table, const struct dmu_event* event) {
    return entries(run_end(table, event->start, event->start + event->length) - event->start, table->grain);
}

void table_cmd_place(const struct table* table, struct dmu_command* command, const struct dmu_event* event,
                     uint64_t first, uint64_t blocks) {
    dmu_cmd_place(command, event->id, event->start, smaller(blocks * table->grain, event->length), table->store,
                  first * table->grain, 0);
    dmu_cmd_policies(command, table->policy, table->policy);
    command->pool = table->pool;
}
