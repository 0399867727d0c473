// SPDX-License-Identifier: GPL-2.0
/* The change log: what is logged, told, acknowledged, and handed to a successor. */
#include "kunit_rig.h"

static void set_limit(struct rig *rig, unsigned int limit)
{
	rig->key->log_limit = limit;
}

static void changes_are_told_in_order(struct kunit *test)
{
	struct rig *rig = test->priv;

	/* Neighbours stay two: each is a change of its own. */
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 0, 8, 100));
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 8, 8, 108));
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 4000, 4, 0));
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 100);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 108);
	EXPECT_LINEAR(rig, 3, 4000, 4, 0, 0);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).sequence, 3ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).committed, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 3u);
}

static void acknowledged_changes_go(struct kunit *test)
{
	struct rig *rig = test->priv;
	unsigned int i;

	for (i = 0; i < 4; i++)
		rig_change(rig, i * 8, 8, i * 8);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 2u);
	/* The second was acknowledged unread. */
	EXPECT_LINEAR(rig, 3, 16, 8, 0, 16);
	EXPECT_LINEAR(rig, 4, 24, 8, 0, 24);
	KUNIT_EXPECT_EQ(test, rig_state(rig).committed, 2ull);

	KUNIT_EXPECT_EQ_MSG(test, rig_commit(rig, 5), -EINVAL, "what has not been yet");
	KUNIT_EXPECT_EQ(test, rig_state(rig).committed, 2ull);
	KUNIT_EXPECT_EQ_MSG(test, rig_commit(rig, 1), 0, "an old one is no mistake");
	KUNIT_EXPECT_EQ_MSG(test, rig_state(rig).committed, 2ull, "and takes nothing back");
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 2u);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 4), 0);
	KUNIT_EXPECT_EQ(test, rig_state(rig).committed, 4ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 0u);
	KUNIT_EXPECT_TRUE(test, list_empty(&rig->key->log));
}

static void full_log_takes_no_more(struct kunit *test)
{
	struct rig *rig = test->priv;
	unsigned int i;

	set_limit(rig, 8);
	for (i = 0; i < 8; i++)
		KUNIT_EXPECT_TRUE(test, rig_change(rig, i * 8, 8, i * 8));
	KUNIT_EXPECT_FALSE(test, rig_change(rig, 64, 8, 64));
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 8u);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 64, 8, 64));
	KUNIT_EXPECT_FALSE(test, rig_change(rig, 72, 8, 72));
	KUNIT_EXPECT_EQ(test, rig_state(rig).sequence, 9ull);
}

static void lost_space_is_logged_in_a_full_log(struct kunit *test)
{
	struct rig *rig = test->priv;

	set_limit(rig, 2);
	rig_change(rig, 0, 8, 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 8, 8, 8));
	dmu_log_lost(rig->key, dmu_log_alloc(GFP_KERNEL | __GFP_NOFAIL), rig->dest[1], 500, 16, 8);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 2);
	EXPECT_EVENT(rig, .type = DMU_EV_CHANGED, .sequence = 3, .start = 16, .length = 8, .kind = DMU_KIND_LOST,
		     .destination = 1, .physical = 500);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 3u);
	/* It counts like the others. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	KUNIT_EXPECT_FALSE(test, rig_change(rig, 24, 8, 24));
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 24, 8, 24));
}

static void half_full_log_asks_for_a_commit(struct kunit *test)
{
	struct rig *rig = test->priv;

	set_limit(rig, 4);
	rig_change(rig, 0, 8, 0);
	rig_change(rig, 8, 8, 8);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_NO_EVENT(rig);
	rig_change(rig, 16, 8, 16);
	EXPECT_LINEAR(rig, 3, 16, 8, 0, 16);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 3);
	/* Once: also where some room has been made. */
	rig_change(rig, 24, 8, 24);
	EXPECT_LINEAR(rig, 4, 24, 8, 0, 24);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	rig_change(rig, 32, 8, 32);
	EXPECT_LINEAR(rig, 5, 32, 8, 0, 32);
	EXPECT_NO_EVENT(rig);
	/* Until that flush has ended. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 3), 0);
	rig_change(rig, 40, 8, 40);
	EXPECT_LINEAR(rig, 6, 40, 8, 0, 40);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 6);
	KUNIT_EXPECT_EQ(test, RIG_APPLY(rig, .type = DMU_CMD_FAIL, .id = 2, .error = EIO), 0);
	rig_change(rig, 48, 8, 48);
	EXPECT_LINEAR(rig, 7, 48, 8, 0, 48);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 3, .sequence = 7);
	EXPECT_NO_EVENT(rig);
}

static void successor_of_a_full_log_is_asked(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write;

	set_limit(rig, 2);
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 800, 16, 0);
	rig_map_zero(rig, 64, 64, 1);
	dmu_key_detach(rig->key);
	rig_change(rig, 0, 8, 0);
	rig_change(rig, 8, 8, 8);
	write = rig_write(rig, 64, 8, 0xa1);
	EXPECT_WAITS(rig, write);
	KUNIT_EXPECT_TRUE(test, list_empty(&rig->key->flushes));
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_EVENT(rig, .type = DMU_EV_LEASED, .pool = 1, .physical = 800, .length = 16);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 2, .length = RIG_SECTORS);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 2);
	/* Nor is the next one asked twice. */
	dmu_key_detach(rig->key);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_EVENT(rig, .type = DMU_EV_LEASED, .pool = 1, .physical = 800, .length = 16);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 2, .length = RIG_SECTORS);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 2, .flags = DMU_MISS_AGAIN);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	EXPECT_ENDED(rig, write);
	EXPECT_LINEAR(rig, 3, 64, 8, 0, 800);
}

static void successor_is_told_what_is_not_acknowledged(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_change(rig, 0, 8, 0);
	rig_change(rig, 8, 8, 8);
	rig_change(rig, 16, 8, 16);
	/* Read or not makes no difference, acknowledged does. */
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	KUNIT_EXPECT_EQ_MSG(test, dmu_key_attach(rig->key), -EBUSY, "one at a time");
	dmu_key_detach(rig->key);
	EXPECT_NO_EVENT(rig);
	rig_change(rig, 24, 8, 24);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_LINEAR(rig, 3, 16, 8, 0, 16);
	EXPECT_LINEAR(rig, 4, 24, 8, 0, 24);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 4, .length = RIG_SECTORS);
	EXPECT_NO_EVENT(rig);
	/* And may acknowledge what its predecessor was told. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 4), 0);
	dmu_key_detach(rig->key);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 4, .length = RIG_SECTORS);
	EXPECT_NO_EVENT(rig);
}

/* ------------------------------------------------- places that wait for room --- */

/* A write whose place cannot be logged yet: MISS 2, after the flush that makes room. */
static struct rig_request *place_in_full_log(struct rig *rig)
{
	struct rig_request *write;

	set_limit(rig, 1);
	rig_map_zero(rig, 0, 64, DMU_NO_POOL);
	rig_change(rig, 1024, 8, 0);
	EXPECT_LINEAR(rig, 1, 1024, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1);
	write = rig_write(rig, 8, 8, 0xa1);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 2, .start = 8, .length = 8, .op = DMU_OP_WRITE,
		     .flags = DMU_MISS_MAPPED);
	KUNIT_EXPECT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_PLACE, .id = 2, .start = 8, .length = 8,
						.destination = 1, .physical = 200));
	EXPECT_WAITS(rig, write);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(rig->test, rig_holds(rig, 1, 200, 8, 0));
	return write;
}

static void place_waits_for_room(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write = place_in_full_log(rig);

	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, write);
	EXPECT_LINEAR(rig, 2, 8, 8, 1, 200);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 3, .sequence = 2);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 1, 200, 8, 0xa1));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0xa1));
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 1u);
}

static void place_that_may_not_wait_is_lost(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write = place_in_full_log(rig);

	dmu_key_set_fail(rig->key, true);
	EXPECT_FAILED(rig, write, BLK_STS_IOERR);
	EXPECT_EVENT(rig, .type = DMU_EV_CHANGED, .sequence = 2, .start = 8, .length = 8, .kind = DMU_KIND_LOST,
		     .destination = 1, .physical = 200);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 1, 200, 8, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0));
	/* Its slot does not leak. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 0u);
}

static struct kunit_case log_cases[] = {
	KUNIT_CASE(changes_are_told_in_order),
	KUNIT_CASE(acknowledged_changes_go),
	KUNIT_CASE(full_log_takes_no_more),
	KUNIT_CASE(lost_space_is_logged_in_a_full_log),
	KUNIT_CASE(half_full_log_asks_for_a_commit),
	KUNIT_CASE(successor_of_a_full_log_is_asked),
	KUNIT_CASE(successor_is_told_what_is_not_acknowledged),
	KUNIT_CASE(place_waits_for_room),
	KUNIT_CASE(place_that_may_not_wait_is_lost),
	{}
};

static struct kunit_suite log_suite = {
	.name = "dmu_log",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = log_cases,
};
kunit_test_suite(log_suite);
