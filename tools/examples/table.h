/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A table of 64-bit entries on disk, changed in place. An entry lies within one
 * sector, which is written whole or not at all, and no entry depends on
 * another: whichever of them a crash lets through, what is there is a table
 * in which each entry is the old or the new one. Their owner sees to it that
 * both are right: data before table, and nothing freed is used again before
 * the table is durable that no longer names it.
 */
#ifndef DMU_EXAMPLES_TABLE_H
#define DMU_EXAMPLES_TABLE_H

#include <stdint.h>

struct table {
    int fd;
    uint64_t offset; /* bytes; whole pages from there are the table's */
    uint64_t count;
    uint64_t* entries;
    unsigned char* dirty; /* for each page: not on disk as it is here */
};

/* Bytes on disk. */
uint64_t table_size(uint64_t count);

/* 0 or a negative errno. */
int table_load(struct table* table, int fd, uint64_t offset, uint64_t count);
/* A table of zeros, on disk when it returns; not loaded. */
int table_make(int fd, uint64_t offset, uint64_t count);
void table_set(struct table* table, uint64_t index, uint64_t value);
/* What was set is durable, or it is still dirty and an error comes back. */
int table_write(struct table* table);

#endif /* DMU_EXAMPLES_TABLE_H */
