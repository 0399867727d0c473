// SPDX-License-Identifier: GPL-2.0
/* The extent map in the kernel, against an array that means the same. */
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "kunit_random.h"
#include "map.h"

#define MODEL	4000	/* sectors */

struct model {
	struct dmu_map map;
	u64 value[MODEL];
};

static int map_init(struct kunit *test)
{
	struct model *model = vzalloc(sizeof(*model));
	int error;

	if (!model)
		return -ENOMEM;
	error = dmu_map_init(&model->map);
	if (error)
		vfree(model);
	else
		test->priv = model;
	return error;
}

static void map_exit(struct kunit *test)
{
	struct model *model = test->priv;

	if (!model)
		return;
	dmu_map_destroy(&model->map);
	KUNIT_EXPECT_EQ_MSG(test, model->map.nodes, 0ull, "not all memory was freed");
	vfree(model);
}

static u64 at(struct dmu_map *map, u64 sector)
{
	u64 run;

	return dmu_map_look_up(map, sector, &run);
}

static void knows_nothing_at_first(struct kunit *test)
{
	struct dmu_map *map = &((struct model *)test->priv)->map;
	u64 run;

	KUNIT_EXPECT_EQ(test, at(map, 0), DMU_VALUE_NONE);
	KUNIT_EXPECT_EQ(test, dmu_map_look_up(map, 10, &run), DMU_VALUE_NONE);
	KUNIT_EXPECT_EQ(test, run, ~0ull - 10);
	KUNIT_EXPECT_EQ(test, at(map, ~0ull - 1), DMU_VALUE_NONE);
	KUNIT_EXPECT_EQ(test, map->extents, 0ull);
}

static void neighbours_merge(struct kunit *test)
{
	struct dmu_map *map = &((struct model *)test->priv)->map;
	u64 i, run;

	for (i = 0; i < 1000; i++)
		KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, i * 8, i * 8 + 8, dmu_value(1, true, 5000 + i * 8),
							GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, map->extents, 1ull);
	KUNIT_EXPECT_EQ(test, dmu_map_look_up(map, 100, &run), dmu_value(1, true, 5100));
	KUNIT_EXPECT_EQ(test, run, 7900ull);
	/* Another place, another tag: these do not. */
	KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, 8000, 8008, dmu_value(1, true, 5), GFP_KERNEL));
	KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, 8008, 8016, dmu_value(2, true, 13), GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, map->extents, 3ull);
}

static void fill_never_replaces(struct kunit *test)
{
	struct dmu_map *map = &((struct model *)test->priv)->map;

	KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, 10, 20, dmu_value(1, true, 700), GFP_KERNEL));
	KUNIT_ASSERT_EQ(test, 0, dmu_map_fill(map, 0, 100, dmu_value(2, true, 5000), GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, at(map, 9), dmu_value(2, true, 5009));
	KUNIT_EXPECT_EQ(test, at(map, 10), dmu_value(1, true, 700));
	KUNIT_EXPECT_EQ(test, at(map, 19), dmu_value(1, true, 709));
	KUNIT_EXPECT_EQ(test, at(map, 20), dmu_value(2, true, 5020));
	KUNIT_EXPECT_EQ(test, at(map, 100), DMU_VALUE_NONE);
}

static void clear_forgets_all(struct kunit *test)
{
	struct dmu_map *map = &((struct model *)test->priv)->map;
	u64 i;

	for (i = 0; i < 1000; i++)
		KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, i, i + 1, dmu_value(1, false, i), GFP_KERNEL));
	KUNIT_EXPECT_GT(test, map->nodes, 5ull);
	KUNIT_ASSERT_EQ(test, 0, dmu_map_clear(map, GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, at(map, 500), DMU_VALUE_NONE);
	KUNIT_EXPECT_EQ(test, map->extents, 0ull);
	KUNIT_EXPECT_EQ(test, map->nodes, 1ull);
}

/* Enough leaves for inner nodes to be cut, too, in the order in which it hurts most. */
static void costs_little_per_extent(struct kunit *test)
{
	const u64 count = 1 << 14;
	struct dmu_map *map = &((struct model *)test->priv)->map;
	u64 n;

	KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, 0, count * 128, dmu_value(2, false, 0), GFP_KERNEL));
	for (n = 0; n < count; n++) {
		u64 i = n * 7919 % count;	/* a prime: each once */

		KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, i * 128, i * 128 + 128,
							dmu_value(1, true, (count - i) * 128), GFP_KERNEL));
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, map->extents, count);
	KUNIT_EXPECT_LE(test, dmu_map_bytes(map), 32 * count);
	for (n = 0; n < count; n++)
		KUNIT_ASSERT_EQ(test, at(map, n * 128 + 5), dmu_value(1, true, (count - n) * 128 + 5));
	KUNIT_ASSERT_EQ(test, 0, dmu_map_assign(map, 0, ~0ull, DMU_VALUE_NONE, GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, map->extents, 0ull);
	KUNIT_EXPECT_LT_MSG(test, map->nodes, 4ull, "emptied leaves have not joined");
}

/* -------------------------------------------------------- by an array --- */

static void set(struct model *model, u64 start, u64 end, u64 value, bool only_unknown)
{
	u64 s;

	for (s = start; s < end; s++)
		if (!only_unknown || model->value[s] == DMU_VALUE_NONE)
			model->value[s] = dmu_value_after(value, s - start);
}

/* Every sector, every run that is claimed, and the count. */
static void expect_like_model(struct kunit *test)
{
	struct model *model = test->priv;
	u64 sector, run, i, extents = 0;

	for (sector = 0; sector < MODEL; sector += run) {
		u64 value = dmu_map_look_up(&model->map, sector, &run);

		KUNIT_ASSERT_GT(test, run, 0ull);
		for (i = 0; i < run && sector + i < MODEL; i++)
			if (dmu_value_after(value, i) != model->value[sector + i])
				break;
		KUNIT_ASSERT_TRUE_MSG(test, i == run || sector + i == MODEL, "sector %llu: %llx, not %llx",
				      sector + i, dmu_value_after(value, i), model->value[sector + i]);
	}
	for (sector = 0; sector < MODEL; sector++)
		extents += model->value[sector] != DMU_VALUE_NONE &&
			   (!sector ||
			    dmu_value_after(model->value[sector - 1], 1) != model->value[sector]);
	/* A leaf may begin with what goes on from the one before. */
	KUNIT_EXPECT_GE(test, model->map.extents, extents);
	KUNIT_EXPECT_LE(test, model->map.extents, extents + model->map.nodes);
	cond_resched();
}

static void answers_like_an_array(struct kunit *test)
{
	struct model *model = test->priv;
	struct rnd_state random;
	unsigned int round;

	rig_random(test, &random);
	for (round = 0; round < 5000; round++) {
		u64 start = rig_below(&random, MODEL), span = rig_below(&random, 100) < 3 ? MODEL : 40;
		u64 end = min_t(u64, MODEL, start + 1 + rig_below(&random, span));
		u32 kind = rig_below(&random, 10);
		bool fill = kind == 9 || kind == 7;
		u64 value = DMU_VALUE_NONE;

		if (kind < 5)
			value = dmu_value(1 + rig_below(&random, 3), true, rig_below(&random, 64) * 1024 + start);
		else if (kind < 8)
			value = dmu_value(4, false, 0);
		else if (fill)
			value = dmu_value(5, false, 0);
		KUNIT_ASSERT_EQ(test, 0, fill ? dmu_map_fill(&model->map, start, end, value, GFP_KERNEL)
					      : dmu_map_assign(&model->map, start, end, value, GFP_KERNEL));
		set(model, start, end, value, fill);
		if (round % 250 == 0)
			expect_like_model(test);
	}
	expect_like_model(test);
}

#ifdef CONFIG_FAILSLAB
/*
 * Lets the n-th allocation from here on fail; *failed: there were so many. Some
 * may be of who looks over our shoulder, and do no harm, unless only kmalloc()
 * is made to fail (failslab/cache-filter).
 */
static int assign_failing(struct dmu_map *map, unsigned int n, u64 start, u64 end, u64 value, bool *failed)
{
	int error;

	/* Only what may not wait can be made to fail without more ado. */
	current->fail_nth = n;
	error = dmu_map_assign(map, start, end, value, GFP_NOWAIT | __GFP_NOWARN);
	*failed = !current->fail_nth;
	current->fail_nth = 0;
	return error;
}

/* As much as "a part from start on may have been set" allows. */
static void set_what_was_set(struct kunit *test, u64 start, u64 end, u64 value)
{
	struct model *model = test->priv;
	u64 s = start;

	while (s < end && at(&model->map, s) == dmu_value_after(value, s - start))
		s++;
	set(model, start, s, value, false);
}

static void failed_allocation_leaves_it_whole(struct kunit *test)
{
	struct model *model = test->priv;
	unsigned int round, failures = 0;
	struct rnd_state random;

	rig_random(test, &random);
	for (round = 0; round < 1500; round++) {
		u64 start = rig_below(&random, MODEL);
		u64 end = min_t(u64, MODEL, start + 1 + rig_below(&random, round % 50 ? 5 : MODEL));
		u64 value = dmu_value(1 + rig_below(&random, 2), rig_below(&random, 2), rig_below(&random, 2) * 4096);
		unsigned int n = 1;
		bool failed = true;
		int error = 0;

		while (failed) {
			error = assign_failing(&model->map, n++, start, end, value, &failed);
			if (!error)
				break;
			KUNIT_ASSERT_EQ(test, error, -ENOMEM);
			failures++;
			set_what_was_set(test, start, end, value);
			if (round % 8 == 0)
				expect_like_model(test);
		}
		if (error)
			error = dmu_map_assign(&model->map, start, end, value, GFP_KERNEL);
		KUNIT_ASSERT_EQ(test, error, 0);
		set(model, start, end, value, false);
	}
	expect_like_model(test);
	KUNIT_EXPECT_GT(test, failures, 200u);
}
#else
static void failed_allocation_leaves_it_whole(struct kunit *test)
{
	kunit_skip(test, "no fault injection in this kernel");
}
#endif

static struct kunit_case map_cases[] = {
	KUNIT_CASE(knows_nothing_at_first),
	KUNIT_CASE(neighbours_merge),
	KUNIT_CASE(fill_never_replaces),
	KUNIT_CASE(clear_forgets_all),
	KUNIT_CASE(costs_little_per_extent),
	KUNIT_CASE(answers_like_an_array),
	KUNIT_CASE(failed_allocation_leaves_it_whole),
	{}
};

static struct kunit_suite map_suite = {
	.name = "dmu_map",
	.init = map_init,
	.exit = map_exit,
	.test_cases = map_cases,
};
kunit_test_suite(map_suite);
