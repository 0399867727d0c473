/* SPDX-License-Identifier: GPL-2.0 */
/* How misses are kept; for miss.c and misses.c. */
#ifndef DMU_MISS_H
#define DMU_MISS_H

#include <linux/interval_tree_generic.h>

#include "dmu.h"

#define MISS_START(miss)	((miss)->start)
#define MISS_LAST(miss)		((miss)->last)
INTERVAL_TREE_DEFINE(struct dmu_miss, rb, u64, subtree_last, MISS_START, MISS_LAST, static __maybe_unused, miss_tree)

static inline bool is_write(const struct dmu_miss *miss)
{
	return miss->op != DMU_OP_READ;
}

static inline struct rb_root_cached *tree_of(struct dmu_miss *miss)
{
	return is_write(miss) ? &miss->key->writes : &miss->key->reads;
}

static inline void take_io(struct dmu_miss *miss, struct dmu_io *io, struct list_head *to)
{
	list_move_tail(&io->node, to);
	miss->key->pending--;
}

static inline void take_all(struct dmu_miss *miss, struct list_head *to)
{
	struct dmu_io *io, *next;

	list_for_each_entry_safe(io, next, &miss->ios, node)
		take_io(miss, io, to);
}

static inline void unlink_miss(struct dmu_miss *miss)
{
	hash_del(&miss->hash);
	dmu_key_waited(&miss->key->miss_latency, miss->since);
	dmu_event_drop(&miss->event);
	if (!miss->ask)
		miss_tree_remove(miss, tree_of(miss));
}

#endif /* DMU_MISS_H */
