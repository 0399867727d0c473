/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The legs of mirror, as their superblocks and bitmaps have them: which of
 * them count, and where they may differ.
 */
#ifndef DMU_EXAMPLES_LEGS_H
#define DMU_EXAMPLES_LEGS_H

#include <stdbool.h>
#include <stdint.h>

#include "common.h"

#define REGION 2048 /* sectors, or more where the bitmap would be too small */
#define NONE UINT64_MAX

/* In one sector; the same on every leg that is not stale. */
struct super {
    char magic[8];
    uint64_t uuid[2], sectors, region;
    uint64_t events;  /* how often the set of legs has changed */
    uint64_t left_at; /* events in the superblock of the stale leg, if it is the one that we knew */
    uint32_t stale[2];
    uint64_t checksum;
};

enum state { GONE, LEAVING, HERE };

struct leg {
    const char* path;
    enum state state;
    int fd;
    uint64_t area; /* bytes; where superblock and bitmap are */
};

struct mirror {
    struct dmu_channel* channel;
    uint64_t ids; /* ANY and those after it are added */
    struct leg legs[2];
    struct super* super;
    unsigned char *bits, *disk_bits; /* as they should be, and as they are on disk */
    bool changed;                    /* the superblock is not on disk as it is here */
    bool left;                       /* a leg has, and is in the map */
    int lead;                        /* is written first */
    uint64_t regions;
    unsigned char* differ; /* to be copied; reads come from the leg that is copied from */
    unsigned char* open;   /* may be mapped for writing; in the queue */
    uint64_t *queue, queued, most_open;
    uint64_t cleaning, copying; /* the regions, or NONE: also if that was given up before its INVALIDATED */
    bool drains;                /* for the cleaning of one, perhaps given up */
    bool stopping, replace;
    struct dmu_event* held; /* they want the region that is being copied */
    uint64_t held_count, held_room;
};

static inline bool here(const struct mirror* m, int leg) {
    return m->legs[leg].state == HERE;
}

static inline bool in_sync(const struct mirror* m, int leg) {
    return here(m, leg) && !m->super->stale[leg];
}

/* A leg can be done without where the other has all of the data. */
static inline bool may_leave(const struct mirror* m, int leg) {
    return here(m, leg) && in_sync(m, !leg);
}

/* Which leg to read a region from, while both are here. */
int first_leg(const struct mirror* m, uint64_t region);

bool bit(const unsigned char* bits, uint64_t region);
void set_bit(unsigned char* bits, uint64_t region, bool value);

/* Opens a leg and reads its superblock; what is none is all zeros then. 0 or a negative errno. */
int open_leg(struct mirror* m, int leg, struct super* super);
/* What has left is out of the map, and its I/O has ended. */
void forget_gone(struct mirror* m);
/* The second leg gets a superblock that never was in sync. */
void create(struct mirror* m);
/* supers: of the legs that are here. The newest of them is believed. */
void assemble(struct mirror* m, struct super* supers[2], bool degraded);
/* A leg that is here joins the other, whose superblock is ours. NULL, or why it may not. */
const char* join(struct mirror* m, int leg, const struct super* super);
/* Joins what was missing and is there again; says of the rest why it is not. save() follows if anything has changed. */
void look_for_gone(struct mirror* m);
/* A leg ceases to count. Not on disk yet: save() follows. What was to be cleaned or copied is not any more. */
void leave(struct mirror* m, int leg, int error);
/*
 * Superblock and bitmap are on every leg that counts; one that cannot be
 * written ceases to count. 0 or a negative errno: of the last leg.
 */
int save(struct mirror* m);

#endif /* DMU_EXAMPLES_LEGS_H */
