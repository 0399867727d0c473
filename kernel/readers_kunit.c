// SPDX-License-Identifier: GPL-2.0
/* The extent map under those who read it while it changes. */
#include <linux/kthread.h>
#include <linux/sched.h>

#include "kunit_rig.h"

#define READERS	2
#define SPAN	4096	/* sectors */
#define UPDATES	6000

struct reader {
	struct dmu_map *map;
	struct task_struct *task;
	u64 looked;
	u64 wrong;		/* values that nobody ever put there */
	u64 last_wrong;
};

/* What a sector may stand for tells which sector it is. */
static u64 value_of(unsigned int tag, u64 sector)
{
	return dmu_value(tag, true, ((u64)tag << 20) + sector);
}

static bool is_possible(u64 value, u64 sector)
{
	unsigned int tag = dmu_value_tag(value);

	return value == DMU_VALUE_NONE || value == dmu_value(4, false, 7) ||
	       (tag >= 1 && tag <= 3 && value == value_of(tag, sector));
}

static int read_on(void *data)
{
	struct reader *reader = data;
	u64 sector = 0;

	while (!kthread_should_stop()) {
		u64 run, value;

		rcu_read_lock();
		value = dmu_map_look_up(reader->map, sector, &run);
		rcu_read_unlock();
		reader->looked++;
		if (!run || !is_possible(value, sector)) {
			reader->wrong++;
			reader->last_wrong = sector;
		}
		sector = (sector * 5 + 7919) % SPAN;	/* comes by all of them */
		cond_resched();
	}
	return 0;
}

static void update(struct kunit *test, struct dmu_map *map, struct rnd_state *random)
{
	u64 start = rig_below(random, SPAN), end = min_t(u64, SPAN, start + 1 + rig_below(random, 24));
	u32 what = rig_below(random, 200);
	int error;

	if (what == 0)
		error = dmu_map_clear(map, GFP_KERNEL);
	else if (what < 4)
		error = dmu_map_assign(map, 0, SPAN, value_of(1 + what % 3, 0), GFP_KERNEL);
	else if (what < 140)
		error = dmu_map_assign(map, start, end, value_of(1 + what % 3, start), GFP_KERNEL);
	else if (what < 170)
		error = dmu_map_assign(map, start, end, what % 2 ? dmu_value(4, false, 7) : DMU_VALUE_NONE, GFP_KERNEL);
	else
		error = dmu_map_fill(map, start, end, value_of(1 + what % 3, start), GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, error, 0);
	cond_resched();
}

static void readers_see_only_what_was_there(struct kunit *test)
{
	struct reader readers[READERS] = {};
	struct rnd_state random;
	struct dmu_map map;
	unsigned int i;

	rig_random(test, &random);
	KUNIT_ASSERT_EQ(test, dmu_map_init(&map), 0);
	for (i = 0; i < READERS; i++) {
		readers[i].map = &map;
		readers[i].task = kthread_run(read_on, &readers[i], "dmu-reader/%u", i);
	}
	for (i = 0; i < UPDATES; i++)
		update(test, &map, &random);
	for (i = 0; i < READERS; i++) {
		if (IS_ERR(readers[i].task)) {
			KUNIT_FAIL(test, "no reader %u", i);
			continue;
		}
		kthread_stop(readers[i].task);
		KUNIT_EXPECT_GT(test, readers[i].looked, 0ull);
		KUNIT_EXPECT_EQ_MSG(test, readers[i].wrong, 0ull, "the last at sector %llu", readers[i].last_wrong);
	}
	dmu_map_destroy(&map);
	KUNIT_EXPECT_EQ(test, map.nodes, 0ull);
}

static struct kunit_case readers_cases[] = {
	KUNIT_CASE(readers_see_only_what_was_there),
	{}
};

static struct kunit_suite readers_suite = {
	.name = "dmu_map_readers",
	.test_cases = readers_cases,
};
kunit_test_suite(readers_suite);
