// SPDX-License-Identifier: GPL-2.0
/*
 * Leases: space that the mapper has reserved in advance, in pools. A first
 * write whose ground names a pool takes the next grains from it and becomes a
 * fill at once; nobody is asked. Where the pool has nothing, or the ground is
 * not all known, it becomes a miss.
 *
 * A request takes its slot in the log before it takes space, so that what is
 * taken can always be logged.
 */
#include "dmu.h"
#include "trace.h"

struct dmu_lease {
	struct list_head list;
	struct dmu_dest *dest;
	u64 physical;
	u64 length;		/* whole grains */
	u32 flags;
};

/* ------------------------------------------------------- first writes --- */

static struct dmu_lease *first_lease(struct dmu_pool *pool)
{
	return list_first_entry_or_null(&pool->leases, struct dmu_lease, list);
}

/* How much of [start, stop), in whole grains, takes its places from the pool. */
static u64 find_ground(struct dmu_key *key, u32 pool, u64 start, u64 stop)
{
	u64 at = start;

	while (at < stop) {
		u64 run, value = dmu_look_up(key, at, &run);
		const struct dmu_attr *attr = dmu_attr(key, value);

		if ((attr->kind != DMU_KIND_ZERO && attr->kind != DMU_KIND_COW) || attr->pool != pool)
			return round_down(at, key->grain);
		at += min(run, stop - at);
	}
	return stop;
}

/* The tag of what is published; by a cache of one, since places are much alike. */
static bool has_tag(const struct dmu_pool *pool, const struct dmu_attr *ground, const struct dmu_dest *dest)
{
	return pool->tag && pool->placed.dest == dest && pool->placed.discard == ground->discard &&
	       pool->placed.zeroes == ground->zeroes;
}

static int make_tag(struct dmu_key *key, struct dmu_pool *pool, const struct dmu_attr *ground, struct dmu_dest *dest)
{
	struct dmu_attr attr = { .kind = DMU_KIND_LINEAR, .writable = true, .discard = ground->discard,
				 .zeroes = ground->zeroes, .pool = pool->number, .dest = dest };
	int tag;

	mutex_lock(&key->map_lock);
	tag = dmu_attr_intern(key, &attr);
	spin_lock_irq(&key->lock);
	if (tag > 0) {
		pool->placed = attr;
		pool->tag = tag;
	}
	spin_unlock_irq(&key->lock);
	mutex_unlock(&key->map_lock);
	return tag;
}

static void take(struct dmu_pool *pool, struct dmu_lease *lease, struct dmu_miss *miss, u64 sectors)
{
	miss->dest = lease->dest;
	miss->physical = lease->physical;
	miss->space = sectors;
	miss->reads_zero = lease->flags & DMU_READS_ZERO;
	miss->tag = pool->tag;
	lease->physical += sectors;
	lease->length -= sectors;
	pool->left -= sectors;
	if (!lease->length) {
		list_del(&lease->list);
		kfree(lease);
	}
}

static void tell_low(struct dmu_key *key, struct dmu_pool *pool)
{
	/* An event that is still to be read tells the latest figure. */
	if (pool->left >= pool->low || pool->low_told || !key->attached || !list_empty(&pool->low_event.list))
		return;
	pool->low_told = true;
	dmu_event_queue(key, &pool->low_event, DMU_EV_LEASE_LOW);
}

static void wait_for_log(struct dmu_key *key, struct dmu_io *io)
{
	dmu_phase_put(key, &io->phase);
	list_add_tail(&io->node, &key->log_ios);
	key->pending++;
}

/* What comes of one look under key->lock. */
enum step { STEP_FILL, STEP_JOINED, STEP_LOG, STEP_TAG, STEP_AGAIN, STEP_NO_LEASE, STEP_ERROR, STEP_REQUEUE };

static enum step try_lease(struct dmu_io *io, u64 seen, struct dmu_pool *pool, struct dmu_miss *miss)
{
	struct dmu_key *key = io->key;
	u64 start = round_down(dmu_io_start(io), key->grain), end = max(key->sectors, dmu_io_stop(io));
	u64 stop = min(round_up(dmu_io_stop(io), key->grain), end), run;
	struct dmu_lease *lease;

	if (dmu_look_up(key, dmu_io_start(io), &run) != seen)
		return STEP_AGAIN;
	if (dmu_miss_join(io, start, stop - 1))
		return STEP_JOINED;
	stop = find_ground(key, pool->number, start, stop);
	lease = first_lease(pool);
	if (stop <= dmu_io_start(io) || !lease || pool->grain != key->grain)
		return STEP_NO_LEASE;
	if (!has_tag(pool, dmu_attr(key, seen), lease->dest))
		return STEP_TAG;
	if (!dmu_log_room(key)) {
		if (key->failing || key->expired)
			return STEP_ERROR;
		if (key->requeue)
			return STEP_REQUEUE;
		wait_for_log(key, io);
		return STEP_LOG;
	}
	dmu_miss_init(miss, key, start, stop - 1);
	take(pool, lease, miss, min(lease->length, round_up(stop - start, key->grain)));
	miss->last = min(start + miss->space, stop) - 1;
	miss->primary = io;
	/* What the map holds there was seen in this phase: it needs no second look. */
	miss->phase = io->phase;
	io->phase = DMU_NO_PHASE;
	dmu_miss_begin_fill(miss);
	trace_dmu_lease(key->name, miss->physical, start, miss->last + 1 - start, pool->number);
	tell_low(key, pool);
	return STEP_FILL;
}

/* "seen" is the value at the request's start, the request's phase held. */
enum dmu_waiting dmu_lease_write(struct dmu_io *io, u64 seen)
{
	struct dmu_key *key = io->key;
	const struct dmu_attr *ground = dmu_attr(key, seen);
	struct dmu_pool *pool = ground->pool ? xa_load(&key->pools, ground->pool) : NULL;
	struct dmu_lease *lease;
	struct dmu_dest *dest;
	struct dmu_miss *miss;
	struct dmu_log *entry;
	enum step step;

	if (!pool || !READ_ONCE(pool->left))
		return DMU_NO_LEASE;
	miss = mempool_alloc(&dmu_miss_pool, GFP_NOIO);
	entry = dmu_log_alloc(GFP_NOIO | __GFP_NOFAIL);
	for (;;) {
		spin_lock_irq(&key->lock);
		step = try_lease(io, seen, pool, miss);
		lease = first_lease(pool);
		dest = lease ? lease->dest : NULL;
		spin_unlock_irq(&key->lock);
		if (step != STEP_TAG)
			break;
		if (dest && make_tag(key, pool, ground, dest) <= 0) {
			step = STEP_NO_LEASE;
			break;
		}
	}
	if (step == STEP_FILL) {
		miss->log = entry;
		dmu_fill_start(miss);
		return DMU_WAITS;
	}
	mempool_free(miss, &dmu_miss_pool);
	kfree(entry);
	switch (step) {
	case STEP_AGAIN:
		return DMU_LOOK_AGAIN;
	case STEP_NO_LEASE:
		return DMU_NO_LEASE;
	case STEP_LOG:
		dmu_log_press(key);
		return DMU_WAITS;
	case STEP_ERROR:
		dmu_io_end(io, BLK_STS_IOERR);
		return DMU_ENDED;
	case STEP_REQUEUE:
		dmu_io_end(io, BLK_STS_DM_REQUEUE);
		return DMU_ENDED;
	default:
		return DMU_WAITS;
	}
}

/* ----------------------------------------------------------- commands --- */

static struct dmu_pool *make_pool(struct dmu_key *key, u32 number)
{
	struct dmu_pool *pool = kzalloc(sizeof(*pool), GFP_KERNEL);
	int error;

	if (!pool)
		return ERR_PTR(-ENOMEM);
	pool->number = number;
	INIT_LIST_HEAD(&pool->leases);
	INIT_LIST_HEAD(&pool->low_event.list);
	error = xa_insert(&key->pools, number, pool, GFP_KERNEL);
	if (!error)
		return pool;
	kfree(pool);
	return ERR_PTR(error);
}

/* Makes a pool, or changes its low mark. */
int dmu_pool_set(struct dmu_key *key, u32 number, u64 grain, u64 fill, u64 low)
{
	struct dmu_pool *pool = xa_load(&key->pools, number);

	lockdep_assert_held(&key->control);
	if (number == DMU_NO_POOL || number > DMU_POOLS || !is_power_of_2(grain) || fill != grain ||
	    low > DMU_PHYSICAL_MASK)
		return -EINVAL;
	if (!pool)
		pool = make_pool(key, number);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	if (pool->grain && pool->grain != grain)
		return -EINVAL;
	spin_lock_irq(&key->lock);
	pool->grain = grain;
	pool->low = low;
	spin_unlock_irq(&key->lock);
	return 0;
}

bool dmu_pool_exists(struct dmu_key *key, u32 number)
{
	return xa_load(&key->pools, number);
}

static bool joins(const struct dmu_lease *last, const struct dmu_lease *lease)
{
	return last->dest == lease->dest && last->flags == lease->flags &&
	       last->physical + last->length == lease->physical;
}

/* The destination has been checked to hold the range. */
int dmu_lease_add(struct dmu_key *key, u32 number, struct dmu_dest *dest, u64 physical, u64 length, u32 flags)
{
	struct dmu_pool *pool = xa_load(&key->pools, number);
	struct dmu_lease *lease;

	lockdep_assert_held(&key->control);
	if (!pool)
		return -ENOENT;
	if (!length || length & (pool->grain - 1) || length > DMU_PHYSICAL_MASK - pool->left)
		return -EINVAL;
	lease = kmalloc(sizeof(*lease), GFP_KERNEL);
	if (!lease)
		return -ENOMEM;
	*lease = (struct dmu_lease){ .dest = dest, .physical = physical, .length = length, .flags = flags };
	spin_lock_irq(&key->lock);
	if (!list_empty(&pool->leases) &&
	    joins(list_last_entry(&pool->leases, struct dmu_lease, list), lease)) {
		list_last_entry(&pool->leases, struct dmu_lease, list)->length += length;
		kfree(lease);
	} else {
		list_add_tail(&lease->list, &pool->leases);
	}
	WRITE_ONCE(pool->left, pool->left + length);
	if (pool->left >= pool->low)
		pool->low_told = false;
	tell_low(key, pool);
	spin_unlock_irq(&key->lock);
	return 0;
}

static void describe(const struct dmu_pool *pool, const struct dmu_lease *lease, struct dmu_event *wire)
{
	wire->pool = pool->number;
	wire->destination = lease->dest->number;
	wire->physical = lease->physical;
	wire->length = lease->length;
	wire->flags = lease->flags;
}

/* One REVOKED for each piece that nobody took; a pool without an event for it keeps the piece. */
int dmu_lease_revoke(struct dmu_key *key, u32 number)
{
	struct dmu_pool *pool = xa_load(&key->pools, number);
	struct dmu_lease *lease, *next;
	int error = 0;

	lockdep_assert_held(&key->control);
	if (!pool)
		return -ENOENT;
	spin_lock_irq(&key->lock);
	list_for_each_entry_safe(lease, next, &pool->leases, list) {
		struct dmu_event wire = { .type = DMU_EV_REVOKED };

		describe(pool, lease, &wire);
		error = dmu_event_note(key, &wire, GFP_ATOMIC);
		if (error)
			break;
		WRITE_ONCE(pool->left, pool->left - lease->length);
		list_del(&lease->list);
		kfree(lease);
	}
	spin_unlock_irq(&key->lock);
	return error;
}

/* --------------------------------------------------------------- rest --- */

void dmu_lease_describe_low(const struct dmu_event_node *event, struct dmu_event *wire)
{
	const struct dmu_pool *pool = container_of(event, struct dmu_pool, low_event);

	wire->pool = pool->number;
	wire->length = pool->left;
}

/* For a successor. */
int dmu_lease_replay(struct dmu_key *key)
{
	struct dmu_lease *lease;
	struct dmu_pool *pool;
	unsigned long number;

	lockdep_assert_held(&key->lock);
	xa_for_each(&key->pools, number, pool) {
		pool->low_told = false;
		list_for_each_entry(lease, &pool->leases, list) {
			struct dmu_event wire = { .type = DMU_EV_LEASED };

			describe(pool, lease, &wire);
			if (dmu_event_note(key, &wire, GFP_ATOMIC))
				return -ENOMEM;
		}
	}
	return 0;
}

bool dmu_lease_uses(struct dmu_key *key, const struct dmu_dest *dest)
{
	struct dmu_lease *lease;
	struct dmu_pool *pool;
	unsigned long number;

	lockdep_assert_held(&key->lock);
	xa_for_each(&key->pools, number, pool)
		list_for_each_entry(lease, &pool->leases, list)
			if (lease->dest == dest)
				return true;
	return false;
}

u64 dmu_lease_left(struct dmu_key *key)
{
	struct dmu_pool *pool;
	unsigned long number;
	u64 left = 0;

	lockdep_assert_held(&key->lock);
	xa_for_each(&key->pools, number, pool)
		left += pool->left;
	return left;
}

void dmu_lease_free(struct dmu_key *key)
{
	struct dmu_lease *lease, *next;
	struct dmu_pool *pool;
	unsigned long number;

	xa_for_each(&key->pools, number, pool) {
		list_for_each_entry_safe(lease, next, &pool->leases, list)
			kfree(lease);
		kfree(pool);
	}
	xa_destroy(&key->pools);
}
