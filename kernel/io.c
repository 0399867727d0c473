// SPDX-License-Identifier: GPL-2.0
/* A request that is not sent on as it comes, on a worker: cut to pieces, placed, asked for, issued, ended. */
#include "dmu.h"

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
bool dmu_io_ask(struct dmu_io *io, u64 value, u64 run)
{
	bool write = op_is_write(bio_op(io->bio));
	enum todo todo = classify(io->key, value, write);

	if ((todo != TODO_ASK && todo != TODO_MISS) || run < bio_sectors(io->bio) || io->bio->bi_opf & REQ_NOWAIT)
		return false;
	dmu_phase_put(io->key, &io->phase);
	return dmu_miss_wait(io, write ? DMU_OP_WRITE : DMU_OP_READ, value, GFP_NOWAIT | __GFP_NOWARN) !=
	       DMU_LOOK_AGAIN;
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

	if (!(attr->straight & dmu_straight(op_is_write(bio_op(io->bio))))) {
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

	if (dmu_wants_commit(key, io->bio)) {
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
