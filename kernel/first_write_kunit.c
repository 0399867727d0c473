// SPDX-License-Identifier: GPL-2.0
/* First writes that take their places from leases. */
#include <linux/fcntl.h>
#include <linux/shmem_fs.h>

#include "kunit_rig.h"

static void places_are_taken_in_order(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 1000, 16, 0);
	rig_lease(rig, 1, 1, 504, 8, 0);
	rig_map_zero(rig, 0, RIG_SECTORS, 1);
	EXPECT_ENDED(rig, rig_write(rig, 64, 8, 0x11));
	EXPECT_ENDED(rig, rig_write(rig, 8, 8, 0x22));
	EXPECT_ENDED(rig, rig_write(rig, 2048, 8, 0x33));
	EXPECT_LINEAR(rig, 1, 64, 8, 0, 1000);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 1008);
	EXPECT_LINEAR(rig, 3, 2048, 8, 1, 504);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1000, 8, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1008, 8, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 1, 504, 8, 0x33));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 64, 8, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 2048, 8, 0x33));
	KUNIT_EXPECT_EQ(test, rig_state(rig).first_writes, 3ull);
	/* What has its place takes no other. */
	rig_lease(rig, 1, 0, 2000, 8, 0);
	EXPECT_ENDED(rig, rig_write(rig, 10, 2, 0x44));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 8ull);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 1010, 2, 0x44));
}

static void long_request_gets_one_run(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 256, 0);
	rig_map_zero(rig, 0, 1024, 1);
	EXPECT_ENDED(rig, rig_write(rig, 10, 60, 0x11));
	EXPECT_LINEAR(rig, 1, 8, 64, 0, 16);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 16, 2, 0));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 18, 60, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 78, 2, 0));
}

static void lease_shorter_than_the_request(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 16, 0);
	rig_lease(rig, 1, 0, 800, 256, 0);
	rig_map_zero(rig, 0, 1024, 1);
	EXPECT_ENDED(rig, rig_write(rig, 0, 40, 0x11));
	EXPECT_LINEAR(rig, 1, 0, 16, 0, 16);
	EXPECT_LINEAR(rig, 2, 16, 24, 0, 800);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 0, 40, 0x11));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 232ull);
}

/* ------------------------------------------------------------- ground --- */

static void rest_of_the_grain_reads_zero(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_write_dest(rig, 0, 0, 64, 0xee);
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 8, 0);
	rig_lease(rig, 1, 0, 32, 8, DMU_READS_ZERO);
	rig_map_zero(rig, 0, 1024, 1);
	EXPECT_ENDED(rig, rig_write(rig, 2, 3, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 16, 2, 0));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 18, 3, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 21, 3, 0));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 24, 8, 0xee));
	/* Said to read as zeros: not one is written. (Here it was a lie.) */
	EXPECT_ENDED(rig, rig_write(rig, 10, 3, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 32, 2, 0xee));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 34, 3, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 37, 3, 0xee));
}

static void rest_of_the_grain_is_copied(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_write_dest(rig, 1, 500, 12, 0x55);
	rig_write_dest(rig, 0, 16, 16, 0xee);
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 16, 0);
	KUNIT_ASSERT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = 0, .length = 12, .kind = DMU_KIND_COW,
					   .destination = 1, .physical = 500, .pool = 1));
	rig_map_zero(rig, 12, 4, 1);
	EXPECT_ENDED(rig, rig_write(rig, 3, 6, 0x11));
	EXPECT_LINEAR(rig, 1, 0, 16, 0, 16);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 16, 3, 0x55));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 19, 6, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 25, 3, 0x55));
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 28, 4, 0));
	KUNIT_EXPECT_TRUE_MSG(test, rig_holds(rig, 1, 500, 12, 0x55), "the source stays");
}

static void grain_that_the_device_ends_in(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig->key->sectors = 20;
	rig_write_dest(rig, 0, 16, 16, 0xee);
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 16, 0);
	rig_map_zero(rig, 0, 20, 1);
	EXPECT_ENDED(rig, rig_write(rig, 17, 2, 0x11));
	EXPECT_LINEAR(rig, 1, 16, 4, 0, 16);
	KUNIT_EXPECT_EQ_MSG(test, rig_state(rig).leased, 8ull, "a whole grain of space");
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 17, 2, 0x11));
	KUNIT_EXPECT_TRUE_MSG(test, rig_holds(rig, 0, 19, 5, 0), "all of it written");
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 24, 8, 0xee));
}

static void each_ground_has_its_pool(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_pool(rig, 2, 0);
	rig_lease(rig, 1, 0, 16, 64, 0);
	rig_lease(rig, 2, 0, 160, 64, 0);
	rig_map_zero(rig, 0, 16, 1);
	rig_map_zero(rig, 16, 16, 2);
	EXPECT_ENDED(rig, rig_write(rig, 8, 16, 0x11));
	EXPECT_LINEAR(rig, 1, 8, 8, 0, 16);
	EXPECT_LINEAR(rig, 2, 16, 8, 0, 160);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 16, 0x11));
}

#define EXPECT_MISS(rig, number, at, sectors, how)								\
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = (number), .start = (at), .length = (sectors),		\
		     .op = DMU_OP_WRITE, .flags = (how))

static void without_a_lease_the_mapper_is_asked(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_pool(rig, 2, 0);
	rig_lease(rig, 1, 0, 16, 64, 0);
	rig_map_zero(rig, 64, 64, DMU_NO_POOL);
	rig_map_zero(rig, 128, 64, 2);
	EXPECT_WAITS(rig, rig_write(rig, 68, 8, 0));
	EXPECT_MISS(rig, 1, 64, 16, DMU_MISS_MAPPED);
	EXPECT_WAITS(rig, rig_write(rig, 160, 8, 0));
	EXPECT_MISS(rig, 2, 160, 8, DMU_MISS_MAPPED);
	EXPECT_WAITS(rig, rig_write(rig, 256, 8, 0));
	EXPECT_MISS(rig, 3, 256, 8, 0);
	/* Grains that are not the pool's as a whole, or of another size. */
	rig_map_zero(rig, 512, 12, 1);
	rig_map_zero(rig, 524, 4, DMU_NO_POOL);
	EXPECT_WAITS(rig, rig_write(rig, 521, 1, 0));
	EXPECT_MISS(rig, 4, 520, 8, DMU_MISS_MAPPED);
	EXPECT_ENDED(rig, rig_write(rig, 513, 1, 0));
	EXPECT_LINEAR(rig, 1, 512, 8, 0, 16);
	rig->key->grain = 16;
	rig_map_zero(rig, 1024, 64, 1);
	EXPECT_WAITS(rig, rig_write(rig, 1032, 8, 0));
	EXPECT_MISS(rig, 5, 1024, 16, DMU_MISS_MAPPED);
	rig->key->grain = 8;
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 56ull);
}

/* ------------------------------------------------------------- others --- */

static void writers_of_a_grain_share_its_place(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *first, *second;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 64, 0);
	rig_map_zero(rig, 0, 1024, 1);
	rig_stall(rig, 0);
	first = rig_write(rig, 0, 4, 0x11);
	EXPECT_WAITS(rig, first);
	second = rig_write(rig, 4, 12, 0x22);
	EXPECT_WAITS(rig, second);
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 56ull);
	KUNIT_EXPECT_TRUE_MSG(test, rig_reads(rig, 0, 16, 0), "readers see what was");
	rig_go(rig, 0);
	EXPECT_ENDED(rig, first);
	EXPECT_ENDED(rig, second);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 16);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 24);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 0, 4, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 4, 12, 0x22));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 48ull);
}

static void failed_write_loses_its_place(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct shmem_inode_info *info = SHMEM_I(file_inode(rig->dest[0]->file));
	unsigned int seals = info->seals;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 16, 0);
	rig_map_zero(rig, 0, 1024, 1);
	info->seals |= F_SEAL_WRITE;
	EXPECT_FAILED(rig, rig_write(rig, 8, 8, 0x11), BLK_STS_IOERR);
	EXPECT_EVENT(rig, .type = DMU_EV_CHANGED, .sequence = 1, .start = 8, .length = 8, .kind = DMU_KIND_LOST,
		     .destination = 0, .physical = 16);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0));
	info->seals = seals;
	EXPECT_ENDED(rig, rig_write(rig, 8, 8, 0x22));
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 24);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0x22));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).errors, 1ull);
}

/* With a log of one entry, which one write has taken: the rest waits for a commit. */
static struct rig_request *write_with_full_log(struct rig *rig)
{
	struct rig_request *write;

	rig->key->log_limit = 1;
	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 64, 0);
	rig_map_zero(rig, 0, 1024, 1);
	EXPECT_ENDED(rig, rig_write(rig, 0, 8, 0x11));
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 16);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 1, .sequence = 1);
	write = rig_write(rig, 8, 8, 0x22);
	EXPECT_WAITS(rig, write);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(rig->test, rig_state(rig).pending, 1ull);
	KUNIT_EXPECT_EQ_MSG(rig->test, rig_state(rig).leased, 56ull, "room in the log comes before space");
	return write;
}

static void full_log_lets_writers_wait(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *second = write_with_full_log(rig), *third = rig_write(rig, 16, 8, 0x33);

	EXPECT_WAITS(rig, third);
	/* Room for one of them, whichever comes first. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	KUNIT_EXPECT_NE(test, rig_waits(rig, second), rig_waits(rig, third));
	KUNIT_EXPECT_EQ(test, rig_state(rig).sequence, 2ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).log_entries, 1u);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 2), 0);
	EXPECT_ENDED(rig, second);
	EXPECT_ENDED(rig, third);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 16, 8, 0x33));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 40ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).pending, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).misses, 0ull);
}

static void full_log_of_a_failing_key(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write = write_with_full_log(rig);

	dmu_key_set_fail(rig->key, true);
	EXPECT_FAILED(rig, write, BLK_STS_IOERR);
	EXPECT_FAILED(rig, rig_write(rig, 8, 8, 0x22), BLK_STS_IOERR);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).pending, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 56ull);
	/* While there is room nobody need wait, and nothing fails. */
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, rig_write(rig, 8, 8, 0x22));
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 24);
}

/* What is written has its ground's policies and pool, and goes the way back by them. */
static void discarded_grains_take_new_places(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 16, 64, 0);
	KUNIT_ASSERT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = 0, .length = 1024,
					   .kind = DMU_KIND_ZERO, .pool = 1, .discard = DMU_POLICY_ZERO,
					   .zeroes = DMU_POLICY_ZERO));
	EXPECT_ENDED(rig, rig_write(rig, 0, 24, 0x11));
	EXPECT_LINEAR(rig, 1, 0, 24, 0, 16);
	/* Whole grains of it; what is less stays. */
	EXPECT_ENDED(rig, rig_submit(rig, REQ_OP_DISCARD, 4, 14, 0));
	EXPECT_EVENT(rig, .type = DMU_EV_CHANGED, .sequence = 2, .start = 8, .length = 8, .kind = DMU_KIND_ZERO,
		     .destination = DMU_NO_DESTINATION);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 0, 8, 0x11));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 16, 8, 0x11));
	EXPECT_ENDED(rig, rig_write(rig, 12, 2, 0x22));
	EXPECT_LINEAR(rig, 3, 8, 8, 0, 40);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 4, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 12, 2, 0x22));
	/* Zeros are no advice: at the edges they are written. */
	EXPECT_ENDED(rig, rig_submit(rig, REQ_OP_WRITE_ZEROES, 13, 6, 0));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 12, 1, 0x22));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 13, 6, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 19, 5, 0x11));
}

static void discard_needs_room_in_the_log(struct kunit *test)
{
	struct rig *rig = test->priv;

	KUNIT_ASSERT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = 0, .length = 16,
					   .kind = DMU_KIND_LINEAR, .flags = DMU_MAP_WRITABLE, .physical = 64,
					   .discard = DMU_POLICY_ZERO, .zeroes = DMU_POLICY_ZERO));
	rig_write_dest(rig, 0, 64, 16, 0x11);
	rig->key->log_limit = 0;
	/* A discard is then ignored, zeros are written. */
	EXPECT_ENDED(rig, rig_submit(rig, REQ_OP_DISCARD, 0, 8, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 0, 16, 0x11));
	EXPECT_ENDED(rig, rig_submit(rig, REQ_OP_WRITE_ZEROES, 0, 8, 0));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_TRUE(test, rig_holds(rig, 0, 64, 8, 0));
	KUNIT_EXPECT_TRUE(test, rig_reads(rig, 8, 8, 0x11));
}

static struct kunit_case first_write_cases[] = {
	KUNIT_CASE(places_are_taken_in_order),
	KUNIT_CASE(long_request_gets_one_run),
	KUNIT_CASE(lease_shorter_than_the_request),
	KUNIT_CASE(rest_of_the_grain_reads_zero),
	KUNIT_CASE(rest_of_the_grain_is_copied),
	KUNIT_CASE(grain_that_the_device_ends_in),
	KUNIT_CASE(each_ground_has_its_pool),
	KUNIT_CASE(without_a_lease_the_mapper_is_asked),
	KUNIT_CASE(writers_of_a_grain_share_its_place),
	KUNIT_CASE(failed_write_loses_its_place),
	KUNIT_CASE(full_log_lets_writers_wait),
	KUNIT_CASE(full_log_of_a_failing_key),
	KUNIT_CASE(discarded_grains_take_new_places),
	KUNIT_CASE(discard_needs_room_in_the_log),
	{}
};

static struct kunit_suite first_write_suite = {
	.name = "dmu_first_write",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = first_write_cases,
};
kunit_test_suite(first_write_suite);
