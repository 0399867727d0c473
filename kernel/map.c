// SPDX-License-Identifier: GPL-2.0
/* The extent map: its life, and looking up. */
#include "map_node.h"

int dmu_map_init(struct dmu_map *map)
{
	struct dmu_map_node *root;

	map->extents = 0;
	map->nodes = 0;
	map->spares = (struct dmu_map_spares){};
	map->scratch = dmu_map_alloc(sizeof(*map->scratch), GFP_KERNEL);
	root = new_node(map, 0, GFP_KERNEL);
	if (!root || !map->scratch) {
		drop_node(map, root);
		dmu_map_free_now(map->scratch);
		return -ENOMEM;
	}
	root->count = 1;
	root->key[0] = 0;
	root->value[0] = DMU_VALUE_NONE;
	dmu_map_publish(map->root, root);
	return 0;
}

static void free_tree(struct dmu_map *map, struct dmu_map_node *node, bool readers)
{
	unsigned int i;

	/* At most MAX_LEVELS deep, a few words each. */
	for (i = 0; node->level && i < node->count; i++)
		free_tree(map, dmu_map_follow(node->child[i]), readers);
	if (readers)
		retire_node(map, node);
	else
		drop_node(map, node);
}

unsigned int dmu_map_free_spares(struct dmu_map *map)
{
	struct dmu_map_node *node = map->spares.first, *next;
	unsigned int count = map->spares.count;

	for (; node; node = next) {
		next = node->next;
		dmu_map_free_later(node);
	}
	map->spares = (struct dmu_map_spares){};
	return count;
}

void dmu_map_destroy(struct dmu_map *map)
{
	struct dmu_map_node *root = dmu_map_follow(map->root);

	if (root)
		free_tree(map, root, false);
	dmu_map_free_spares(map);
	dmu_map_publish(map->root, (struct dmu_map_node *)NULL);
	dmu_map_free_now(map->scratch);
	map->scratch = NULL;
	map->extents = 0;
}

int dmu_map_clear(struct dmu_map *map, gfp_t gfp)
{
	struct dmu_map_node *old = dmu_map_follow(map->root);
	struct dmu_map_node *root = new_node(map, 0, gfp);

	if (!root)
		return -ENOMEM;
	root->count = 1;
	root->key[0] = 0;
	root->value[0] = DMU_VALUE_NONE;
	dmu_map_publish(map->root, root);
	free_tree(map, old, true);
	map->extents = 0;
	return 0;
}

u64 dmu_map_bytes(const struct dmu_map *map)
{
	return map->nodes * DMU_MAP_NODE_BYTES;
}

u64 dmu_map_look_up(const struct dmu_map *map, u64 sector, u64 *run)
{
	return map_find(map, sector, run);
}
