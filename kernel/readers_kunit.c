// SPDX-License-Identifier: GPL-2.0
/* The extent map under those who read it while it changes. */
#include <linux/jhash.h>
#include <linux/kthread.h>
#include <linux/sched.h>

#include "kunit_random.h"
#include "map_node.h"

#define READERS	2
#define SPAN	1024	/* sectors: few leaves, so that all meet there */
#define UPDATES	6000
#define NODES	64	/* more than it takes */

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

/* Mostly of a few sectors; now and then it begins anew. */
static int update(struct dmu_map *map, struct rnd_state *random, gfp_t gfp)
{
	u64 start = rig_below(random, SPAN), end = min_t(u64, SPAN, start + 1 + rig_below(random, 6));
	u32 what = rig_below(random, 1000);
	unsigned int tag = 1 + what % 3;

	if (what == 0)
		return dmu_map_clear(map, gfp);
	if (what < 4)
		return dmu_map_assign(map, 0, SPAN, value_of(tag, 0), gfp);
	if (what < 700)
		return dmu_map_assign(map, start, end, value_of(tag, start), gfp);
	if (what < 850)
		return dmu_map_assign(map, start, end, what % 2 ? dmu_value(4, false, 7) : DMU_VALUE_NONE, gfp);
	return dmu_map_fill(map, start, end, value_of(tag, start), gfp);
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
	for (i = 0; i < UPDATES; i++) {
		KUNIT_EXPECT_EQ(test, update(&map, &random, GFP_KERNEL), 0);
		cond_resched();
	}
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

/* A node that a reader has reached, and what it was then: of an inner one the keys. */
struct held {
	const struct dmu_map_node *node;
	u32 content;
};

static u32 content_of(const struct dmu_map_node *node)
{
	u32 content = jhash_3words(node->count, node->level, 0, 0);

	content = jhash2((const u32 *)node->key, node->count * 2, content);
	return node->level ? content : jhash2((const u32 *)node->value, node->count * 2, content);
}

static unsigned int hold_all(const struct dmu_map_node *node, struct held *held, unsigned int count)
{
	unsigned int i;

	if (count == NODES)
		return count;
	held[count].node = node;
	held[count++].content = content_of(node);
	for (i = 0; node->level && i < node->count; i++)
		count = hold_all(dmu_map_follow(node->child[i]), held, count);
	return count;
}

/* What makes an update and what reads is one here: so it meets whatever is freed or changed too early. */
static void what_a_reader_holds_stays(struct kunit *test)
{
	struct held *held = kunit_kzalloc(test, NODES * sizeof(*held), GFP_KERNEL);
	unsigned int round, count, i, most = 0;
	struct rnd_state random;
	struct dmu_map map;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, held);
	rig_random(test, &random);
	KUNIT_ASSERT_EQ(test, dmu_map_init(&map), 0);
	for (round = 0; round < UPDATES; round++) {
		unsigned int changed = 0;
		int error;

		rcu_read_lock();
		count = hold_all(dmu_map_follow(map.root), held, 0);
		error = update(&map, &random, GFP_ATOMIC);
		for (i = 0; i < count; i++)
			changed += content_of(held[i].node) != held[i].content;
		rcu_read_unlock();
		KUNIT_EXPECT_EQ(test, error, 0);
		KUNIT_EXPECT_EQ(test, changed, 0u);
		most = max(most, count);
		cond_resched();
	}
	KUNIT_EXPECT_GT(test, most, 3u);
	KUNIT_EXPECT_LT(test, most, (unsigned int)NODES);
	dmu_map_destroy(&map);
	KUNIT_EXPECT_EQ(test, map.nodes, 0ull);
}

static struct kunit_case readers_cases[] = {
	KUNIT_CASE(what_a_reader_holds_stays),
	KUNIT_CASE(readers_see_only_what_was_there),
	{}
};

static struct kunit_suite readers_suite = {
	.name = "dmu_map_readers",
	.test_cases = readers_cases,
};
kunit_test_suite(readers_suite);
