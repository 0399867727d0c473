// SPDX-License-Identifier: GPL-2.0
/* The extent map: making it smaller. */
#include "map_node.h"

static bool is_empty_leaf(const struct dmu_map_node *node)
{
	return !node->level && node->count == 1 && node->value[0] == DMU_VALUE_NONE;
}

/*
 * How many leaves from the one at path on, below the same parent, lie in
 * [start, end) as a whole, as far as they end with a grain; *stop is where the
 * last ends.
 */
static unsigned int whole_leaves(const struct map_path *path, u64 start, u64 end, u64 grain, u64 *stop)
{
	const struct dmu_map_node *parent = path->node[path->levels - 2];
	unsigned int at = path->index[path->levels - 2], i, whole = 0;
	u64 parent_end = path->end;

	if (parent->key[at] != start)
		return 0;
	/* What the last child covers ends somewhere above: it is taken only where it is the one at path. */
	for (i = at; i < parent->count && i < at + DMU_MAP_FORGET_LEAVES; i++) {
		u64 leaf_end = i == at ? parent_end : entry_end(parent, i, NO_END);

		if (dmu_map_follow(parent->child[i])->level || leaf_end > end || leaf_end == NO_END)
			break;
		if (leaf_end & (grain - 1))
			continue;
		whole = i + 1 - at;
		*stop = leaf_end;
	}
	return whole;
}

/* They become one that knows nothing, together with one that knew nothing before. */
static int remove_leaves(struct dmu_map *map, struct map_path *path, unsigned int count, gfp_t gfp)
{
	struct dmu_map_node *parent = path->node[path->levels - 2], *old[DMU_MAP_FORGET_LEAVES + 1], *fresh;
	unsigned int at = path->index[path->levels - 2], i;
	u64 known = 0;
	int error;

	if (at && is_empty_leaf(dmu_map_follow(parent->child[at - 1]))) {
		at--;
		count++;
	}
	for (i = 0; i < count; i++) {
		old[i] = dmu_map_follow(parent->child[at + i]);
		known += count_known(old[i]->value, old[i]->count);
	}
	fresh = new_node(map, 0, gfp);
	if (!fresh)
		return -ENOMEM;
	fresh->count = 1;
	fresh->key[0] = parent->key[at];
	fresh->value[0] = DMU_VALUE_NONE;
	error = dmu_map_replace_children(map, path, path->levels - 1, at, count, &fresh, 1, gfp);
	if (error) {
		drop_node(map, fresh);
		return error;
	}
	map->extents -= known;
	for (i = 0; i < count; i++)
		retire_node(map, old[i]);
	return 0;
}

int dmu_map_forget(struct dmu_map *map, u64 start, u64 end, u64 grain, u64 *done, gfp_t gfp)
{
	struct map_path *path = &map->scratch->path;
	u64 run, stop;

	if (dmu_map_look_up(map, start, &run) == DMU_VALUE_NONE) {
		stop = run < end - start ? (start + run) & ~(grain - 1) : end;
		if (stop > start) {
			*done = stop;
			return 0;
		}
	}
	dmu_map_descend(map, start, path);
	if (path->levels > 1) {
		unsigned int count = whole_leaves(path, start, end, grain, &stop);

		if (count > 1) {
			*done = stop;
			return remove_leaves(map, path, count, gfp);
		}
	}
	stop = min(end, path->end & ~(grain - 1));
	if (stop <= start) {
		/* A grain across two leaves would take two steps: it stays. */
		*done = min(end, start + grain);
		return 0;
	}
	*done = stop;
	return dmu_map_assign(map, start, stop, DMU_VALUE_NONE, gfp);
}
