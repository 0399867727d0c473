/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the examples share. What cannot go on ends the program with a message:
 * requests then wait for whoever attaches next.
 */
#ifndef DMU_EXAMPLES_COMMON_H
#define DMU_EXAMPLES_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmu/dmu.h>

#define SECTOR 512ull
#define PAGE 4096ull

/* "program: what: text of the error", status 1. error: an errno, of either sign. */
void die(const char* what, int error) __attribute__((noreturn));
void usage(const char* arguments) __attribute__((noreturn));

/* A whole number, decimal or 0x..., at least least. */
uint64_t number(const char* text, uint64_t least);

static inline uint64_t round_up_to(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

static inline uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/*
 * Attaches, makes the key where there is none, and makes this process fit to
 * stand below a disk: memory locked, because a page that is to be written out
 * to the device could wait for us.
 */
struct dmu_channel* attach(const char* key);

/* A file or device, for direct I/O where there is such; *sectors is its size. */
int open_file(const char* path, int mode, uint64_t* sectors);

/*
 * Destination number: the one that a predecessor has left with the key, or the
 * file or device at path, opened with mode (O_RDONLY, O_RDWR) and for direct
 * I/O where there is such. Returns a descriptor of it; *sectors is its size.
 * try_destination() returns a negative errno where the other ends the program.
 */
int try_destination(struct dmu_channel* channel, uint32_t number, const char* path, int mode, uint64_t* sectors);
int destination(struct dmu_channel* channel, uint32_t number, const char* path, int mode, uint64_t* sectors);

/*
 * The first of 256 ids for INVALIDATE that no predecessor has used: what is
 * INVALIDATED may be what one asked for that was killed.
 */
uint64_t fresh_ids(void);

/* Prints the table line ("0 SECTORS userspace KEY OPTIONS"), which says that the device can be made now. */
void announce(struct dmu_channel* channel, uint64_t sectors, const char* options);

/* dmu_run() until SIGTERM or SIGINT; errors end the program. */
void serve(struct dmu_channel* channel, const struct dmu_handlers* handlers, void* context);

/*
 * For an orderly end, after the last dmu_run(): hands out the changes that it
 * has not read. A device that is gone by then has no successor to tell. 0 or
 * a negative errno.
 */
int last_changes(struct dmu_channel* channel,
                 int (*changed)(struct dmu_channel* channel, const struct dmu_event* event, void* context),
                 void* context);

/* Whole pages at offset, memory of alloc_pages(). 0 or a negative errno. */
int read_at(int fd, void* buffer, uint64_t size, uint64_t offset);
int write_at(int fd, const void* buffer, uint64_t size, uint64_t offset);
int sync_file(int fd);
/* Zeroed, aligned for direct I/O. */
void* alloc_pages(uint64_t size);

/* Room for one more than count items of a size in an array of *room. */
void* grow(void* array, uint64_t count, uint64_t* room, size_t size);

/* FNV-1a: enough to tell a header from what is none. */
uint64_t checksum(const void* data, uint64_t size);

#endif /* DMU_EXAMPLES_COMMON_H */
