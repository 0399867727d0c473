// SPDX-License-Identifier: GPL-2.0
/*
 * A map that forgets all the time, below requests at random, for a mapper that
 * answers late: maybe of a time before a change that was committed since. None
 * of that may be seen in the data, and no grain may be given two places.
 */
#include <linux/bitmap.h>

#include "kunit_rig.h"

#define GRAIN		8
#define ROUNDS		60
#define TURNS		1000	/* of the mapper, until a round has ended */
#define AT_ONCE		4
#define LONGEST		400	/* answer, in sectors */
#define HELD		4	/* answers at most that are on their way */
#define LIMIT		(24 * DMU_MAP_NODE_BYTES)
#define POOL		1
#define LOW		80	/* sectors leased */
#define NOWHERE		(~0ull)

/* What the mapper knew when it made it. */
struct answer {
	u64 id;			/* 0: nobody asked */
	u64 sequence;
	u64 start;
	u64 length;
	u64 place[LONGEST];
};

struct world {
	struct rig *rig;
	struct rnd_state random;
	u8 byte[RIG_SECTORS];
	u64 place[RIG_SECTORS];	/* all on one destination */
	u64 sequence;		/* of the last change that was read */
	u64 next;		/* never leased before */
	struct answer held[HELD];
	unsigned int held_count;
	u64 late;		/* answers that were older than what had been committed by then */
};

/* ---------------------------------------------------- the mapper's part --- */

/* Neighbours that do not merge, so that there is something to forget. */
static u32 policy_at(u64 sector)
{
	return sector & 1 ? DMU_POLICY_IGNORE : DMU_POLICY_ASK;
}

static void lease(struct world *world)
{
	u64 sectors = (1 + rig_below(&world->random, 10)) * GRAIN;

	KUNIT_ASSERT_LE(world->rig->test, world->next + sectors, (u64)RIG_DEST_SECTORS);
	rig_lease(world->rig, POOL, 0, world->next, sectors, 0);
	world->next += sectors;
}

static void changed(struct world *world, const struct dmu_event *event)
{
	u64 i;

	KUNIT_ASSERT_EQ(world->rig->test, event->sequence, world->sequence + 1);
	KUNIT_ASSERT_EQ(world->rig->test, event->kind, (u32)DMU_KIND_LINEAR);
	KUNIT_ASSERT_LE(world->rig->test, event->start + event->length, (u64)RIG_SECTORS);
	world->sequence = event->sequence;
	for (i = 0; i < event->length; i++) {
		KUNIT_ASSERT_EQ_MSG(world->rig->test, world->place[event->start + i], NOWHERE,
				    "sector %llu has two places", event->start + i);
		world->place[event->start + i] = event->physical + i;
	}
}

static void make_answer(struct world *world, struct answer *answer, u64 id, u64 start, u64 length)
{
	KUNIT_ASSERT_LE(world->rig->test, length, (u64)LONGEST);
	answer->id = id;
	answer->sequence = world->sequence;
	answer->start = start;
	answer->length = length;
	memcpy(answer->place, world->place + start, length * sizeof(u64));
}

static void send_answer(struct world *world, const struct answer *answer)
{
	u64 i;

	world->late += answer->sequence < world->rig->key->committed;
	for (i = 0; i < answer->length; i++) {
		struct dmu_command map = {
			.type = DMU_CMD_MAP,
			.id = i + 1 == answer->length ? answer->id : 0,
			.start = answer->start + i,
			.length = 1,
			.sequence = answer->sequence,
			.kind = DMU_KIND_ZERO,
			.pool = POOL,
			.discard = policy_at(answer->start + i),
		};

		if (answer->place[i] != NOWHERE) {
			map.kind = DMU_KIND_LINEAR;
			map.flags = DMU_MAP_WRITABLE;
			map.physical = answer->place[i];
		}
		KUNIT_ASSERT_EQ(world->rig->test, rig_apply(world->rig, &map), 0);
	}
}

/* At once, or some other time. */
static void answer(struct world *world, u64 id, u64 start, u64 length)
{
	bool hold = world->held_count < HELD && rig_below(&world->random, 2);
	struct answer *answer = hold ? &world->held[world->held_count++] : kmalloc(sizeof(*answer), GFP_KERNEL);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(world->rig->test, answer);
	make_answer(world, answer, id, start, length);
	if (hold)
		return;
	send_answer(world, answer);
	kfree(answer);
}

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
			/* Its ground is known, at least where it starts. */
			if (event.flags & DMU_MISS_MAPPED && rig_state(world->rig).leased < LOW)
				lease(world);
			answer(world, event.id, event.start, event.length);
			break;
		case DMU_EV_LEASE_LOW:
			lease(world);
			break;
		case DMU_EV_FLUSH:
			KUNIT_ASSERT_EQ(world->rig->test, rig_commit(world->rig, event.sequence), 0);
			break;
		default:
			KUNIT_FAIL(world->rig->test, "event %u", event.type);
			return;
		}
	}
}

static void commit_and_forget(struct world *world)
{
	struct rig *rig = world->rig;

	if (world->sequence > rig->key->committed && rig_below(&world->random, 2))
		KUNIT_ASSERT_EQ(rig->test, 0,
				rig_commit(rig, world->sequence - rig_below(&world->random, 2)));
	if (rig_below(&world->random, 2))
		dmu_shrink_scan(1 + rig_below(&world->random, 40));
}

static void serve_all(struct world *world)
{
	serve(world);
	commit_and_forget(world);
	while (world->held_count) {
		unsigned int i = rig_below(&world->random, world->held_count);

		send_answer(world, &world->held[i]);
		world->held_count--;
		if (i < world->held_count)
			world->held[i] = world->held[world->held_count];
		serve(world);
		commit_and_forget(world);
	}
	serve(world);
}

/* ----------------------------------------------------------- requests --- */

static struct rig_request *submit_any(struct world *world, unsigned long *busy, u64 *at)
{
	u64 start = rig_below(&world->random, RIG_SECTORS);
	u64 length = min_t(u64, RIG_SECTORS - start, 1 + rig_below(&world->random, 40));
	bool write = rig_below(&world->random, 100) < 40;
	u8 byte = 1 + rig_below(&world->random, 255);

	if (find_next_bit(busy, start + length, start) < start + length)
		return NULL;
	bitmap_set(busy, start, length);
	*at = start;
	if (!write)
		return rig_submit(world->rig, REQ_OP_READ, start, length, byte);
	memset(world->byte + start, byte, length);
	return rig_write(world->rig, start, length, byte);
}

static void check_data(struct world *world, struct rig_request *request, u64 start)
{
	u64 i, length = request->bio->bi_io_vec->bv_len >> SECTOR_SHIFT;

	for (i = 0; i < length; i++)
		if (!rig_is_all(request->data + (i << SECTOR_SHIFT), 1, world->byte[start + i]))
			break;
	KUNIT_EXPECT_EQ_MSG(world->rig->test, i, length, "sector %llu is not as it was written", start + i);
}

static void do_round(struct world *world)
{
	u64 start[AT_ONCE], length = 1 + rig_below(&world->random, LONGEST);
	struct rig_request *request[AT_ONCE];
	DECLARE_BITMAP(busy, RIG_SECTORS);
	unsigned int i, turns = 0;

	bitmap_zero(busy, RIG_SECTORS);
	for (i = 0; i < AT_ONCE; i++)
		request[i] = submit_any(world, busy, &start[i]);
	/* Unasked, as a mapper tells of what lies around. */
	answer(world, 0, rig_below(&world->random, RIG_SECTORS - length + 1), length);
	while (world->held_count || rig_state(world->rig).pending) {
		KUNIT_ASSERT_LT(world->rig->test, turns++, (unsigned int)TURNS);
		serve_all(world);
	}
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

/* What it still knows is what it was told, and what it has told. */
static void check_map(struct world *world)
{
	u64 i, run;

	for (i = 0; i < RIG_SECTORS; i++) {
		u64 value = dmu_look_up(world->rig->key, i, &run), at = NOWHERE;

		if (value == DMU_VALUE_NONE)
			continue;
		if (dmu_attr(world->rig->key, value)->kind == DMU_KIND_LINEAR)
			at = dmu_value_physical(value);
		KUNIT_ASSERT_EQ_MSG(world->rig->test, at, world->place[i], "sector %llu", i);
	}
}

static void run_rounds(struct world *world)
{
	struct rig *rig = world->rig;
	u64 sector;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		do_round(world);
		if (i % 10 == 0)
			check_map(world);
	}
	serve_all(world);
	check_map(world);
	/* Read all of it: known, or asked for. */
	for (sector = 0; sector < RIG_SECTORS; sector += GRAIN) {
		struct rig_request *read = rig_submit(rig, REQ_OP_READ, sector, GRAIN, 0);

		for (i = 0; i < TURNS && rig_waits(rig, read); i++)
			serve_all(world);
		EXPECT_ENDED(rig, read);
		check_data(world, read, sector);
		rig_forget(read);
	}
	KUNIT_EXPECT_EQ(rig->test, rig_state(rig).pending, 0ull);
	KUNIT_EXPECT_EQ(rig->test, rig_state(rig).errors, 0ull);
	KUNIT_EXPECT_EQ(rig->test, rig_state(rig).sequence, world->sequence);
	KUNIT_EXPECT_GT(rig->test, rig_state(rig).forgotten, 1000ull);
	KUNIT_EXPECT_GT(rig->test, world->late, 0ull);
	kunit_info(rig->test, "%llu changes, %llu misses, %llu extents forgotten, %llu late answers", world->sequence,
		   rig_state(rig).misses, rig_state(rig).forgotten, world->late);
}

static void nobody_notices_but_the_mapper(struct kunit *test)
{
	struct world *world = kunit_kzalloc(test, sizeof(*world), GFP_KERNEL);
	struct rig *rig = test->priv;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, world);
	world->rig = rig;
	rig_random(test, &world->random);
	memset(world->place, 0xff, sizeof(world->place));
	rig_pool(rig, POOL, LOW);
	lease(world);
	rig->key->shrink.allowed = true;
	rig->key->shrink.limit = LIMIT;
	run_rounds(world);
}

static struct kunit_case shrink_model_cases[] = {
	KUNIT_CASE(nobody_notices_but_the_mapper),
	{}
};

static struct kunit_suite shrink_model_suite = {
	.name = "dmu_shrink_model",
	.suite_init = rig_begin,
	.suite_exit = rig_end,
	.init = rig_init,
	.exit = rig_exit,
	.test_cases = shrink_model_cases,
};
kunit_test_suite(shrink_model_suite);
