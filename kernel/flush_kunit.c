// SPDX-License-Identifier: GPL-2.0
/* Flushes: which of them wait for the mapper, for what, and how they end. */
#include "kunit_rig.h"

static void nothing_changed_nobody_asked(struct kunit *test)
{
	struct rig *rig = test->priv;

	EXPECT_ENDED(rig, rig_flush(rig));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_change(rig, 0, 8, 0));
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, rig_flush(rig));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).flushes, 2ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).errors, 0ull);
}

static void waits_for_the_changes_before_it(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *first, *second;

	rig_change(rig, 0, 8, 0);
	rig_change(rig, 8, 8, 8);
	first = rig_flush(rig);
	EXPECT_WAITS(rig, first);
	rig_change(rig, 16, 8, 16);
	second = rig_flush(rig);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 2, .start = 1);
	EXPECT_LINEAR(rig, 3, 16, 8, 0, 16);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 3, .start = 1);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_WAITS(rig, first);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	EXPECT_ENDED(rig, first);
	EXPECT_WAITS(rig, second);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 3), 0);
	EXPECT_ENDED(rig, second);
	EXPECT_NO_EVENT(rig);
}

static void one_commit_ends_several(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *first, *second;

	rig_change(rig, 0, 8, 0);
	first = rig_flush(rig);
	second = rig_flush(rig);
	EXPECT_WAITS(rig, first);
	EXPECT_WAITS(rig, second);
	/* Unread, and nothing is left to be read. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, first);
	EXPECT_ENDED(rig, second);
	EXPECT_NO_EVENT(rig);
}

static void mapper_fails_it(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *flush;

	rig_change(rig, 0, 8, 0);
	flush = rig_flush(rig);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1, .start = 1);
	KUNIT_EXPECT_EQ_MSG(test, RIG_APPLY(rig, .type = DMU_CMD_DONE, .id = 1), -EINVAL,
			    "not done before its changes are committed");
	KUNIT_EXPECT_EQ_MSG(test, RIG_APPLY(rig, .type = DMU_CMD_FAIL, .id = 1), -EINVAL, "no error is none");
	KUNIT_EXPECT_EQ_MSG(test, RIG_APPLY(rig, .type = DMU_CMD_FAIL, .id = 9, .error = EIO), 0, "gone is no error");
	EXPECT_WAITS(rig, flush);
	KUNIT_EXPECT_EQ(test, RIG_APPLY(rig, .type = DMU_CMD_FAIL, .id = 1, .error = ENOSPC), 0);
	EXPECT_FAILED(rig, flush, BLK_STS_NOSPC);
	/* The change is as it was: the next flush wants it. */
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 1u);
	flush = rig_flush(rig);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 1, .start = 1);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, flush);
	KUNIT_EXPECT_EQ(test, rig_state(rig).errors, 1ull);
}

static void asked_for_by_the_table(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *asked, *changed;

	rig->key->ask_flush = true;
	asked = rig_flush(rig);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .flags = DMU_FLUSH_ASKED, .start = 1);
	/* Where there is something to commit it is one as others are. */
	rig_change(rig, 0, 8, 0);
	changed = rig_flush(rig);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 1, .start = 1);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, changed);
	EXPECT_WAITS(rig, asked);
	KUNIT_EXPECT_EQ(test, RIG_APPLY(rig, .type = DMU_CMD_DONE, .id = 1), 0);
	EXPECT_ENDED(rig, asked);
	EXPECT_NO_EVENT(rig);
}

static void successor_is_told_again(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *read, *unread;

	rig_change(rig, 0, 8, 0);
	read = rig_flush(rig);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1, .start = 1);
	unread = rig_flush(rig);
	rig_settle(rig);
	dmu_key_detach(rig->key);
	EXPECT_WAITS(rig, read);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 1, .length = RIG_SECTORS);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1, .start = 1, .flags = DMU_MISS_AGAIN);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 1, .start = 1);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, read);
	EXPECT_ENDED(rig, unread);
}

static void failing_key_lets_none_wait(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *flush;

	rig_change(rig, 0, 8, 0);
	flush = rig_flush(rig);
	EXPECT_WAITS(rig, flush);
	dmu_key_set_fail(rig->key, true);
	EXPECT_FAILED(rig, flush, BLK_STS_IOERR);
	EXPECT_FAILED(rig, rig_flush(rig), BLK_STS_IOERR);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_NO_EVENT(rig);
	/* What need not wait does not fail. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, rig_flush(rig));
	rig_change(rig, 8, 8, 8);
	dmu_key_set_fail(rig->key, false);
	flush = rig_flush(rig);
	EXPECT_WAITS(rig, flush);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	EXPECT_ENDED(rig, flush);
}

static void limit_on_waiting_for_a_successor(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *flush;

	rig_change(rig, 0, 8, 0);
	flush = rig_flush(rig);
	dmu_key_set_wait(rig->key, 0);
	EXPECT_WAITS(rig, flush);
	dmu_key_detach(rig->key);
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&flush->ended, 60 * HZ), 0ul);
	EXPECT_FAILED(rig, flush, BLK_STS_IOERR);
	EXPECT_FAILED(rig, rig_flush(rig), BLK_STS_IOERR);
	/* One who comes late finds the change all the same, and flushes wait for him. */
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 1, .length = RIG_SECTORS);
	flush = rig_flush(rig);
	EXPECT_WAITS(rig, flush);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, flush);
	dmu_key_set_wait(rig->key, DMU_WAIT_FOREVER);
}

static void set_requeue(struct dmu_key *key, bool on)
{
	spin_lock_irq(&key->lock);
	key->requeue = on;
	spin_unlock_irq(&key->lock);
}

static void noflush_suspend_takes_it_back(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *flush;

	rig_change(rig, 0, 8, 0);
	flush = rig_flush(rig);
	EXPECT_WAITS(rig, flush);
	set_requeue(rig->key, true);
	dmu_key_requeue(rig->key);
	EXPECT_FAILED(rig, flush, BLK_STS_DM_REQUEUE);
	EXPECT_FAILED(rig, rig_flush(rig), BLK_STS_DM_REQUEUE);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_NO_EVENT(rig);
	set_requeue(rig->key, false);
	KUNIT_EXPECT_EQ_MSG(test, rig_state(rig).errors, 0ull, "nobody is told of an error");
}

/* The mapping of its data must be durable, too: a commit, if there is one to come. */
static void fua_write_waits_for_a_commit(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write;

	KUNIT_ASSERT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = 0, .length = 64,
					   .kind = DMU_KIND_LINEAR, .flags = DMU_MAP_WRITABLE, .physical = 512));
	write = rig_submit(rig, REQ_OP_WRITE | REQ_FUA, 3, 2, 0x11);
	EXPECT_ENDED(rig, write);
	EXPECT_NO_EVENT(rig);
	rig_change(rig, 1024, 8, 0);
	write = rig_submit(rig, REQ_OP_WRITE | REQ_FUA, 4, 2, 0x22);
	EXPECT_LINEAR(rig, 1, 1024, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1, .start = 1);
	EXPECT_WAITS(rig, write);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 515, 1, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 516, 2, 0x22));
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, write);
}

static struct kunit_case flush_cases[] = {
	KUNIT_CASE(nothing_changed_nobody_asked),
	KUNIT_CASE(waits_for_the_changes_before_it),
	KUNIT_CASE(one_commit_ends_several),
	KUNIT_CASE(mapper_fails_it),
	KUNIT_CASE(asked_for_by_the_table),
	KUNIT_CASE(successor_is_told_again),
	KUNIT_CASE(failing_key_lets_none_wait),
	KUNIT_CASE(limit_on_waiting_for_a_successor),
	KUNIT_CASE(noflush_suspend_takes_it_back),
	KUNIT_CASE(fua_write_waits_for_a_commit),
	{}
};

static struct kunit_suite flush_suite = {
	.name = "dmu_flush",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = flush_cases,
};
kunit_test_suite(flush_suite);
