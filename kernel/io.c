// SPDX-License-Identifier: GPL-2.0
/* A request's way through the map: the hit at once, all else on a worker. */
#include "dmu.h"

static void phase_get_rcu(struct dmu_key *key, u8 *phase)
{
	u8 now;

	/* A phase that is being drained takes nobody new; it may also have ended in between. */
	for (;;) {
		now = READ_ONCE(key->phase);
		if (likely(percpu_ref_tryget_live_rcu(&key->inflight[now]))) {
			if (likely(now == READ_ONCE(key->phase)))
				break;
			percpu_ref_put(&key->inflight[now]);
		}
		cpu_relax();
	}
	*phase = now;
}

void dmu_phase_get(struct dmu_key *key, u8 *phase)
{
	rcu_read_lock();
	phase_get_rcu(key, phase);
	rcu_read_unlock();
}

void dmu_phase_put(struct dmu_key *key, u8 *phase)
{
	if (*phase != DMU_NO_PHASE)
		percpu_ref_put(&key->inflight[*phase]);
	*phase = DMU_NO_PHASE;
}

static void count_hit(struct dmu_key *key, struct bio *bio)
{
	if (op_is_write(bio_op(bio)))
		this_cpu_inc(key->counts->hits_write);
	else
		this_cpu_inc(key->counts->hits_read);
}

static u8 straight_of(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) ? DMU_STRAIGHT_WRITE : DMU_STRAIGHT_READ;
}

/* FUA asks that the mapping be durable too, which here means a commit. */
static bool wants_commit(const struct dmu_key *key, const struct bio *bio)
{
	return bio->bi_opf & REQ_FUA && READ_ONCE(key->sequence) != READ_ONCE(key->committed);
}

/* A hit of which more is to be done than to send it on. false: not here. */
static bool map_route(struct dmu_io *io, const struct dmu_attr *attr, u64 value, u64 run)
{
	struct bio *bio = io->bio;

	if (attr->kind != DMU_KIND_LINEAR || (op_is_write(bio_op(bio)) && !attr->writable) || bio->bi_opf & REQ_NOWAIT)
		return false;
	if (run < bio_sectors(bio))
		dm_accept_partial_bio(bio, run);
	count_hit(io->key, bio);
	dmu_route_set(io, attr, dmu_value_physical(value), 0);
	if (!dmu_route_send(io, GFP_NOWAIT | __GFP_NOWARN))
		dmu_route_queue(io);
	return true;
}

static void map_zero(struct dmu_key *key, struct bio *bio, u64 run)
{
	if (run < bio_sectors(bio))
		dm_accept_partial_bio(bio, run);
	zero_fill_bio(bio);
	count_hit(key, bio);
	bio_endio(bio);
}

enum todo { TODO_ISSUE, TODO_ZERO, TODO_ERROR, TODO_MISS, TODO_PLACE, TODO_ASK };

static enum todo classify(struct dmu_key *key, u64 value, bool write)
{
	if (value == DMU_VALUE_NONE)
		return TODO_MISS;
	switch (dmu_attr(key, value)->kind) {
	case DMU_KIND_LINEAR:
		if (!write || dmu_attr(key, value)->writable)
			return TODO_ISSUE;
		return dmu_attr(key, value)->ask ? TODO_ASK : TODO_MISS;
	case DMU_KIND_COW:
		return write ? TODO_PLACE : TODO_ISSUE;
	case DMU_KIND_ZERO:
		return write ? TODO_PLACE : TODO_ZERO;
	case DMU_KIND_ASK:
		return TODO_ASK;
	default:
		return TODO_ERROR;
	}
}

/*
 * What only the mapper can say, without a turn of a worker; and so it hears of the
 * requests of a submitter in the order in which they were sent. false: not here.
 */
static bool map_ask(struct dmu_io *io, u64 value, u64 run)
{
	bool write = op_is_write(bio_op(io->bio));
	enum todo todo = classify(io->key, value, write);

	if ((todo != TODO_ASK && todo != TODO_MISS) || run < bio_sectors(io->bio) || io->bio->bi_opf & REQ_NOWAIT)
		return false;
	dmu_phase_put(io->key, &io->phase);
	return dmu_miss_wait(io, write ? DMU_OP_WRITE : DMU_OP_READ, value, GFP_NOWAIT | __GFP_NOWARN) !=
	       DMU_LOOK_AGAIN;
}

int dmu_io_map(struct dmu_key *key, struct bio *bio, struct dmu_io *io)
{
	enum req_op op = bio_op(bio);
	const struct dmu_attr *attr;
	u64 value, run;

	dmu_io_init(io, key, bio, NULL);
	if (unlikely((op != REQ_OP_READ && op != REQ_OP_WRITE) || bio->bi_opf & REQ_PREFLUSH)) {
		io->came = ktime_get_ns();
		goto slow;
	}

	rcu_read_lock();
	phase_get_rcu(key, &io->phase);
	value = dmu_map_look_up(&key->map, dmu_io_start(io), &run);
	rcu_read_unlock();
	attr = dmu_attr(key, value);
	if (wants_commit(key, bio))
		goto slow;
	if (!(attr->straight & straight_of(bio))) {
		if (attr->kind == DMU_KIND_ZERO && op == REQ_OP_READ)
			map_zero(key, bio, run);
		else if (!map_route(io, attr, value, run) && !map_ask(io, value, run))
			goto slow;
		return DM_MAPIO_SUBMITTED;
	}
	if (run < bio_sectors(bio))
		dm_accept_partial_bio(bio, run);
	count_hit(key, bio);
	if (attr->dest->bdev) {
		bio_set_dev(bio, attr->dest->bdev);
		bio->bi_iter.bi_sector = dmu_value_physical(value);
		return DM_MAPIO_REMAPPED;
	}
	io->dest = attr->dest;
	io->position = dmu_value_physical(value) << SECTOR_SHIFT;
	if (!dmu_file_try(io)) {
		if (bio->bi_opf & REQ_NOWAIT) {
			bio_wouldblock_error(bio);
			return DM_MAPIO_SUBMITTED;
		}
		dmu_file_issue(io);
	}
	return DM_MAPIO_SUBMITTED;

slow:
	dmu_phase_put(key, &io->phase);
	if (bio->bi_opf & REQ_NOWAIT)
		bio_wouldblock_error(bio);
	else
		dmu_io_queue(io);
	return DM_MAPIO_SUBMITTED;
}

/* Ends a bio or a piece. With pieces that still wait the bio goes on for long, but its own I/O has ended. */
void dmu_io_end(struct dmu_io *io, blk_status_t status)
{
	if (status) {
		/* Of what is not supported the block layer does something else. */
		if (status != BLK_STS_DM_REQUEUE && status != BLK_STS_NOTSUPP && !io->is_leg)
			atomic64_inc(&io->key->errors);
		io->bio->bi_status = status;
	}
	dmu_phase_put(io->key, &io->phase);
	bio_endio(io->bio);
}

/* A write is done, its data in place: a FUA that needs more goes the way of a flush. */
void dmu_io_written(struct dmu_io *io)
{
	if (io->flush_after && !io->bio->bi_status) {
		io->flush_after = false;
		dmu_phase_put(io->key, &io->phase);
		io->came = ktime_get_ns();
		dmu_flush(io);
		return;
	}
	dmu_io_end(io, io->bio->bi_status);
}

static void process_work(struct work_struct *work)
{
	dmu_io_process(container_of(work, struct dmu_io, work));
}

/* To be looked up, maybe again: what its I/O came to before does not count. */
void dmu_io_queue(struct dmu_io *io)
{
	io->returned = false;
	INIT_WORK(&io->work, process_work);
	queue_work(io->key->wq, &io->work);
}

void dmu_io_queue_list(struct list_head *ios)
{
	struct dmu_io *io, *next;

	list_for_each_entry_safe(io, next, ios, node) {
		list_del_init(&io->node);
		dmu_io_queue(io);
	}
}

/* To a destination, from a worker; the phase is held. */
void dmu_io_issue(struct dmu_io *io, struct dmu_dest *dest, u64 physical)
{
	if (!dest->bdev) {
		io->dest = dest;
		io->position = physical << SECTOR_SHIFT;
		dmu_file_issue(io);
		return;
	}
	if (bio_flagged(io->bio, BIO_CHAIN))
		io = dmu_io_rest(io);
	bio_set_dev(io->bio, dest->bdev);
	io->bio->bi_iter.bi_sector = physical;
	if (io->parent)
		submit_bio_noacct(io->bio);
	else
		dm_submit_bio_remap(io->bio, NULL);
}

/* What is to be done at the start of io, and how far the same holds. */
static enum todo next_todo(struct dmu_io *io, bool write, u64 *value, u64 *sectors)
{
	u64 at = dmu_io_start(io), stop = dmu_io_stop(io), run;
	enum todo todo;

	*value = dmu_look_up(io->key, at, &run);
	todo = classify(io->key, *value, write);
	at += run;
	/* What waits may be of several extents: one request should get one place. */
	while ((todo == TODO_MISS || todo == TODO_PLACE) && at < stop) {
		u64 next = dmu_look_up(io->key, at, &run);

		if (classify(io->key, next, write) != todo)
			break;
		at += run;
	}
	*sectors = min(at, stop) - dmu_io_start(io);
	return todo;
}

/* A place from a lease, or the mapper's word. false: look again. */
static bool wait_for_place(struct dmu_io *io, bool write, u64 value, enum todo todo)
{
	enum dmu_waiting waiting = DMU_NO_LEASE;

	if (todo == TODO_PLACE)
		waiting = dmu_lease_write(io, value);
	if (waiting == DMU_NO_LEASE) {
		/* The mapper is told of it, and says when it ends: no flush comes of it. */
		if (todo == TODO_ASK && io->flush_after) {
			io->flush_after = false;
			io->bio->bi_opf |= REQ_FUA;
		}
		dmu_phase_put(io->key, &io->phase);
		waiting = dmu_miss_wait(io, write ? DMU_OP_WRITE : DMU_OP_READ, value, GFP_NOIO);
	}
	return waiting != DMU_LOOK_AGAIN;
}

static void issue(struct dmu_io *io, const struct dmu_attr *attr, u64 physical)
{
	struct dmu_dest *dest = attr->dest;

	if (!(attr->straight & straight_of(io->bio))) {
		dmu_route_set(io, attr, physical, 0);
		dmu_route_send(io, GFP_NOIO);
		return;
	}
	/* A remapped bio would end without coming back here. */
	if (io->flush_after && dest->bdev) {
		io->bio->bi_status = errno_to_blk_status(dmu_rw_bio(dest, physical, io->bio));
		dmu_io_written(io);
		return;
	}
	dmu_io_issue(io, dest, physical);
}

static void process_rw(struct dmu_io *io)
{
	struct dmu_key *key = io->key;
	bool write = op_is_write(bio_op(io->bio));

	if (wants_commit(key, io->bio)) {
		io->bio->bi_opf &= ~REQ_FUA;
		io->flush_after = true;
	}
	for (;;) {
		struct dmu_io *piece = io;
		u64 value, sectors;
		enum todo todo;

		dmu_phase_get(key, &io->phase);
		todo = next_todo(io, write, &value, &sectors);
		if (sectors < bio_sectors(io->bio)) {
			piece = dmu_io_split(io, sectors);
			swap(piece->phase, io->phase);
		}
		switch (todo) {
		case TODO_ISSUE:
			issue(piece, dmu_attr(key, value), dmu_value_physical(value));
			break;
		case TODO_ZERO:
			zero_fill_bio(piece->bio);
			dmu_io_end(piece, 0);
			break;
		case TODO_ERROR:
			dmu_io_end(piece, BLK_STS_IOERR);
			break;
		default:
			if (wait_for_place(piece, write, value, todo))
				break;
			dmu_phase_put(key, &piece->phase);
			dmu_io_queue(piece);
		}
		if (piece == io)
			return;
	}
}

void dmu_io_process(struct dmu_io *io)
{
	unsigned int flags = memalloc_noio_save();

	switch (bio_op(io->bio)) {
	case REQ_OP_READ:
		process_rw(io);
		break;
	case REQ_OP_WRITE:
		if (io->bio->bi_opf & REQ_PREFLUSH || !bio_sectors(io->bio))
			dmu_flush(io);
		else
			process_rw(io);
		break;
	case REQ_OP_FLUSH:
		dmu_flush(io);
		break;
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		dmu_trim(io);
		break;
	default:
		dmu_io_end(io, BLK_STS_NOTSUPP);
	}
	memalloc_noio_restore(flags);
}
