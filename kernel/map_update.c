// SPDX-License-Identifier: GPL-2.0
/* Updates of the extent map: leaves are made anew, and put in place bottom up. */
#include "map_node.h"

void dmu_map_descend(const struct dmu_map *map, u64 sector, struct map_path *path)
{
	struct dmu_map_node *node = dmu_map_follow(map->root);

	path->levels = 0;
	path->end = path->parent_end = NO_END;
	for (;;) {
		unsigned int i = find_entry(node, sector);

		path->node[path->levels] = node;
		path->index[path->levels++] = i;
		if (!node->level)
			return;
		path->parent_end = path->end;
		path->end = entry_end(node, i, path->end);
		node = dmu_map_follow(node->child[i]);
	}
}

/* Appends a break point unless what stands there already says the same. */
static void draft_add(struct draft *draft, u64 key, u64 value)
{
	if (draft->count) {
		unsigned int last = draft->count - 1;

		if (draft->key[last] == key) {
			draft->value[last] = value;
			return;
		}
		if (dmu_value_after(draft->value[last], key - draft->key[last]) == value)
			return;
	}
	draft->key[draft->count] = key;
	draft->value[draft->count++] = value;
}

static void draft_append(struct draft *draft, const struct dmu_map_node *leaf)
{
	unsigned int i;

	for (i = 0; i < leaf->count; i++)
		draft_add(draft, leaf->key[i], leaf->value[i]);
}

/* The leaf as it is with [start, end) set to value; end is inside the leaf or its end. */
static void draft_assign(struct draft *draft, const struct dmu_map_node *leaf, u64 leaf_end,
			 u64 start, u64 end, u64 value)
{
	unsigned int i = 0;

	draft->count = 0;
	for (; i < leaf->count && leaf->key[i] < start; i++)
		draft_add(draft, leaf->key[i], leaf->value[i]);
	draft_add(draft, start, value);
	if (end >= leaf_end)
		return;
	i = find_entry(leaf, end);
	draft_add(draft, end, dmu_value_after(leaf->value[i], end - leaf->key[i]));
	for (i++; i < leaf->count; i++)
		draft_add(draft, leaf->key[i], leaf->value[i]);
}

static void copy_draft(struct dmu_map_node *leaf, const struct draft *draft, unsigned int from, unsigned int count)
{
	leaf->count = count;
	memcpy(leaf->key, draft->key + from, count * sizeof(u64));
	memcpy(leaf->value, draft->value + from, count * sizeof(u64));
}

/* Replaces "removed" children of an inner node, from "at" on, by the given ones, in a copy or two. */
static int rebuild_inner(struct dmu_map *map, const struct dmu_map_node *old, unsigned int at, unsigned int removed,
			 struct dmu_map_node *const *added, unsigned int added_count,
			 struct dmu_map_node **made, gfp_t gfp)
{
	unsigned int total = old->count - removed + added_count;
	unsigned int left = total <= NODE_ENTRIES ? total : total / 2;
	unsigned int i, n;

	made[1] = NULL;
	made[0] = new_node(map, old->level, gfp);
	if (!made[0])
		return -ENOMEM;
	if (left < total) {
		made[1] = new_node(map, old->level, gfp);
		if (!made[1]) {
			drop_node(map, made[0]);
			return -ENOMEM;
		}
	}
	for (n = 0; n < total; n++) {
		struct dmu_map_node *into = made[n >= left];
		struct dmu_map_node *child;
		u64 key;

		if (n >= at && n < at + added_count) {
			child = added[n - at];
			key = child->key[0];
		} else {
			i = n < at ? n : n - added_count + removed;
			child = dmu_map_follow(old->child[i]);
			key = old->key[i];
		}
		into->key[into->count] = key;
		dmu_map_publish(into->child[into->count], child);
		into->count++;
	}
	return 0;
}

/*
 * Puts a few fresh nodes where "removed" neighbours stood, below
 * path->node[depth - 1]. Nothing that a reader can see changes before the
 * last step, so that a failed allocation leaves the tree as it was.
 */
int dmu_map_replace_children(struct dmu_map *map, struct map_path *path, unsigned int depth, unsigned int at,
			     unsigned int removed, struct dmu_map_node **fresh, unsigned int fresh_count, gfp_t gfp)
{
	struct dmu_map_node *made[2], *parent;
	int error;

	if (!depth) {
		struct dmu_map_node *root = fresh[0];

		if (fresh_count == 2) {
			root = new_node(map, fresh[0]->level + 1, gfp);
			if (!root)
				return -ENOMEM;
			root->count = 2;
			root->key[0] = fresh[0]->key[0];
			root->key[1] = fresh[1]->key[0];
			dmu_map_publish(root->child[0], fresh[0]);
			dmu_map_publish(root->child[1], fresh[1]);
		}
		dmu_map_publish(map->root, root);
		return 0;
	}
	parent = path->node[depth - 1];
	if (removed == 1 && fresh_count == 1) {
		dmu_map_publish(parent->child[at], fresh[0]);
		return 0;
	}
	if (parent->count == removed && fresh_count == 1) {
		/* An inner node with a single child tells nothing: the child takes its place. */
		error = dmu_map_replace_children(map, path, depth - 1, depth > 1 ? path->index[depth - 2] : 0, 1,
						 fresh, 1, gfp);
		if (!error)
			retire_node(map, parent);
		return error;
	}
	error = rebuild_inner(map, parent, at, removed, fresh, fresh_count, made, gfp);
	if (error)
		return error;
	error = dmu_map_replace_children(map, path, depth - 1, depth > 1 ? path->index[depth - 2] : 0, 1, made,
					 made[1] ? 2 : 1, gfp);
	if (error) {
		drop_node(map, made[0]);
		drop_node(map, made[1]);
		return error;
	}
	retire_node(map, parent);
	return 0;
}

/* A leaf of few entries joins a neighbour under the same parent, if one has room. */
static struct dmu_map_node *find_partner(const struct map_path *path, const struct draft *draft, bool *left)
{
	const struct dmu_map_node *parent;
	struct dmu_map_node *other;
	unsigned int at;

	if (path->levels < 2 || draft->count > NODE_ENTRIES / 4)
		return NULL;
	parent = path->node[path->levels - 2];
	at = path->index[path->levels - 2];
	if (at) {
		other = dmu_map_follow(parent->child[at - 1]);
		if (!other->level && other->count + draft->count <= NODE_ENTRIES * 3 / 4) {
			*left = true;
			return other;
		}
	}
	if (at + 1 < parent->count) {
		other = dmu_map_follow(parent->child[at + 1]);
		if (!other->level && other->count + draft->count <= NODE_ENTRIES * 3 / 4) {
			*left = false;
			return other;
		}
	}
	return NULL;
}

static void join_drafts(struct draft *draft, const struct dmu_map_node *partner, bool left, struct draft *work)
{
	unsigned int i;

	if (!left) {
		draft_append(draft, partner);
		return;
	}
	work->count = 0;
	draft_append(work, partner);
	for (i = 0; i < draft->count; i++)
		draft_add(work, draft->key[i], draft->value[i]);
	*draft = *work;
}

/* Where a full leaf is cut: a sequential writer leaves full leaves behind. */
static unsigned int cut_at(const struct draft *draft, u64 start)
{
	if (draft->key[draft->count - 2] <= start)
		return NODE_ENTRIES - 1;
	return draft->count / 2;
}

/* Copies entries as they are. */
static void copy_entries(struct dmu_map_node *to, const struct dmu_map_node *from, unsigned int first,
			 unsigned int count)
{
	memcpy(to->key + to->count, from->key + first, count * sizeof(u64));
	memcpy(to->value + to->count, from->value + first, count * sizeof(u64));
	to->count += count;
}

/*
 * The usual case, cheaply: a range inside one entry, in a leaf that stays of a
 * good size. *extents: by how many there are more.
 */
static bool draw_inside(struct dmu_map_node *fresh, const struct dmu_map_node *leaf, u64 leaf_end, u64 start, u64 end,
			u64 value, int *extents)
{
	unsigned int i = find_entry(leaf, start), next = i + 1;
	u64 stop = entry_end(leaf, i, leaf_end), old = leaf->value[i];

	if (end > stop || leaf->count + 2 > NODE_ENTRIES)
		return false;
	*extents = 0;
	if (leaf->key[i] < start) {
		copy_entries(fresh, leaf, 0, next);
	} else {
		copy_entries(fresh, leaf, 0, i);
		*extents -= old != DMU_VALUE_NONE;
	}
	if (!goes_on(fresh, start, value)) {
		add_entry(fresh, start, value);
		*extents += value != DMU_VALUE_NONE;
	}
	if (end < stop) {
		old = dmu_value_after(old, end - leaf->key[i]);
		if (!goes_on(fresh, end, old)) {
			add_entry(fresh, end, old);
			*extents += old != DMU_VALUE_NONE;
		}
	} else if (next < leaf->count && goes_on(fresh, end, leaf->value[next])) {
		*extents -= leaf->value[next] != DMU_VALUE_NONE;
		next++;
	}
	copy_entries(fresh, leaf, next, leaf->count - next);
	return fresh->count >= leaf->count || fresh->count > NODE_ENTRIES / 4;
}

/* 1: done; 0: it takes more than that. */
static int assign_inside(struct dmu_map *map, const struct map_path *path, u64 start, u64 end, u64 value, gfp_t gfp)
{
	struct dmu_map_node *leaf = path->node[path->levels - 1], *fresh;
	int extents;

	if (end > path->end)
		return 0;
	fresh = new_node(map, 0, gfp);
	if (!fresh)
		return -ENOMEM;
	if (!draw_inside(fresh, leaf, path->end, start, end, value, &extents)) {
		drop_node(map, fresh);
		return 0;
	}
	/* One for one: only a pointer changes. */
	if (path->levels > 1)
		dmu_map_publish(path->node[path->levels - 2]->child[path->index[path->levels - 2]], fresh);
	else
		dmu_map_publish(map->root, fresh);
	map->extents += extents;
	retire_node(map, leaf);
	return 1;
}

/* Sets what one leaf covers of [start, end); *done is where it got to. */
static int assign_in_leaf(struct dmu_map *map, u64 start, u64 end, u64 value, u64 *done, gfp_t gfp)
{
	struct dmu_map_scratch *a = map->scratch;
	struct dmu_map_node *leaf, *partner, *fresh[2] = {};
	unsigned int at, removed = 1, left_count;
	u64 before, after;
	bool left = false;
	int error;

	dmu_map_descend(map, start, &a->path);
	leaf = a->path.node[a->path.levels - 1];
	*done = min(end, a->path.end);
	error = assign_inside(map, &a->path, start, end, value, gfp);
	if (error)
		return min(error, 0);
	draft_assign(&a->draft, leaf, a->path.end, start, *done, value);
	before = count_known(leaf->value, leaf->count);
	at = a->path.levels > 1 ? a->path.index[a->path.levels - 2] : 0;

	partner = find_partner(&a->path, &a->draft, &left);
	if (partner) {
		before += count_known(partner->value, partner->count);
		join_drafts(&a->draft, partner, left, &a->work);
		removed = 2;
		at -= left;
	}
	after = count_known(a->draft.value, a->draft.count);
	left_count = a->draft.count <= NODE_ENTRIES ? a->draft.count : cut_at(&a->draft, start);

	fresh[0] = new_node(map, 0, gfp);
	if (!fresh[0])
		return -ENOMEM;
	copy_draft(fresh[0], &a->draft, 0, left_count);
	if (left_count < a->draft.count) {
		fresh[1] = new_node(map, 0, gfp);
		if (!fresh[1]) {
			drop_node(map, fresh[0]);
			return -ENOMEM;
		}
		copy_draft(fresh[1], &a->draft, left_count, a->draft.count - left_count);
	}
	error = dmu_map_replace_children(map, &a->path, a->path.levels - 1, at, removed, fresh, fresh[1] ? 2 : 1, gfp);
	if (error) {
		drop_node(map, fresh[0]);
		drop_node(map, fresh[1]);
		return error;
	}
	map->extents += after - before;
	retire_node(map, leaf);
	if (partner)
		retire_node(map, partner);
	return 0;
}

int dmu_map_assign(struct dmu_map *map, u64 start, u64 end, u64 value, gfp_t gfp)
{
	while (start < end) {
		u64 done;
		int error = assign_in_leaf(map, start, end, value, &done, gfp);

		if (error)
			return error;
		value = dmu_value_after(value, done - start);
		start = done;
	}
	return 0;
}

int dmu_map_fill(struct dmu_map *map, u64 start, u64 end, u64 value, gfp_t gfp)
{
	u64 at = start;

	while (at < end) {
		u64 run, old = dmu_map_look_up(map, at, &run);
		u64 stop = run < end - at ? at + run : end;

		if (old == DMU_VALUE_NONE) {
			int error = dmu_map_assign(map, at, stop, dmu_value_after(value, at - start), gfp);

			if (error)
				return error;
		}
		at = stop;
	}
	return 0;
}
