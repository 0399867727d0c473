/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The extent map: a function from virtual sectors to 64-bit values.
 *
 * It is kept as a step function in a B+ tree: a leaf holds break points, each
 * valid up to the next, so a length is never stored and an extent costs 16
 * bytes. Value 0 means "not known". Leaves are copied on write, so that a
 * look-up under RCU takes no lock and writes nothing; the caller serialises
 * updates. Plain C: the same file is built and tested in userspace.
 */
#ifndef DMU_MAP_H
#define DMU_MAP_H

#include "map_env.h"

/*
 * A value: physical sector in the low 48 bits, DMU_VALUE_RUNS if the physical
 * sector advances with the virtual one, and above that a 15-bit tag, never 0.
 */
#define DMU_VALUE_NONE		0ull
#define DMU_PHYSICAL_BITS	48
#define DMU_PHYSICAL_MASK	((1ull << DMU_PHYSICAL_BITS) - 1)
#define DMU_VALUE_RUNS		(1ull << DMU_PHYSICAL_BITS)
#define DMU_TAG_SHIFT		(DMU_PHYSICAL_BITS + 1)
#define DMU_TAG_MAX		((1u << 15) - 1)

static inline u64 dmu_value(unsigned int tag, bool runs, u64 physical)
{
	return ((u64)tag << DMU_TAG_SHIFT) | (runs ? DMU_VALUE_RUNS : 0) | physical;
}

static inline unsigned int dmu_value_tag(u64 value)
{
	return value >> DMU_TAG_SHIFT;
}

static inline u64 dmu_value_physical(u64 value)
{
	return value & DMU_PHYSICAL_MASK;
}

/* The value of a place "sectors" behind one with this value. */
static inline u64 dmu_value_after(u64 value, u64 sectors)
{
	return value & DMU_VALUE_RUNS ? value + sectors : value;
}

struct dmu_map_node;
struct dmu_map_scratch;

/* Nodes that are no longer in the map: to be used again once no reader can see them. */
struct dmu_map_spares {
	struct dmu_map_node *first, *last;	/* the oldest first */
	unsigned int count;
};

struct dmu_map {
	struct dmu_map_node __rcu *root;
	struct dmu_map_scratch *scratch;	/* the updater's */
	struct dmu_map_spares spares;		/* so are these */
	u64 extents;		/* break points with a value */
	u64 nodes;		/* without the spares */
};

/* 0 or -ENOMEM. */
int dmu_map_init(struct dmu_map *map);
/* No reader may be left. */
void dmu_map_destroy(struct dmu_map *map);

/*
 * Value at the sector, and in *run how many sectors from it on are sure to
 * follow it (a run may be reported in pieces). Under rcu_read_lock() or the
 * updater's lock.
 */
u64 dmu_map_look_up(const struct dmu_map *map, u64 sector, u64 *run);

/*
 * Sets [start, end) to a value that stands for start. -ENOMEM: a part from
 * start on may have been set. Updates are serialised by the caller.
 */
int dmu_map_assign(struct dmu_map *map, u64 start, u64 end, u64 value, gfp_t gfp);

/* The same for those parts only that are not known. */
int dmu_map_fill(struct dmu_map *map, u64 start, u64 end, u64 value, gfp_t gfp);

/* Forgets everything. -ENOMEM: nothing changed. */
int dmu_map_clear(struct dmu_map *map, gfp_t gfp);

/*
 * Forgets whole grains (a power of two sectors) from start on, a multiple of
 * it: no more than some leaves, and no farther than end; *done is where it got
 * to, a multiple of the grain or end. Call it until that is end. A grain may
 * stay that lies across leaves of two parents, or across more than so many:
 * until there is less around it, and they join. -ENOMEM: nothing changed. There
 * are as many nodes as before or fewer, but for a hole in, or between, full
 * leaves: there is one more, and what is above it may be cut in two as well.
 */
#define DMU_MAP_FORGET_LEAVES	32
int dmu_map_forget(struct dmu_map *map, u64 start, u64 end, u64 grain, u64 *done, gfp_t gfp);

/* Gives back what is kept for updates to come, 512 KiB at most, and says how many nodes. By the updater, anywhere. */
unsigned int dmu_map_free_spares(struct dmu_map *map);

#define DMU_MAP_NODE_BYTES	2048
u64 dmu_map_bytes(const struct dmu_map *map);

#endif /* DMU_MAP_H */
