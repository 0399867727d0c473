// SPDX-License-Identifier: GPL-2.0
/* Pools and their leases: what is refused, told, returned, and handed to a successor. */
#include "kunit_rig.h"

#define EXPECT_ANSWER(rig, error, ...) KUNIT_EXPECT_EQ((rig)->test, RIG_APPLY(rig, __VA_ARGS__), error)
#define POOL_OF(number, grain, fill, low)									\
	.type = DMU_CMD_POOL, .pool = (number), .length = (grain), .physical = (fill), .sequence = (low)
#define LEASE_OF(number, on, place, sectors)									\
	.type = DMU_CMD_LEASE, .pool = (number), .destination = (on), .physical = (place), .length = (sectors)

static void malformed_pools_are_refused(struct kunit *test)
{
	struct rig *rig = test->priv;

	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(0, 8, 8, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(DMU_POOLS + 1, 8, 8, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(1, 0, 0, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(1, 12, 12, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(1, 8, 16, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(1, 8, 8, 1ull << DMU_PHYSICAL_BITS));
	KUNIT_EXPECT_FALSE(test, dmu_pool_exists(rig->key, 1));
	EXPECT_ANSWER(rig, 0, POOL_OF(DMU_POOLS, 8, 8, 100));
	KUNIT_EXPECT_TRUE(test, dmu_pool_exists(rig->key, DMU_POOLS));
	/* Its mark may change, its grain may not. */
	EXPECT_ANSWER(rig, 0, POOL_OF(DMU_POOLS, 8, 8, 0));
	EXPECT_ANSWER(rig, -EINVAL, POOL_OF(DMU_POOLS, 16, 16, 0));
}

static void malformed_leases_are_refused(struct kunit *test)
{
	struct rig *rig = test->priv;

	EXPECT_ANSWER(rig, -ENOENT, LEASE_OF(1, 0, 0, 8));
	rig_pool(rig, 1, 0);
	EXPECT_ANSWER(rig, -EINVAL, LEASE_OF(1, 0, 0, 0));
	EXPECT_ANSWER(rig, -EINVAL, LEASE_OF(1, 0, 0, 12));
	EXPECT_ANSWER(rig, -EINVAL, LEASE_OF(1, 0, 0, 8), .flags = DMU_MAP_WRITABLE);
	EXPECT_ANSWER(rig, -EINVAL, LEASE_OF(1, 0, 0, 8), .reserved = 1);
	EXPECT_ANSWER(rig, -ENOENT, LEASE_OF(1, RIG_DESTS, 0, 8));
	EXPECT_ANSWER(rig, -ENOENT, LEASE_OF(2, 0, 0, 8));
	EXPECT_ANSWER(rig, -ERANGE, LEASE_OF(1, 0, RIG_DEST_SECTORS - 8, 16));
	EXPECT_ANSWER(rig, -ERANGE, LEASE_OF(1, 0, ~0ull - 7, 8));
	rig->dest[1]->flags |= DMU_DEST_READ_ONLY;
	EXPECT_ANSWER(rig, -EINVAL, LEASE_OF(1, 1, 0, 8));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 0ull);
	EXPECT_ANSWER(rig, 0, LEASE_OF(1, 0, RIG_DEST_SECTORS - 8, 8));
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 8ull);
	EXPECT_ANSWER(rig, -ENOENT, .type = DMU_CMD_REVOKE, .pool = 2);
}

/* Sums must not overflow, whatever destinations there will be. */
static void leases_are_never_too_much(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 0, 16, 0);
	mutex_lock(&rig->key->control);
	KUNIT_EXPECT_EQ(test, -EINVAL, dmu_lease_add(rig->key, 1, rig->dest[0], 0, DMU_PHYSICAL_MASK - 15, 0));
	KUNIT_EXPECT_EQ(test, 0, dmu_lease_add(rig->key, 1, rig->dest[0], 0, DMU_PHYSICAL_MASK - 23, 0));
	mutex_unlock(&rig->key->control);
}

#define EXPECT_REVOKED(rig, number, on, place, sectors, how)							\
	EXPECT_EVENT(rig, .type = DMU_EV_REVOKED, .pool = (number), .destination = (on), .physical = (place),	\
		     .length = (sectors), .flags = (how))

static void neighbours_join(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 0, 80, 8, 0);
	rig_lease(rig, 1, 0, 88, 16, 0);
	rig_lease(rig, 1, 0, 104, 8, DMU_READS_ZERO);	/* another kind of space */
	rig_lease(rig, 1, 1, 112, 8, DMU_READS_ZERO);	/* elsewhere */
	rig_lease(rig, 1, 1, 200, 8, DMU_READS_ZERO);	/* not next to it */
	rig_lease(rig, 1, 1, 120, 8, DMU_READS_ZERO);	/* next to one that is not the last */
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 56ull);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_REVOKE, .pool = 1));
	EXPECT_REVOKED(rig, 1, 0, 80, 24, 0);
	EXPECT_REVOKED(rig, 1, 0, 104, 8, DMU_READS_ZERO);
	EXPECT_REVOKED(rig, 1, 1, 112, 8, DMU_READS_ZERO);
	EXPECT_REVOKED(rig, 1, 1, 200, 8, DMU_READS_ZERO);
	EXPECT_REVOKED(rig, 1, 1, 120, 8, DMU_READS_ZERO);
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 0ull);
}

static void what_is_unused_is_returned(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *write;

	rig_pool(rig, 1, 0);
	rig_pool(rig, 2, 0);
	rig_lease(rig, 1, 0, 800, 32, 0);
	rig_lease(rig, 2, 1, 0, 64, 0);
	rig_map_zero(rig, 0, RIG_SECTORS, 1);
	EXPECT_ENDED(rig, rig_write(rig, 100, 4, 0x33));
	EXPECT_LINEAR(rig, 1, 96, 8, 0, 800);
	/* A place in use is not returned, even before it is logged. */
	rig_stall(rig, 0);
	write = rig_write(rig, 8, 8, 0x44);
	EXPECT_WAITS(rig, write);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_REVOKE, .pool = 1));
	EXPECT_REVOKED(rig, 1, 0, 816, 16, 0);
	EXPECT_NO_EVENT(rig);
	rig_go(rig, 0);
	EXPECT_ENDED(rig, write);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 808);
	/* The pool is still one, empty: the mapper is asked. Others keep theirs. */
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_REVOKE, .pool = 1));
	EXPECT_NO_EVENT(rig);
	KUNIT_EXPECT_EQ(test, rig_state(rig).leased, 64ull);
	EXPECT_WAITS(rig, rig_write(rig, 200, 8, 0x55));
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 200, .length = 8, .op = DMU_OP_WRITE,
		     .flags = DMU_MISS_MAPPED);
}

#define EXPECT_LOW(rig, number, sectors) \
	EXPECT_EVENT(rig, .type = DMU_EV_LEASE_LOW, .pool = (number), .length = (sectors))

static void write_grain(struct rig *rig, u64 grain)
{
	EXPECT_ENDED(rig, rig_write(rig, grain * 8, 8, 0x66));
}

static void low_mark_is_told_once(struct kunit *test)
{
	struct rig *rig = test->priv;
	u64 next = 0;

	rig_pool(rig, 1, 24);
	rig_map_zero(rig, 0, RIG_SECTORS, 1);
	rig_lease(rig, 1, 0, 0, 16, 0);
	EXPECT_LOW(rig, 1, 16);
	rig_lease(rig, 1, 0, 16, 16, 0);	/* 32: above it */
	EXPECT_NO_EVENT(rig);
	write_grain(rig, 0);			/* 24: at it */
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_NO_EVENT(rig);
	write_grain(rig, 1);
	EXPECT_LOW(rig, 1, 16);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
	for (next = 2; next < 4; next++) {
		write_grain(rig, next);
		EXPECT_LINEAR(rig, next + 1, next * 8, 8, 0, next * 8);
	}
	EXPECT_NO_EVENT(rig);
	/* More, but still too little: he knows. */
	rig_lease(rig, 1, 0, 32, 16, 0);
	EXPECT_NO_EVENT(rig);
	rig_lease(rig, 1, 0, 48, 16, 0);
	write_grain(rig, 4);
	write_grain(rig, 5);
	EXPECT_LINEAR(rig, 5, 32, 8, 0, 32);
	EXPECT_LOW(rig, 1, 16);
}

static void low_mark_tells_the_latest_figure(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 24);
	rig_pool(rig, 2, 8);
	rig_map_zero(rig, 0, RIG_SECTORS, 1);
	rig_lease(rig, 2, 1, 0, 8, 0);
	rig_lease(rig, 1, 0, 0, 16, 0);
	write_grain(rig, 0);
	EXPECT_LOW(rig, 1, 8);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_NO_EVENT(rig);
}

static void successor_is_told_of_a_low_mark(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 64);
	rig_map_zero(rig, 0, RIG_SECTORS, 1);
	rig_lease(rig, 1, 0, 0, 32, 0);
	EXPECT_LOW(rig, 1, 32);
	dmu_key_detach(rig->key);
	write_grain(rig, 0);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 0);
	EXPECT_EVENT(rig, .type = DMU_EV_LEASED, .pool = 1, .destination = 0, .physical = 8, .length = 24);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 1, .length = RIG_SECTORS);
	EXPECT_NO_EVENT(rig);
	/* When the next place is taken: its predecessor's knowledge does not count. */
	write_grain(rig, 1);
	EXPECT_LOW(rig, 1, 16);
	EXPECT_LINEAR(rig, 2, 8, 8, 0, 8);
}

/* All that there can be, in the order that the header promises. */
static void successor_is_handed_everything(struct kunit *test)
{
	struct rig *rig = test->priv;
	struct rig_request *filling, *read, *flush;

	rig_pool(rig, 1, 0);
	rig_pool(rig, 3, 0);
	rig_lease(rig, 1, 0, 800, 16, 0);
	rig_lease(rig, 1, 1, 300, 24, DMU_READS_ZERO);
	rig_lease(rig, 3, 1, 0, 8, 0);
	rig_map_zero(rig, 0, 1024, 1);
	write_grain(rig, 0);
	rig_stall(rig, 0);
	filling = rig_write(rig, 20, 2, 0x77);
	EXPECT_WAITS(rig, filling);
	read = rig_submit(rig, REQ_OP_READ, 2049, 2, 0);
	EXPECT_WAITS(rig, read);
	flush = rig_flush(rig);
	EXPECT_WAITS(rig, flush);
	dmu_key_detach(rig->key);
	KUNIT_EXPECT_EQ(test, dmu_key_attach(rig->key), 0);
	EXPECT_LINEAR(rig, 1, 0, 8, 0, 800);
	EXPECT_EVENT(rig, .type = DMU_EV_PLACED, .start = 16, .length = 8, .destination = 0, .physical = 808,
		     .kind = DMU_KIND_LINEAR);
	EXPECT_EVENT(rig, .type = DMU_EV_LEASED, .pool = 1, .destination = 1, .physical = 300, .length = 24,
		     .flags = DMU_READS_ZERO);
	EXPECT_EVENT(rig, .type = DMU_EV_LEASED, .pool = 3, .destination = 1, .physical = 0, .length = 8);
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .sequence = 1, .length = RIG_SECTORS);
	EXPECT_EVENT(rig, .type = DMU_EV_MISS, .id = 1, .start = 2048, .length = 8, .op = DMU_OP_READ);
	EXPECT_EVENT(rig, .type = DMU_EV_FLUSH, .id = 2, .sequence = 1, .start = 1);
	EXPECT_NO_EVENT(rig);
	rig_go(rig, 0);
	EXPECT_ENDED(rig, filling);
	EXPECT_LINEAR(rig, 2, 16, 8, 0, 808);
	KUNIT_EXPECT_EQ(test, rig_commit(rig, 1), 0);
	EXPECT_ENDED(rig, flush);
}

static int remove_dest(struct rig *rig, u32 number)
{
	int error;

	mutex_lock(&rig->key->control);
	error = dmu_dest_remove(rig->key, number);
	mutex_unlock(&rig->key->control);
	if (!error)
		rig->dest[number] = NULL;
	return error;
}

static void leased_destinations_stay(struct kunit *test)
{
	struct rig *rig = test->priv;

	rig_pool(rig, 1, 0);
	rig_lease(rig, 1, 1, 0, 8, 0);
	KUNIT_EXPECT_EQ(test, remove_dest(rig, 1), -EBUSY);
	KUNIT_EXPECT_EQ(test, 0, RIG_APPLY(rig, .type = DMU_CMD_REVOKE, .pool = 1));
	KUNIT_EXPECT_EQ(test, remove_dest(rig, 1), 0);
	EXPECT_ANSWER(rig, -ENOENT, LEASE_OF(1, 1, 0, 8));
}

static struct kunit_case lease_cases[] = {
	KUNIT_CASE(malformed_pools_are_refused),
	KUNIT_CASE(malformed_leases_are_refused),
	KUNIT_CASE(leases_are_never_too_much),
	KUNIT_CASE(neighbours_join),
	KUNIT_CASE(what_is_unused_is_returned),
	KUNIT_CASE(low_mark_is_told_once),
	KUNIT_CASE(low_mark_tells_the_latest_figure),
	KUNIT_CASE(successor_is_told_of_a_low_mark),
	KUNIT_CASE(successor_is_handed_everything),
	KUNIT_CASE(leased_destinations_stay),
	{}
};

static struct kunit_suite lease_suite = {
	.name = "dmu_lease",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = lease_cases,
};
kunit_test_suite(lease_suite);
