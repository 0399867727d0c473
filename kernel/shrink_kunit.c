// SPDX-License-Identifier: GPL-2.0
/* What the map may forget, and what it must not. The mapper here knows everything, and says it sector by sector. */
#include "kunit_rig.h"

#define KEPT_NODES	16	/* as in shrink.c */

static u8 kind_at(struct rig *rig, u64 sector)
{
	u64 run;

	return dmu_attr(rig->key, dmu_look_up(rig->key, sector, &run))->kind;
}

#define EXPECT_KIND(rig, sector, what) KUNIT_EXPECT_EQ((rig)->test, (u32)kind_at(rig, sector), (u32)(what))

/* Neighbours that do not merge: as many extents as sectors. */
static void map_sectors(struct rig *rig, u64 start, u64 stop)
{
	u64 sector;

	for (sector = start; sector < stop; sector++) {
		KUNIT_ASSERT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = sector, .length = 1,
							.kind = sector & 1 ? DMU_KIND_ERROR : DMU_KIND_ZERO,
							.sequence = rig->key->sequence));
		cond_resched();
	}
	rig_settle(rig);
}

/* Of the map itself: what it keeps for updates is given back before. */
static u64 shrinkable(struct rig *rig)
{
	mutex_lock(&rig->key->map_lock);
	dmu_map_free_spares(&rig->key->map);
	mutex_unlock(&rig->key->map_lock);
	return dmu_shrink_count();
}

/* As much as can be; everywhere, not where the last one stopped. */
static u64 shrink(struct rig *rig)
{
	rig_settle(rig);
	mutex_lock(&rig->key->map_lock);
	rig->key->shrink.hand = 0;
	mutex_unlock(&rig->key->map_lock);
	shrinkable(rig);
	return dmu_shrink_scan(U64_MAX);
}

/* Nobody misses it: it goes whatever the table says, and alone if that is enough. */
static void what_is_kept_for_updates_goes_first(struct kunit *test)
{
	struct rig *rig = test->priv;
	u64 nodes, spares;

	map_sectors(rig, 0, RIG_SECTORS / 2);
	spares = rig->key->map.spares.count;
	KUNIT_ASSERT_GT(test, spares, 0ull);
	KUNIT_EXPECT_EQ(test, dmu_shrink_count(), spares);
	KUNIT_EXPECT_EQ(test, dmu_shrink_scan(1), spares);
	KUNIT_EXPECT_EQ(test, dmu_shrink_count(), 0ull);
	map_sectors(rig, RIG_SECTORS / 2, RIG_SECTORS);
	nodes = rig->key->map.nodes;
	rig->key->shrink.allowed = true;
	KUNIT_EXPECT_GT(test, rig->key->map.spares.count, 0u);
	KUNIT_EXPECT_GT(test, dmu_shrink_scan(1), 0ull);
	KUNIT_EXPECT_EQ(test, rig->key->map.nodes, nodes);
	KUNIT_EXPECT_EQ(test, rig->key->map.extents, (u64)RIG_SECTORS);
}

static void only_where_the_mapper_can_be_asked(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct dmu_key *key = rig->key;
	u64 nodes;

	map_sectors(rig, 0, RIG_SECTORS);
	nodes = key->map.nodes;
	KUNIT_ASSERT_GT(test, nodes, 2 * KEPT_NODES + 0ull);
	/* The table has not said that it may. */
	KUNIT_EXPECT_EQ(test, shrinkable(rig), 0ull);
	KUNIT_EXPECT_EQ(test, shrink(rig), 0ull);
	key->shrink.limit = 40 << 10;
	dmu_shrink_check(key, true);
	rig_settle(rig);
	KUNIT_EXPECT_EQ(test, key->map.extents, (u64)RIG_SECTORS);
	key->shrink.limit = 0;

	key->shrink.allowed = true;
	dmu_key_detach(key);
	KUNIT_EXPECT_EQ(test, shrinkable(rig), 0ull);
	KUNIT_EXPECT_EQ(test, shrink(rig), 0ull);
	KUNIT_ASSERT_EQ(test, dmu_key_attach(key), 0);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .length = RIG_SECTORS);

	dmu_key_set_fail(key, true);
	KUNIT_EXPECT_EQ(test, shrinkable(rig), 0ull);
	KUNIT_EXPECT_EQ(test, shrink(rig), 0ull);
	dmu_key_set_fail(key, false);
	KUNIT_EXPECT_EQ(test, key->map.extents, (u64)RIG_SECTORS);
	KUNIT_EXPECT_EQ(test, key->map.nodes, nodes);
	KUNIT_EXPECT_EQ(test, rig_state(rig).forgotten, 0ull);

	KUNIT_EXPECT_EQ(test, shrinkable(rig), nodes - KEPT_NODES);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
}

static void all_that_is_worth_it_goes(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *read;
	u64 nodes, freed;

	rig->key->shrink.allowed = true;
	rig_write_dest(rig, 0, 800, 8, 0x5a);
	KUNIT_ASSERT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = 8, .length = 8, .kind = DMU_KIND_LINEAR,
					   .destination = 0, .physical = 800));
	map_sectors(rig, 16, RIG_SECTORS);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0x5a));
	nodes = rig->key->map.nodes;
	freed = shrink(rig);
	KUNIT_EXPECT_GE(test, freed, nodes - KEPT_NODES);
	KUNIT_EXPECT_EQ(test, rig->key->map.nodes, nodes - freed);
	KUNIT_EXPECT_EQ(test, shrinkable(rig), 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).forgotten + rig_state(rig).extents, RIG_SECTORS - 16 + 1ull);
	KUNIT_EXPECT_EQ_MSG(test, shrink(rig), 0ull, "what is left is not worth it");
	/* Nobody notices, but for the mapper. */
	read = rig_submit(rig, REQ_OP_READ, 8, 8, 0xff);
	EXPECT_WAITS(rig, read);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 8, .length = 8, .op = DMU_OP_READ);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = 1, .start = 8, .length = 8,
					   .kind = DMU_KIND_LINEAR, .destination = 0, .physical = 800));
	EXPECT_ENDED(rig, read);
	KUNIT_EXPECT_TRUE(test, rig_is_all(read->data, 8, 0x5a));
	EXPECT_NO_EVENT(rig);
}

/* ------------------------------------------------------- what must stay --- */

static void change_stays_until_it_is_acknowledged(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig->key->shrink.allowed = true;
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 1000, 64, 0);
	rig_map_zero(rig, 0, 512, 1);
	EXPECT_ENDED(rig, rig_write(rig, 2, 3, 0x11));
	EXPECT_ENDED(rig, rig_write(rig, 256, 8, 0x22));
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 1000);
	EXPECT_LINEAR(rig, 2, 256, 8, 0, 1008);
	map_sectors(rig, 512, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 0, DMU_KIND_LINEAR);
	EXPECT_KIND(rig, 7, DMU_KIND_LINEAR);
	EXPECT_KIND(rig, 8, DMU_KIND_NONE);
	EXPECT_KIND(rig, 255, DMU_KIND_NONE);
	EXPECT_KIND(rig, 256, DMU_KIND_LINEAR);
	EXPECT_KIND(rig, 263, DMU_KIND_LINEAR);
	EXPECT_KIND(rig, 264, DMU_KIND_NONE);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 2, 3, 0x11));
	EXPECT_NO_EVENT(rig);
	/* The first, not the second. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	map_sectors(rig, 512, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 0, DMU_KIND_NONE);
	EXPECT_KIND(rig, 7, DMU_KIND_NONE);
	EXPECT_KIND(rig, 256, DMU_KIND_LINEAR);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	map_sectors(rig, 512, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 256, DMU_KIND_NONE);
}

static void ground_of_a_miss_stays(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *read, *write;

	rig->key->shrink.allowed = true;
	rig_map_zero(rig, 43, 5, DMU_NO_POOL);
	rig_map_zero(rig, 48, 16, DMU_NO_POOL);
	rig_map_zero(rig, 67, 5, DMU_NO_POOL);
	read = rig_submit(rig, REQ_OP_READ, 40, 3, 0xff);
	EXPECT_WAITS(rig, read);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 40, .length = 8, .op = DMU_OP_READ);
	write = rig_write(rig, 64, 3, 0x22);
	EXPECT_WAITS(rig, write);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 2, .start = 64, .length = 8, .op = DMU_OP_WRITE);
	map_sectors(rig, 128, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 43, DMU_KIND_ZERO);
	EXPECT_KIND(rig, 47, DMU_KIND_ZERO);
	EXPECT_KIND(rig, 48, DMU_KIND_NONE);
	EXPECT_KIND(rig, 67, DMU_KIND_ZERO);
	EXPECT_KIND(rig, 71, DMU_KIND_ZERO);
	/* So a place can follow its ground. */
	rig_map_zero(rig, 64, 3, DMU_NO_POOL);
	map_sectors(rig, 128, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_PLACE, .id = 2, .start = 64, .length = 8,
					   .destination = 0, .physical = 800));
	EXPECT_ENDED(rig, write);
	EXPECT_LINEAR(rig, 1, 64, 8, 0, 800);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 64, 3, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 67, 5, 0));
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = 1, .start = 40, .length = 3,
					   .kind = DMU_KIND_ZERO));
	EXPECT_ENDED(rig, read);
	map_sectors(rig, 128, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 43, DMU_KIND_NONE);
	EXPECT_KIND(rig, 67, DMU_KIND_LINEAR);
}

static void ground_of_a_first_write_stays(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write;

	rig->key->shrink.allowed = true;
	rig_write_dest(rig, 0, 1000, 8, 0xee);
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 1000, 64, 0);
	rig_map_zero(rig, 0, 512, 1);
	rig_stall(rig, 0);
	write = rig_write(rig, 66, 3, 0x33);
	EXPECT_WAITS(rig, write);
	map_sectors(rig, 512, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	EXPECT_KIND(rig, 63, DMU_KIND_NONE);
	EXPECT_KIND(rig, 64, DMU_KIND_ZERO);
	EXPECT_KIND(rig, 71, DMU_KIND_ZERO);
	EXPECT_KIND(rig, 72, DMU_KIND_NONE);
	rig_go(rig, 0);
	EXPECT_ENDED(rig, write);
	EXPECT_LINEAR(rig, 1, 64, 8, 0, 1000);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1000, 2, 0));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1002, 3, 0x33));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1005, 3, 0));
	EXPECT_NO_EVENT(rig);
}

/* It may not know what the change that was forgotten has made. */
static void answer_from_before_is_not_taken(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *read;

	rig->key->shrink.allowed = true;
	KUNIT_ASSERT_TRUE(test, rig_change(rig, 0, 8, 800));
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 800);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	/* Nothing has been forgotten yet. */
	rig_map_zero(rig, 8, 8, DMU_NO_POOL);
	EXPECT_KIND(rig, 8, DMU_KIND_ZERO);
	map_sectors(rig, 16, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, shrink(rig), 0ull);
	read = rig_submit(rig, REQ_OP_READ, 24, 8, 0xff);
	EXPECT_WAITS(rig, read);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 24, .length = 8, .op = DMU_OP_READ);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = 1, .start = 24, .length = 8,
					   .kind = DMU_KIND_ZERO, .sequence = 0));
	EXPECT_WAITS(rig, read);
	EXPECT_KIND(rig, 24, DMU_KIND_NONE);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 2, .start = 24, .length = 8, .op = DMU_OP_READ);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = 2, .start = 24, .length = 8,
					   .kind = DMU_KIND_ZERO, .sequence = 1));
	EXPECT_ENDED(rig, read);
	KUNIT_EXPECT_TRUE(test, rig_is_all(read->data, 8, 0));
}

/* --------------------------------------------------------------- budget --- */

static void map_keeps_to_its_budget(struct kunit *test)
{
	struct rig *rig = test->priv;
	const u64 limit = DMU_MAP_MEMORY_MIN << 8, sectors = 17 << 10;

	rig->key->sectors = sectors;
	rig->key->shrink.limit = limit;
	rig->key->shrink.allowed = true;
	map_sectors(rig, 0, sectors);
	KUNIT_EXPECT_LE(test, rig_state(rig).map_bytes, limit);
	KUNIT_EXPECT_GT_MSG(test, rig_state(rig).map_bytes, limit / 2, "no more than it must");
	KUNIT_EXPECT_GT(test, rig_state(rig).forgotten, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).forgotten + rig_state(rig).extents, sectors);
	KUNIT_EXPECT_EQ(test, rig_state(rig).map_limit, limit);
}

/* A grain has more extents than fit in a leaf. */
static void large_grains_go_too(struct kunit *test)
{
	struct rig *rig = test->priv;
	const u64 limit = (KEPT_NODES + 4) * DMU_MAP_NODE_BYTES;

	rig->key->grain = 1024;
	rig->key->shrink.allowed = true;
	map_sectors(rig, 0, RIG_SECTORS);
	KUNIT_ASSERT_GT(test, rig_state(rig).map_bytes, limit);
	rig->key->shrink.limit = limit;
	dmu_shrink_check(rig->key, true);
	KUNIT_EXPECT_LE(test, rig_state(rig).map_bytes, limit);
	KUNIT_EXPECT_EQ_MSG(test, rig_state(rig).forgotten % 1024, 0ull, "not whole grains");
	KUNIT_EXPECT_EQ(test, rig_state(rig).forgotten + rig_state(rig).extents, (u64)RIG_SECTORS);
}

/* What must stay is over it: it goes once it may. */
static void budget_is_met_later(struct kunit *test)
{
	struct rig *rig = test->priv;
	const u64 limit = (KEPT_NODES + 4) * DMU_MAP_NODE_BYTES;

	rig->key->shrink.allowed = true;
	KUNIT_ASSERT_TRUE(test, rig_change(rig, 0, RIG_SECTORS, 0));
	rig->key->shrink.limit = limit;
	map_sectors(rig, 0, RIG_SECTORS);
	KUNIT_EXPECT_GT(test, rig_state(rig).map_bytes, limit);
	KUNIT_EXPECT_EQ(test, rig_state(rig).forgotten, 0ull);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	KUNIT_EXPECT_LE(test, rig_state(rig).map_bytes, limit);
}

static struct kunit_case shrink_cases[] = {
	KUNIT_CASE(what_is_kept_for_updates_goes_first),
	KUNIT_CASE(only_where_the_mapper_can_be_asked),
	KUNIT_CASE(all_that_is_worth_it_goes),
	KUNIT_CASE(change_stays_until_it_is_acknowledged),
	KUNIT_CASE(ground_of_a_miss_stays),
	KUNIT_CASE(ground_of_a_first_write_stays),
	KUNIT_CASE(answer_from_before_is_not_taken),
	KUNIT_CASE(map_keeps_to_its_budget),
	KUNIT_CASE(large_grains_go_too),
	KUNIT_CASE(budget_is_met_later),
	{}
};

static struct kunit_suite shrink_suite = {
	.name = "dmu_shrink",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = shrink_cases,
};
kunit_test_suite(shrink_suite);
