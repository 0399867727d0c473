// SPDX-License-Identifier: GPL-2.0
/* The extent map: making it smaller. */
#include "map_node.h"

/* Leaves that are being made, each after the one before is full. */
struct fresh_leaves {
	struct dmu_map_node *node[3];	/* two full ones, and what is forgotten between them */
	unsigned int count;
};

static bool is_empty_leaf(const struct dmu_map_node *node)
{
	return !node->level && node->count == 1 && node->value[0] == DMU_VALUE_NONE;
}

static bool follows_an_empty_leaf(const struct map_path *path)
{
	unsigned int at = path->index[path->levels - 2];

	return at && is_empty_leaf(dmu_map_follow(path->node[path->levels - 2]->child[at - 1]));
}

/*
 * How many leaves from the one at path on, below the same parent, [start, *stop)
 * lies in, as far as some leaves reach and whole grains of [start, end) go.
 */
static unsigned int reach(const struct map_path *path, u64 start, u64 end, u64 grain, u64 *stop)
{
	const struct dmu_map_node *parent = path->node[path->levels - 2];
	unsigned int at = path->index[path->levels - 2], i, count = 0;

	*stop = start;
	for (i = at; i < parent->count && i < at + DMU_MAP_FORGET_LEAVES; i++) {
		u64 leaf_end = entry_end(parent, i, path->parent_end);
		u64 last = leaf_end < end ? leaf_end & ~(grain - 1) : end;

		if (dmu_map_follow(parent->child[i])->level)
			break;
		if (last > *stop) {
			*stop = last;
			count = i + 1 - at;
		}
		if (leaf_end >= end)
			break;
	}
	return count;
}

static int add(struct dmu_map *map, struct fresh_leaves *to, u64 key, u64 value, gfp_t gfp)
{
	struct dmu_map_node *last = to->count ? to->node[to->count - 1] : NULL;

	if (last && goes_on(last, key, value))
		return 0;
	if (!last || last->count == NODE_ENTRIES) {
		last = new_node(map, 0, gfp);
		if (!last)
			return -ENOMEM;
		to->node[to->count++] = last;
	}
	add_entry(last, key, value);
	return 0;
}

/* What the first leaf has before start, nothing, and what the last has from stop on. */
static int add_rest(struct dmu_map *map, struct fresh_leaves *to, const struct dmu_map_node *first, u64 start,
		    const struct dmu_map_node *last, u64 stop, u64 last_end, gfp_t gfp)
{
	unsigned int i;
	int error = 0;

	for (i = 0; !error && i < first->count && first->key[i] < start; i++)
		error = add(map, to, first->key[i], first->value[i], gfp);
	if (!error)
		error = add(map, to, start, DMU_VALUE_NONE, gfp);
	if (error || stop >= last_end)
		return error;
	i = find_entry(last, stop);
	error = add(map, to, stop, dmu_value_after(last->value[i], stop - last->key[i]), gfp);
	for (i++; !error && i < last->count; i++)
		error = add(map, to, last->key[i], last->value[i], gfp);
	return error;
}

/* [start, stop) of so many leaves, in one go: no reader finds a part of it. */
static int forget_across(struct dmu_map *map, struct map_path *path, unsigned int count, u64 start, u64 stop,
			 gfp_t gfp)
{
	struct dmu_map_node *parent = path->node[path->levels - 2], *old[DMU_MAP_FORGET_LEAVES + 1];
	unsigned int at = path->index[path->levels - 2], i;
	u64 last_end = entry_end(parent, at + count - 1, path->parent_end), before = 0, after = 0;
	struct fresh_leaves fresh = {};
	int error;

	/* One before them that knew nothing becomes a part of what is. */
	if (follows_an_empty_leaf(path)) {
		at--;
		count++;
	}
	for (i = 0; i < count; i++) {
		old[i] = dmu_map_follow(parent->child[at + i]);
		before += count_known(old[i]->value, old[i]->count);
	}
	error = add(map, &fresh, old[0]->key[0], old[0]->key[0] < start ? old[0]->value[0] : DMU_VALUE_NONE, gfp);
	if (!error)
		error = add_rest(map, &fresh, path->node[path->levels - 1], start, old[count - 1], stop, last_end, gfp);
	for (i = 0; i < fresh.count; i++)
		after += count_known(fresh.node[i]->value, fresh.node[i]->count);
	if (!error)
		error = dmu_map_replace_children(map, path, path->levels - 1, at, count, fresh.node, fresh.count, gfp);
	if (error) {
		while (fresh.count)
			drop_node(map, fresh.node[--fresh.count]);
		return error;
	}
	map->extents += after - before;
	for (i = 0; i < count; i++)
		retire_node(map, old[i]);
	return 0;
}

int dmu_map_forget(struct dmu_map *map, u64 start, u64 end, u64 grain, u64 *done, gfp_t gfp)
{
	struct map_path *path = &map->scratch->path;
	u64 run, stop;

	dmu_map_descend(map, start, path);
	if (path->levels > 1) {
		unsigned int count = reach(path, start, end, grain, &stop);

		/* What is left of levels that are gone: one empty leaf beside another. */
		if (count > 1 || (count && is_empty_leaf(path->node[path->levels - 1]) && follows_an_empty_leaf(path))) {
			*done = stop;
			return forget_across(map, path, count, start, stop, gfp);
		}
	}
	if (dmu_map_look_up(map, start, &run) == DMU_VALUE_NONE) {
		stop = run < end - start ? (start + run) & ~(grain - 1) : end;
		if (stop > start) {
			*done = stop;
			return 0;
		}
	}
	stop = min(end, path->end & ~(grain - 1));
	if (stop <= start) {
		/* Across two parents, or more leaves than are looked at: it would take more than one step. */
		*done = min(end, start + grain);
		return 0;
	}
	*done = stop;
	return dmu_map_assign(map, start, stop, DMU_VALUE_NONE, gfp);
}
