/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "common.h"

#define ENTRIES_PER_PAGE (PAGE / sizeof(uint64_t))

uint64_t table_size(uint64_t count) {
    return round_up_to(count * sizeof(uint64_t), PAGE);
}

int table_load(struct table* table, int fd, uint64_t offset, uint64_t count) {
    *table = (struct table){.fd = fd, .offset = offset, .count = count};
    table->entries = alloc_pages(table_size(count));
    table->dirty = alloc_pages(table_size(count) / PAGE);
    return read_at(fd, table->entries, table_size(count), offset);
}

int table_make(int fd, uint64_t offset, uint64_t count) {
    void* zeros = alloc_pages(table_size(count));
    int error = write_at(fd, zeros, table_size(count), offset);

    free(zeros);
    return error ? error : sync_file(fd);
}

void table_set(struct table* table, uint64_t index, uint64_t value) {
    if (table->entries[index] == value) return;
    table->entries[index] = value;
    table->dirty[index / ENTRIES_PER_PAGE] = 1;
}

int table_write(struct table* table) {
    uint64_t pages = table_size(table->count) / PAGE, written = 0;
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
