/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A table on disk: for each grain of a device the block of a store that it
 * lies in, plus one; 0: it has none. Entries are changed in place. An entry lies
 * within one sector, which is written whole or not at all, and no entry depends
 * on another: whichever of them a crash lets through, what is there is a table
 * in which each entry is the old or the new one. Their owner sees to it that
 * both are right: data before table, and nothing freed is used again before
 * the table is durable that no longer names it.
 */
#ifndef DMU_EXAMPLES_TABLE_H
#define DMU_EXAMPLES_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include <dmu/dmu.h>

/* The first page of what has tables. */
struct header {
    char magic[8];
    uint64_t grain, sectors, checksum; /* of what is before it */
};

/* With the magic set: reads the rest. false: all is zeros yet. What is neither ends the program. */
bool header_read(int fd, const char* path, struct header* header);
/* On disk when it returns; to be written last, for it says that the rest is there. 0 or a negative errno. */
int header_write(int fd, struct header* header);

#define ZEROS UINT32_MAX

struct table {
    int fd;
    uint64_t offset; /* bytes; whole pages from there are the table's */
    uint64_t sectors, grain;
    /* How it is mapped: store and base (ZEROS: none) are destinations; discard and write-zeroes get the policy. */
    uint32_t store, base, pool, policy;

    uint64_t count;
    uint64_t* entries;
    unsigned char* dirty; /* for each page: not on disk as it is here */
};

/* Bytes on disk of a table for so many sectors. */
uint64_t table_size(uint64_t sectors, uint64_t grain);
/* What is above "count" is set. 0 or a negative errno. */
int table_load(struct table* table);
/* Zeros, on disk when it returns; not loaded. */
int table_make(int fd, uint64_t offset, uint64_t sectors, uint64_t grain);
/*
 * It is believed only if its entries are blocks from first to blocks, and none
 * that taken[] knows already: else the program ends. Marks them there, and
 * returns how many there are.
 */
uint64_t table_check(const struct table* table, const char* name, uint64_t first, uint64_t blocks, unsigned char* taken,
                     unsigned char mark);

uint64_t table_at(const struct table* table, uint64_t sector);
void table_set(struct table* table, uint64_t index, uint64_t value);
/* What was set is durable, or it is still dirty and an error comes back. */
int table_write(struct table* table);

/* Queues what the table knows of a miss and its neighbourhood; the last extent ends the miss. */
int table_map(const struct table* table, struct dmu_channel* channel, const struct dmu_event* event);
/* How many blocks a write that misses wants, of grains that have none. */
uint64_t table_wants(const struct table* table, const struct dmu_event* event);
/* The answer to it, with blocks from first on. */
void table_cmd_place(const struct table* table, struct dmu_command* command, const struct dmu_event* event,
                     uint64_t first, uint64_t blocks);

#endif /* DMU_EXAMPLES_TABLE_H */
