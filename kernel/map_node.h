/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inside of the extent map. See map.h for what it is.
 *
 * Invariants: the first key of a node is the lower bound of what it covers;
 * a node covers up to the key that follows it in its parent, the root
 * everything from 0 on. In a leaf no break point repeats what would hold
 * there anyway. Keys that are not in use are NO_END. Readers may hold on to
 * any node they have reached: a node that is linked in is changed only by
 * replacing one child pointer, which leaves what it covers as it was; all
 * else makes a copy.
 */
#ifndef DMU_MAP_NODE_H
#define DMU_MAP_NODE_H

#include "map.h"

#define NODE_ENTRIES	126	/* see find_key() */
#define MAX_LEVELS	12
#define NO_END		(~0ull)

struct dmu_map_node {
	union {
		struct rcu_head rcu;
		struct {			/* a spare */
			struct dmu_map_node *next;
			unsigned long since;	/* a state of RCU */
		};
	};
	u16 count;
	u16 level;		/* 0: a leaf */
	u64 key[NODE_ENTRIES + 1];	/* the last one is never in use */
	union {
		u64 value[NODE_ENTRIES];
		struct dmu_map_node __rcu *child[NODE_ENTRIES];
	};
};

_Static_assert(sizeof(struct dmu_map_node) == DMU_MAP_NODE_BYTES, "as it is allocated and counted");

/* From the root to a leaf: which child was taken, and what it covers. */
struct map_path {
	struct dmu_map_node *node[MAX_LEVELS];
	unsigned int index[MAX_LEVELS];
	unsigned int levels;	/* node[levels - 1] is the leaf */
	u64 end;		/* of what the leaf covers */
	u64 parent_end;		/* of what its parent does */
};

/* A leaf's content while it is being made: two more than fit. */
struct draft {
	unsigned int count;
	u64 key[NODE_ENTRIES + 2];
	u64 value[NODE_ENTRIES + 2];
};

/* What an update works in: too large for a kernel stack. */
struct dmu_map_scratch {
	struct map_path path;
	struct draft draft;
	struct draft work;
};

#define SPARES_MOST	256	/* what some grace periods of first writes leave behind */
#define SPARES_A_STATE	16

/* NULL: none that all readers are done with. */
static inline struct dmu_map_node *take_spare(struct dmu_map_spares *spares)
{
	struct dmu_map_node *node = spares->first;

	if (!node || !dmu_map_is_unseen(node->since))
		return NULL;
	spares->first = node->next;
	spares->count--;
	return node;
}

/*
 * Each first write makes a leaf anew: to free and to allocate it costs more than all
 * the rest, as many kernels clear what they allocate, and nothing is freed at once.
 */
static inline bool keep_spare(struct dmu_map_spares *spares, struct dmu_map_node *node)
{
	if (spares->count >= SPARES_MOST)
		return false;
	/* For all to be unseen one day it is enough to ask for it now and then. */
	node->since = spares->count % SPARES_A_STATE ? dmu_map_state() : dmu_map_state_begin();
	node->next = NULL;
	if (spares->first)
		spares->last->next = node;
	else
		spares->first = node;
	spares->last = node;
	spares->count++;
	return true;
}

static inline struct dmu_map_node *new_node(struct dmu_map *map, unsigned int level, gfp_t gfp)
{
	struct dmu_map_node *node = take_spare(&map->spares);

	if (!node)
		node = dmu_map_alloc(DMU_MAP_NODE_BYTES, gfp);
	if (!node)
		return NULL;
	node->count = 0;
	node->level = level;
	memset(node->key, 0xff, sizeof(node->key));
	map->nodes++;
	return node;
}

/* For a node that no reader has seen. */
static inline void drop_node(struct dmu_map *map, struct dmu_map_node *node)
{
	if (!node)
		return;
	map->nodes--;
	dmu_map_free_now(node);
}

static inline void retire_node(struct dmu_map *map, struct dmu_map_node *node)
{
	map->nodes--;
	if (!keep_spare(&map->spares, node))
		dmu_map_free_later(node);
}

static inline const u64 *key_step(const u64 *key, u64 sector, unsigned int step)
{
	const u64 *next = key + step;
	u64 start = *next;

	dmu_map_hide(next);
	return start <= sector ? next : key;
}

/*
 * The last key that is not above the sector; the first never is. What is hidden
 * keeps GCC from making branches of it, none of which would be foreseen.
 */
static inline const u64 *find_key(const struct dmu_map_node *node, u64 sector)
{
	const u64 *key = node->key;

	dmu_map_hide(key);
	key = key_step(key, sector, 63);
	key = key_step(key, sector, 31);
	key = key_step(key, sector, 16);
	key = key_step(key, sector, 8);
	key = key_step(key, sector, 4);
	key = key_step(key, sector, 2);
	key = key_step(key, sector, 1);
	dmu_map_hide(key);
	return key;
}

static inline unsigned int find_entry(const struct dmu_map_node *node, u64 sector)
{
	return find_key(node, sector) - node->key;
}

/* What belongs to a key: values lie behind keys, all as far. */
#define VALUE_OF(key)	((const void *)((const char *)(key) + offsetof(struct dmu_map_node, value) - \
					offsetof(struct dmu_map_node, key)))

/* dmu_map_look_up(), for where each hit comes by. */
static inline u64 map_find(const struct dmu_map *map, u64 sector, u64 *run)
{
	const struct dmu_map_node *node = dmu_map_follow(map->root);
	const u64 *key = find_key(node, sector);
	u64 end = key[1];

	while (node->level) {
		struct dmu_map_node __rcu *const *child = VALUE_OF(key);

		node = dmu_map_follow(*child);
		key = find_key(node, sector);
		end = min(end, key[1]);
	}
	*run = end - sector;
	return dmu_value_after(*(const u64 *)VALUE_OF(key), sector - *key);
}

static inline u64 entry_end(const struct dmu_map_node *node, unsigned int i, u64 node_end)
{
	return i + 1 < node->count ? node->key[i + 1] : node_end;
}

static inline u64 count_known(const u64 *value, unsigned int count)
{
	u64 known = 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		known += value[i] != DMU_VALUE_NONE;
	return known;
}

static inline void add_entry(struct dmu_map_node *to, u64 key, u64 value)
{
	to->key[to->count] = key;
	to->value[to->count++] = value;
}

/* What holds at the sector by the entries so far. */
static inline bool goes_on(const struct dmu_map_node *node, u64 sector, u64 value)
{
	unsigned int last = node->count - 1;

	return node->count && dmu_value_after(node->value[last], sector - node->key[last]) == value;
}

/* map_update.c */
void dmu_map_descend(const struct dmu_map *map, u64 sector, struct map_path *path);
int dmu_map_replace_children(struct dmu_map *map, struct map_path *path, unsigned int depth, unsigned int at,
			     unsigned int removed, struct dmu_map_node **fresh, unsigned int fresh_count, gfp_t gfp);

#endif /* DMU_MAP_NODE_H */
