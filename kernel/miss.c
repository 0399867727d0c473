// SPDX-License-Identifier: GPL-2.0
/*
 * What waits for the mapper. A miss covers whole grains; requests that touch
 * them join it, and are looked up again when it ends. Each miss ends exactly
 * once: by an answer with its id, a failure, or the limits on waiting. Misses
 * of writes never overlap each other or a fill, so that a grain can't be
 * given two places.
 */
#include <linux/interval_tree_generic.h>
#include <linux/sched/mm.h>

#include "dmu.h"
#include "trace.h"

#define MISS_START(miss)	((miss)->start)
#define MISS_LAST(miss)		((miss)->last)
INTERVAL_TREE_DEFINE(struct dmu_miss, rb, u64, subtree_last, MISS_START, MISS_LAST, static __maybe_unused, miss_tree)

static bool is_write(const struct dmu_miss *miss)
{
	return miss->op != DMU_OP_READ;
}

static struct rb_root_cached *tree_of(struct dmu_miss *miss)
{
	return is_write(miss) ? &miss->key->writes : &miss->key->reads;
}

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

static void take_io(struct dmu_miss *miss, struct dmu_io *io, struct list_head *to)
{
	list_move_tail(&io->node, to);
	miss->key->pending--;
}

static void take_all(struct dmu_miss *miss, struct list_head *to)
{
	struct dmu_io *io, *next;

	list_for_each_entry_safe(io, next, &miss->ios, node)
		take_io(miss, io, to);
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

/* "seen" is the value on which the caller decided to wait. */
enum dmu_waiting dmu_miss_wait(struct dmu_io *io, u8 op, u64 seen)
{
	struct dmu_key *key = io->key;
	struct dmu_miss *fresh = mempool_alloc(&dmu_miss_pool, GFP_NOIO), *miss = NULL;
	enum dmu_waiting waiting = DMU_WAITS;
	blk_status_t status;
	const struct dmu_attr *attr;
	bool ask;
	u64 run;

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
		miss->answered = route->answered;
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

static void unlink_miss(struct dmu_miss *miss)
{
	hash_del(&miss->hash);
	dmu_event_drop(&miss->event);
	if (!miss->ask)
		miss_tree_remove(miss, tree_of(miss));
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

void dmu_miss_describe(struct dmu_miss *miss, struct dmu_event *wire)
{
	wire->id = miss->id;
	wire->start = miss->start;
	wire->length = miss->last + 1 - miss->start;
	wire->op = miss->op;
	wire->flags = (miss->sequential ? DMU_MISS_SEQUENTIAL : 0) | (miss->told ? DMU_MISS_AGAIN : 0) |
		      (miss->mapped ? DMU_MISS_MAPPED : 0) | miss->flags;
	wire->error = miss->error;
	wire->sequence = miss->answered;
	miss->told = true;
}

/* For a successor: places in use by fills that have not been logged yet. */
int dmu_miss_replay_places(struct dmu_key *key)
{
	struct dmu_miss *miss;

	lockdep_assert_held(&key->lock);
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull)) {
		struct dmu_event wire = { .type = DMU_EV_PLACED };

		if (miss->state == DMU_MISS_WAITING)
			continue;
		wire.start = miss->start;
		wire.length = miss->last + 1 - miss->start;
		wire.destination = miss->dest->number;
		wire.physical = miss->physical;
		wire.kind = DMU_KIND_LINEAR;
		if (dmu_event_note(key, &wire, GFP_ATOMIC))
			return -ENOMEM;
	}
	return 0;
}

void dmu_miss_replay(struct dmu_key *key)
{
	struct dmu_miss *miss;
	int bucket;

	lockdep_assert_held(&key->lock);
	hash_for_each(key->misses, bucket, miss, hash)
		dmu_event_queue(key, &miss->event, DMU_EV_MISS);
}

bool dmu_miss_uses(struct dmu_key *key, struct dmu_dest *dest)
{
	struct dmu_miss *miss;

	lockdep_assert_held(&key->lock);
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull))
		if (miss->state != DMU_MISS_WAITING && miss->dest == dest)
			return true;
	return false;
}

/* Fills that wait for room in the log: their places are lost. */
static void drop_waiting_fills(struct dmu_key *key, struct list_head *dropped, struct list_head *ios)
{
	struct dmu_miss *miss, *next;

	lockdep_assert_held(&key->lock);
	list_for_each_entry_safe(miss, next, &key->log_waiters, waiting) {
		dmu_miss_drop(miss, ios);
		list_add_tail(&miss->primary->node, ios);
		list_add_tail(&miss->waiting, dropped);
	}
}

static void end_list(struct list_head *ios, blk_status_t status)
{
	struct dmu_io *io, *next;

	list_for_each_entry_safe(io, next, ios, node) {
		list_del_init(&io->node);
		dmu_io_end(io, status);
	}
}

/* Nothing may wait any longer. A fill under way ends by itself. */
void dmu_miss_end_all(struct dmu_key *key, blk_status_t status)
{
	struct dmu_miss *miss, *next;
	struct hlist_node *tmp;
	LIST_HEAD(dropped);
	struct dmu_io *io;
	LIST_HEAD(ended);
	int bucket;

	spin_lock_irq(&key->lock);
	hash_for_each_safe(key->misses, bucket, tmp, miss, hash) {
		unlink_miss(miss);
		take_all(miss, &ended);
		mempool_free(miss, &dmu_miss_pool);
	}
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull))
		take_all(miss, &ended);
	drop_waiting_fills(key, &dropped, &ended);
	list_for_each_entry(io, &key->log_ios, node)
		key->pending--;
	list_splice_tail_init(&key->log_ios, &ended);
	spin_unlock_irq(&key->lock);
	/* Before the requests end: the key may go with the last. */
	list_for_each_entry_safe(miss, next, &dropped, waiting) {
		dmu_log_lost(key, miss->log, miss->dest, miss->physical, miss->start, miss->last + 1 - miss->start);
		mempool_free(miss, &dmu_miss_pool);
	}
	end_list(&ended, status);
}
