// SPDX-License-Identifier: GPL-2.0
/* KUnit: drains wait for I/O that was issued, and never for what the mapper has to say. */
#include "kunit_rig.h"

#define WANTED	77

/* All that it waits for but I/O is RCU, and queues. */
static void drain(struct rig *rig)
{
	KUNIT_EXPECT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_INVALIDATE, .id = WANTED,
						.destination = DMU_NO_DESTINATION));
	rcu_barrier();
	rig_settle(rig);
}

static void map_linear(struct rig *rig, u64 start, u64 length)
{
	KUNIT_ASSERT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = start, .length = length,
						.kind = DMU_KIND_LINEAR, .flags = DMU_MAP_WRITABLE, .physical = start));
}

static void waits_for_a_write(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write;

	map_linear(rig, 0, 64);
	rig_stall(rig, 0);
	write = rig_write(rig, 8, 2, 0x11);
	EXPECT_WAITS(rig, write);
	drain(rig);
	EXPECT_NO_EVENT(rig);
	rig_go(rig, 0);
	EXPECT_ENDED(rig, write);
	rig_settle(rig);
	EXPECT_EVENT(rig, .type = DMU_EV_INVALIDATED, .id = WANTED);
}

static void waits_for_no_miss(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *read = rig_submit(rig, REQ_OP_READ, 64, 8, 0);

	EXPECT_WAITS(rig, read);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 64, .length = 8, .op = DMU_OP_READ);
	drain(rig);
	EXPECT_EVENT(rig, .type = DMU_EV_INVALIDATED, .id = WANTED);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = 1, .start = 64, .length = 8,
					   .kind = DMU_KIND_ZERO, .destination = DMU_NO_DESTINATION));
	EXPECT_ENDED(rig, read);
}

/* What is known of a request has ended long ago, though the request has not. */
static void part_that_misses(struct rig *rig, enum req_op op, u64 at)
{
	struct rig_request *request;
	struct dmu_event events[4];
	unsigned int count, i;

	map_linear(rig, at + 8, 8);
	map_linear(rig, at + 24, 8);
	request = rig_submit(rig, op, at, 32, 0x22);
	EXPECT_WAITS(rig, request);
	count = dmu_events_take(rig->key, events, ARRAY_SIZE(events));
	KUNIT_EXPECT_EQ(rig->test, count, 2);
	drain(rig);
	EXPECT_EVENT(rig, .type = DMU_EV_INVALIDATED, .id = WANTED);
	EXPECT_WAITS(rig, request);
	for (i = 0; i < count; i++)
		KUNIT_EXPECT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .id = events[i].id,
							.start = events[i].start, .length = events[i].length,
							.kind = DMU_KIND_LINEAR, .flags = DMU_MAP_WRITABLE,
							.physical = events[i].start));
	EXPECT_ENDED(rig, request);
}

static void waits_for_no_part_that_misses(struct kunit *test)
{
	part_that_misses(test->priv, REQ_OP_READ, 256);
	part_that_misses(test->priv, REQ_OP_WRITE, 512);
	part_that_misses(test->priv, REQ_OP_DISCARD, 768);
}

static struct kunit_case drain_cases[] = {
	KUNIT_CASE(waits_for_a_write),
	KUNIT_CASE(waits_for_no_miss),
	KUNIT_CASE(waits_for_no_part_that_misses),
	{}
};

static struct kunit_suite drain_suite = {
	.name = "dmu_drain",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = drain_cases,
};
kunit_test_suite(drain_suite);
