// SPDX-License-Identifier: GPL-2.0
/*
 * Requests at random, several at a time, for a mapper that leases, places,
 * commits, revokes, and dies now and then: against an array of what the device
 * holds, and another of where by its changes everything lies.
 */
#include <linux/bitmap.h>

#include "kunit_rig.h"

#define SECTORS		509	/* ends within a grain */
#define GRAIN		8
#define ROUNDS		400
#define SPACE		12000	/* sectors of each destination to be leased; behind them lies what is copied */
#define COPIED		170	/* sectors, from the first on */
#define SOURCE		0x99	/* so they read */
#define AT_ONCE		6
#define POOL		1
#define NOWHERE		(~0ull)

struct world {
	struct rig *rig;
	struct rnd_state random;
	u8 byte[SECTORS];
	u64 place[SECTORS];
	u64 sequence;		/* of the last change that was read */
	u64 next[RIG_DESTS];	/* never leased before */
	DECLARE_BITMAP(used[RIG_DESTS], RIG_DEST_SECTORS);
};

static u64 place_on(u32 dest, u64 physical)
{
	return (u64)dest << 32 | physical;
}

/* Space of so many grains that nobody has had. */
static u64 allocate(struct world *world, u32 dest, u64 sectors)
{
	u64 physical = world->next[dest];

	/* Now and then not next to the last. */
	if (!rig_below(&world->random, 4))
		physical += GRAIN;
	world->next[dest] = physical + sectors;
	KUNIT_ASSERT_LE_MSG(world->rig->test, world->next[dest], (u64)SPACE, "more than the test has prepared");
	return physical;
}

static void lease(struct world *world)
{
	u32 dest = rig_below(&world->random, RIG_DESTS);
	u64 sectors = (1 + rig_below(&world->random, 10)) * GRAIN;

	rig_lease(world->rig, POOL, dest, allocate(world, dest, sectors), sectors,
		  rig_below(&world->random, 2) ? DMU_READS_ZERO : 0);
}

/* Nobody else may have had it. */
static void use(struct world *world, u32 dest, u64 physical, u64 length)
{
	u64 i;

	KUNIT_ASSERT_LT(world->rig->test, dest, (u32)RIG_DESTS);
	KUNIT_ASSERT_LE(world->rig->test, physical + length, world->next[dest]);
	for (i = physical; i < physical + length; i++)
		KUNIT_EXPECT_FALSE_MSG(world->rig->test, __test_and_set_bit(i, world->used[dest]),
				       "sector %llu of %u was given twice", i, dest);
}

static void changed(struct world *world, const struct dmu_event *event)
{
	u64 i;

	/* Told again, by a predecessor's death. */
	if (event->sequence <= world->sequence) {
		KUNIT_EXPECT_GT(world->rig->test, event->sequence, world->rig->key->committed);
		return;
	}
	KUNIT_EXPECT_EQ(world->rig->test, event->sequence, world->sequence + 1);
	world->sequence = event->sequence;
	KUNIT_ASSERT_LE(world->rig->test, event->start + event->length, (u64)SECTORS);
	if (event->kind == DMU_KIND_ZERO) {
		memset(world->byte + event->start, 0, event->length);
		for (i = 0; i < event->length; i++)
			world->place[event->start + i] = NOWHERE;
		return;
	}
	KUNIT_EXPECT_EQ_MSG(world->rig->test, event->kind, (u32)DMU_KIND_LINEAR, "nothing here gets lost");
	use(world, event->destination, event->physical, round_up(event->length, GRAIN));
	for (i = 0; i < event->length; i++)
		world->place[event->start + i] = place_on(event->destination, event->physical + i);
}

/* Of the grains that are asked for, some from the first on. */
static void place(struct world *world, const struct dmu_event *miss)
{
	u64 grains = DIV_ROUND_UP_ULL(miss->length, GRAIN), length;
	u32 dest = rig_below(&world->random, RIG_DESTS);

	KUNIT_EXPECT_EQ(world->rig->test, miss->op, (u32)DMU_OP_WRITE);
	length = min_t(u64, (1 + rig_below(&world->random, grains)) * GRAIN, miss->length);
	KUNIT_EXPECT_EQ(world->rig->test, 0,
			RIG_APPLY(world->rig, .type = DMU_CMD_PLACE, .id = miss->id, .start = miss->start,
				  .length = length, .destination = dest, .pool = POOL,
				  .physical = allocate(world, dest, round_up(length, GRAIN)),
				  .discard = DMU_POLICY_ZERO, .zeroes = DMU_POLICY_ZERO));
	lease(world);
}

static void commit(struct world *world, u64 sequence)
{
	/* In steps, or at once. */
	if (sequence > world->rig->key->committed && rig_below(&world->random, 2))
		KUNIT_EXPECT_EQ(world->rig->test, rig_commit(world->rig, sequence - 1), 0);
	KUNIT_EXPECT_EQ(world->rig->test, rig_commit(world->rig, sequence), 0);
}

/* Does the mapper's part until there is nothing left to do. */
static void serve(struct world *world)
{
	struct dmu_event event;

	for (;;) {
		rig_settle(world->rig);
		if (!dmu_events_take(world->rig->key, &event, 1))
			return;
		switch (event.type) {
		case DMU_EV_CHANGED:
			changed(world, &event);
			break;
		case DMU_EV_MISS:
			place(world, &event);
			break;
		case DMU_EV_FLUSH:
			commit(world, event.sequence);
			break;
		case DMU_EV_LEASE_LOW:
			lease(world);
			break;
		case DMU_EV_REVOKED:
			/* Not to be met again. */
			use(world, event.destination, event.physical, event.length);
			break;
		case DMU_EV_PLACED:
		case DMU_EV_LEASED:
			KUNIT_EXPECT_FALSE(world->rig->test, test_bit(event.physical, world->used[event.destination]));
			break;
		default:
			KUNIT_EXPECT_EQ(world->rig->test, event.type, (u32)DMU_EV_ATTACHED);
		}
	}
}

/* ----------------------------------------------------------- requests --- */

static blk_opf_t any_op(struct world *world)
{
	u32 n = rig_below(&world->random, 100);

	if (n < 55)
		return REQ_OP_WRITE | (n < 5 ? REQ_FUA : 0);
	if (n < 70)
		return REQ_OP_DISCARD;
	return n < 75 ? REQ_OP_WRITE_ZEROES : REQ_OP_READ;
}

static bool is_free(unsigned long *busy, u64 start, u64 length)
{
	return find_next_bit(busy, start + length, start) >= start + length;
}

/* NULL: where it would go there is one already, and nobody could say how both would end. */
static struct rig_request *submit_any(struct world *world, unsigned long *busy, u64 *at)
{
	u64 start = rig_below(&world->random, SECTORS);
	u64 length = min_t(u64, SECTORS - start, 1 + rig_below(&world->random, 40));
	u8 byte = 1 + rig_below(&world->random, 255);
	blk_opf_t op = any_op(world);

	if (!is_free(busy, start, length))
		return NULL;
	/* What may still be copied can't become zeros. */
	if (op == REQ_OP_WRITE_ZEROES && start < COPIED)
		op = REQ_OP_READ;
	*at = start;
	bitmap_set(busy, start, length);
	if ((op & REQ_OP_MASK) == REQ_OP_WRITE)
		memset(world->byte + start, byte, length);
	else if (op == REQ_OP_WRITE_ZEROES)
		memset(world->byte + start, 0, length);
	return rig_submit(world->rig, op, start, length, byte);
}

static void check_data(struct world *world, struct rig_request *request, u64 start)
{
	u64 i, length = request->bio->bi_vcnt ? request->bio->bi_io_vec->bv_len >> SECTOR_SHIFT : 0;

	for (i = 0; i < length; i++)
		if (!rig_is_all(request->data + (i << SECTOR_SHIFT), 1, world->byte[start + i]))
			break;
	KUNIT_EXPECT_EQ_MSG(world->rig->test, i, length, "sector %llu is not %02x but %02x", start + i,
			    world->byte[start + i], request->data[i << SECTOR_SHIFT]);
}

static void do_round(struct world *world)
{
	struct rig_request *request[AT_ONCE];
	u64 start[AT_ONCE];
	DECLARE_BITMAP(busy, SECTORS);
	unsigned int i;

	bitmap_zero(busy, SECTORS);
	for (i = 0; i < AT_ONCE; i++)
		request[i] = submit_any(world, busy, &start[i]);
	if (!rig_below(&world->random, 8)) {
		rig_settle(world->rig);
		dmu_key_detach(world->rig->key);
		KUNIT_ASSERT_EQ(world->rig->test, dmu_key_attach(world->rig->key), 0);
	}
	if (!rig_below(&world->random, 20))
		KUNIT_EXPECT_EQ(world->rig->test, 0,
				RIG_APPLY(world->rig, .type = DMU_CMD_REVOKE, .pool = POOL));
	serve(world);
	for (i = 0; i < AT_ONCE; i++) {
		if (!request[i])
			continue;
		EXPECT_ENDED(world->rig, request[i]);
		KUNIT_ASSERT_TRUE(world->rig->test, completion_done(&request[i]->ended));
		if (bio_op(request[i]->bio) == REQ_OP_READ)
			check_data(world, request[i], start[i]);
		rig_forget(request[i]);
	}
}

static void check_map(struct world *world)
{
	u64 i, run;

	for (i = 0; i < SECTORS; i++) {
		u64 value = dmu_look_up(world->rig->key, i, &run), at = NOWHERE;
		const struct dmu_attr *attr = dmu_attr(world->rig->key, value);

		if (attr->kind == DMU_KIND_LINEAR)
			at = place_on(attr->dest->number, dmu_value_physical(value));
		KUNIT_ASSERT_EQ_MSG(world->rig->test, at, world->place[i], "sector %llu", i);
	}
}

/* A third each: to be copied, ZERO, and ZERO that only the mapper knows a place for. */
static void map_ground(struct world *world)
{
	rig_write_dest(world->rig, 1, SPACE, COPIED, SOURCE);
	memset(world->byte, SOURCE, COPIED);
	memset(world->place, 0xff, sizeof(world->place));
	KUNIT_ASSERT_EQ(world->rig->test, 0,
			RIG_APPLY(world->rig, .type = DMU_CMD_MAP, .start = 0, .length = COPIED, .kind = DMU_KIND_COW,
				  .destination = 1, .physical = SPACE, .pool = POOL, .discard = DMU_POLICY_ZERO));
	rig_map_zero(world->rig, COPIED, 340 - COPIED, POOL);
	rig_map_zero(world->rig, 340, SECTORS - 340, DMU_NO_POOL);
}

static void device_is_like_an_array(struct kunit *test)
{
	struct world *world = kunit_kzalloc(test, sizeof(*world), GFP_KERNEL);
	unsigned int i;
	u64 sector;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, world);
	world->rig = test->priv;
	world->rig->key->sectors = SECTORS;
	world->rig->key->log_limit = 12;
	rig_random(test, &world->random);
	rig_pool(world->rig, POOL, 40);
	map_ground(world);
	lease(world);
	for (i = 0; i < ROUNDS; i++)
		do_round(world);
	for (sector = 0; sector < SECTORS; sector += GRAIN) {
		struct rig_request *read = rig_submit(world->rig, REQ_OP_READ, sector,
						      min_t(u64, GRAIN, SECTORS - sector), 0);

		EXPECT_ENDED(world->rig, read);
		check_data(world, read, sector);
	}
	check_map(world);
	KUNIT_EXPECT_EQ(test, rig_state(world->rig).pending, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(world->rig).errors, 0ull);
	KUNIT_EXPECT_EQ(test, rig_state(world->rig).sequence, world->sequence);
	kunit_info(test, "%llu changes, %llu first writes, %llu misses", world->sequence,
		   rig_state(world->rig).first_writes, rig_state(world->rig).misses);
}

static struct kunit_case model_cases[] = {
	KUNIT_CASE(device_is_like_an_array),
	{}
};

static struct kunit_suite model_suite = {
	.name = "dmu_model",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = model_cases,
};
kunit_test_suite(model_suite);
