// SPDX-License-Identifier: GPL-2.0
/*
 * What waits for the mapper. A miss covers whole grains; requests that touch
 * them join it, and are looked up again when it ends. Each miss ends exactly
 * once: by an answer with its id, a failure, or the limits on waiting. Misses
 * of writes never overlap each other or a fill, so that a grain can't be
 * given two places.
 */
#include <linux/sched/mm.h>

#include "miss.h"
#include "trace.h"

/* What the mapper is told of how a request was sent. */
static u32 io_flags(const struct dmu_io *io)
{
	blk_opf_t flags = io->bio->bi_opf;

	return (flags & REQ_FUA || io->flush_after ? DMU_MISS_FUA : 0) | (flags & REQ_META ? DMU_MISS_META : 0) |
	       (flags & REQ_SYNC ? DMU_MISS_SYNC : 0);
}

static void add_io(struct dmu_miss *miss, struct dmu_io *io)
{
	if (list_empty(&miss->ios))
		miss->flags |= io_flags(io);
	else
		miss->flags &= io_flags(io) | ~(DMU_MISS_FUA | DMU_MISS_META | DMU_MISS_SYNC);
	list_add_tail(&io->node, &miss->ios);
	miss->key->pending++;
}

/* Whom a request may join, if anybody. */
static struct dmu_miss *find_company(struct dmu_key *key, bool write, u64 start, u64 last)
{
	struct dmu_miss *miss;

	if (write)
		return miss_tree_iter_first(&key->writes, start, last);
	miss = miss_tree_iter_first(&key->reads, start, last);
	if (miss)
		return miss;
	/* The answer to a write on unknown ground maps it for readers first. A fill tells them nothing. */
	for (miss = miss_tree_iter_first(&key->writes, start, last); miss;
	     miss = miss_tree_iter_next(miss, start, last))
		if (miss->state == DMU_MISS_WAITING)
			return miss;
	return NULL;
}

void dmu_miss_init(struct dmu_miss *miss, struct dmu_key *key, u64 start, u64 last)
{
	memset(miss, 0, sizeof(*miss));
	miss->key = key;
	miss->op = DMU_OP_WRITE;
	miss->phase = DMU_NO_PHASE;
	miss->start = start;
	miss->last = last;
	INIT_LIST_HEAD(&miss->ios);
	INIT_LIST_HEAD(&miss->waiting);
	INIT_LIST_HEAD(&miss->event.list);
}

/* A writer joins whatever is under way where it wants a place. */
bool dmu_miss_join(struct dmu_io *io, u64 start, u64 last)
{
	struct dmu_miss *miss = find_company(io->key, true, start, last);

	lockdep_assert_held(&io->key->lock);
	if (!miss)
		return false;
	dmu_phase_put(io->key, &io->phase);
	add_io(miss, io);
	return true;
}

/* A place was taken for it that nobody was asked for. */
void dmu_miss_begin_fill(struct dmu_miss *miss)
{
	lockdep_assert_held(&miss->key->lock);
	miss->state = DMU_MISS_FILLING;
	miss_tree_insert(miss, tree_of(miss));
}

static void open_miss(struct dmu_miss *miss, struct dmu_io *io, u8 op, bool ask)
{
	struct dmu_key *key = io->key;
	u64 grain = ask ? 1 : key->grain;

	dmu_miss_init(miss, key, round_down(dmu_io_start(io), grain),
		      min(round_up(dmu_io_stop(io), grain), max(key->sectors, dmu_io_stop(io))) - 1);
	miss->op = op;
	miss->ask = ask;
	miss->id = ++key->next_id;
	miss->since = ktime_get_ns();
	if (!io->returned) {
		miss->sequential = dmu_io_start(io) == key->last_miss_end;
		key->last_miss_end = dmu_io_stop(io);
	}
	if (!ask)
		miss_tree_insert(miss, tree_of(miss));
	hash_add(key->misses, &miss->hash, miss->id);
	atomic64_inc(&key->miss_count);
	add_io(miss, io);
	dmu_event_queue(key, &miss->event, DMU_EV_MISS);
	trace_dmu_miss(key->name, miss->id, miss->start, miss->last + 1 - miss->start, op);
}

/* Not 0: nothing may wait for the mapper now. */
static blk_status_t may_not_wait(const struct dmu_key *key)
{
	lockdep_assert_held(&key->lock);
	if (key->failing || key->expired)
		return BLK_STS_IOERR;
	return key->requeue ? BLK_STS_DM_REQUEUE : BLK_STS_OK;
}

/* "seen" is the value on which the caller decided to wait. Without memory (and GFP_NOWAIT): DMU_LOOK_AGAIN. */
enum dmu_waiting dmu_miss_wait(struct dmu_io *io, u8 op, u64 seen, gfp_t gfp)
{
	struct dmu_key *key = io->key;
	struct dmu_miss *fresh = mempool_alloc(&dmu_miss_pool, gfp), *miss = NULL;
	enum dmu_waiting waiting = DMU_WAITS;
	blk_status_t status;
	const struct dmu_attr *attr;
	bool ask;
	u64 run;

	if (!fresh)
		return DMU_LOOK_AGAIN;
	spin_lock_irq(&key->lock);
	attr = dmu_attr(key, seen);
	ask = attr->kind == DMU_KIND_ASK || attr->ask || op == DMU_OP_DISCARD || op == DMU_OP_ZERO;
	status = may_not_wait(key);
	if (status) {
		waiting = DMU_ENDED;
	} else if (dmu_look_up(key, dmu_io_start(io), &run) != seen) {
		waiting = DMU_LOOK_AGAIN;
	} else {
		if (!ask)
			miss = find_company(key, op != DMU_OP_READ, dmu_io_start(io), dmu_io_stop(io) - 1);
		if (miss) {
			add_io(miss, io);
		} else {
			open_miss(fresh, io, op, ask);
			fresh->mapped = op == DMU_OP_WRITE && !ask && seen != DMU_VALUE_NONE;
			fresh = NULL;
		}
	}
	spin_unlock_irq(&key->lock);
	if (fresh)
		mempool_free(fresh, &dmu_miss_pool);
	if (status)
		dmu_io_end(io, status);
	return waiting;
}

static u8 op_of(const struct dmu_io *io)
{
	switch (bio_op(io->bio)) {
	case REQ_OP_READ:
		return DMU_OP_READ;
	case REQ_OP_DISCARD:
		return DMU_OP_DISCARD;
	case REQ_OP_WRITE_ZEROES:
		return DMU_OP_ZERO;
	default:
		return DMU_OP_WRITE;
	}
}

/*
 * It has been where it was sent, and the mapper says what becomes of it. On a
 * worker. The phase is kept until the mapper can read of it, so that it does
 * before it reads of a drain that this I/O has held up; but a drain never
 * waits for what the mapper does.
 */
void dmu_miss_return(struct dmu_io *io)
{
	struct dmu_miss *miss = mempool_alloc(&dmu_miss_pool, GFP_NOWAIT | __GFP_NOWARN);
	const struct dmu_route *route = &io->route;
	struct dmu_key *key = io->key;
	blk_status_t status;

	if (!miss) {
		dmu_phase_put(key, &io->phase);
		miss = mempool_alloc(&dmu_miss_pool, GFP_NOIO);
	}
	spin_lock_irq(&key->lock);
	status = may_not_wait(key);
	if (!status) {
		open_miss(miss, io, op_of(io), true);
		miss->flags |= DMU_MISS_RETURNED | (route->status[0] ? DMU_MISS_FIRST_FAILED : 0) |
			       (route->status[1] ? DMU_MISS_SECOND_FAILED : 0);
		miss->error = -blk_status_to_errno(dmu_route_status(route));
		miss->returned_from = route->number;
		miss->answered = route->answered;
		/* Under the lock: the request may be gone after it. */
		dmu_phase_put(key, &io->phase);
	}
	spin_unlock_irq(&key->lock);
	if (status) {
		mempool_free(miss, &dmu_miss_pool);
		dmu_io_end(io, status);
	}
}

struct dmu_miss *dmu_miss_find(struct dmu_key *key, u64 id)
{
	struct dmu_miss *miss;

	lockdep_assert_held(&key->lock);
	hash_for_each_possible(key->misses, miss, hash, id)
		if (miss->id == id)
			return miss;
	return NULL;
}

/* Ends a miss: the caller frees it, and does with the requests what is right. NULL: there is none. */
struct dmu_miss *dmu_miss_take(struct dmu_key *key, u64 id, struct list_head *ios)
{
	struct dmu_miss *miss = dmu_miss_find(key, id);

	if (!miss)
		return NULL;
	unlink_miss(miss);
	take_all(miss, ios);
	return miss;
}

/* A range has become known: readers of it need not wait for more. */
void dmu_miss_mapped(struct dmu_key *key, u64 start, u64 stop)
{
	struct dmu_miss *miss, *next;
	struct dmu_io *io, *after;
	LIST_HEAD(ready);

	spin_lock_irq(&key->lock);
	for (miss = miss_tree_iter_first(&key->reads, start, stop - 1); miss; miss = next) {
		next = miss_tree_iter_next(miss, start, stop - 1);
		if (miss->start < start || miss->last >= stop)
			continue;
		unlink_miss(miss);
		take_all(miss, &ready);
		mempool_free(miss, &dmu_miss_pool);
	}
	for (miss = miss_tree_iter_first(&key->writes, start, stop - 1); miss;
	     miss = miss_tree_iter_next(miss, start, stop - 1)) {
		if (miss->state != DMU_MISS_WAITING)
			continue;
		list_for_each_entry_safe(io, after, &miss->ios, node)
			if (!op_is_write(bio_op(io->bio)))
				take_io(miss, io, &ready);
	}
	spin_unlock_irq(&key->lock);
	dmu_io_queue_list(&ready);
}

/*
 * The miss becomes a fill of [start, stop); what does not touch that goes to
 * rest. The first writer inside becomes the primary.
 */
void dmu_miss_place(struct dmu_miss *miss, u64 stop, struct list_head *rest)
{
	struct dmu_io *io, *next;

	lockdep_assert_held(&miss->key->lock);
	unlink_miss(miss);
	miss->last = stop - 1;
	miss_tree_insert(miss, tree_of(miss));
	miss->primary = NULL;
	list_for_each_entry_safe(io, next, &miss->ios, node) {
		if (!op_is_write(bio_op(io->bio)) || dmu_io_start(io) >= stop) {
			take_io(miss, io, rest);
		} else if (!miss->primary && dmu_io_start(io) >= miss->start && bio_op(io->bio) == REQ_OP_WRITE) {
			miss->primary = io;
			list_del_init(&io->node);
			miss->key->pending--;
		}
	}
}

/* Nobody wants the place that it was given; the caller logs that, and frees it. */
void dmu_miss_drop(struct dmu_miss *miss, struct list_head *ios)
{
	lockdep_assert_held(&miss->key->lock);
	miss_tree_remove(miss, tree_of(miss));
	list_del_init(&miss->waiting);
	take_all(miss, ios);
}

/* A fill has ended, published or not. */
void dmu_miss_finish(struct dmu_miss *miss)
{
	LIST_HEAD(ready);

	spin_lock_irq(&miss->key->lock);
	miss_tree_remove(miss, tree_of(miss));
	take_all(miss, &ready);
	spin_unlock_irq(&miss->key->lock);
	dmu_io_queue_list(&ready);
}
