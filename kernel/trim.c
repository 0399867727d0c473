// SPDX-License-Identifier: GPL-2.0
/* Discard and write-zeroes: what the mapping says that they become. */
#include <linux/types.h>
#include <linux/falloc.h>

#include "dmu.h"

static bool is_discard(const struct dmu_io *io)
{
	return bio_op(io->bio) == REQ_OP_DISCARD;
}

static int pass_on(struct dmu_io *io, struct dmu_dest *dest, u64 physical)
{
	u64 sectors = bio_sectors(io->bio);
	int mode = FALLOC_FL_KEEP_SIZE | (is_discard(io) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	int error;

	if (dest->bdev)
		error = is_discard(io) ? blkdev_issue_discard(dest->bdev, physical, sectors, GFP_NOIO)
				       : blkdev_issue_zeroout(dest->bdev, physical, sectors, GFP_NOIO, 0);
	else
		error = vfs_fallocate(dest->file, mode, physical << SECTOR_SHIFT, sectors << SECTOR_SHIFT);
	if (error != -EOPNOTSUPP)
		return error;
	/* A discard is advice. */
	return is_discard(io) ? 0 : dmu_write_zeros(dest, physical, sectors);
}

/*
 * Turns what the value stood for at [start, stop) into ZERO, logged. -EAGAIN:
 * it has changed meanwhile, or there is no room in the log.
 */
static int make_zero(struct dmu_key *key, u64 value, u64 start, u64 stop)
{
	const struct dmu_attr *old = dmu_attr(key, value);
	struct dmu_attr attr = { .kind = DMU_KIND_ZERO, .pool = old->pool, .discard = old->discard,
				 .zeroes = old->zeroes };
	struct dmu_log *entry = dmu_log_alloc(GFP_NOIO | __GFP_NOFAIL);
	u64 at = start, run;
	bool room;
	int tag, error = 0;

	mutex_lock(&key->map_lock);
	tag = dmu_attr_intern(key, &attr);
	while (at < stop && tag > 0 && !error) {
		if (dmu_look_up(key, at, &run) != dmu_value_after(value, at - start))
			error = -EAGAIN;
		at += run;
	}
	spin_lock_irq(&key->lock);
	room = tag > 0 && !error && dmu_log_room(key);
	spin_unlock_irq(&key->lock);
	if (!room) {
		mutex_unlock(&key->map_lock);
		kfree(entry);
		return -EAGAIN;
	}
	entry->start = start;
	entry->length = stop - start;
	entry->kind = DMU_KIND_ZERO;
	entry->destination = DMU_NO_DESTINATION;
	dmu_log_append(key, entry);
	dmu_map_assign(&key->map, start, stop, dmu_value(tag, false, 0), GFP_NOIO | __GFP_NOFAIL);
	mutex_unlock(&key->map_lock);
	return 0;
}

/* Parts of a grain are zeroed by a write-zeroes, ignored by a discard. */
static int zero_extent(struct dmu_io *io, u64 value)
{
	struct dmu_key *key = io->key;
	const struct dmu_attr *attr = dmu_attr(key, value);
	u64 start = dmu_io_start(io), stop = dmu_io_stop(io), physical = dmu_value_physical(value);
	u64 first = round_up(start, key->grain), last = round_down(stop, key->grain);
	int error;

	if (stop == key->sectors)
		last = stop;
	if (first >= last || make_zero(key, dmu_value_after(value, first - start), first, last))
		first = last = stop;
	if (is_discard(io))
		return 0;
	error = dmu_write_zeros(attr->dest, physical, first - start);
	if (!error)
		error = dmu_write_zeros(attr->dest, physical + (last - start), stop - last);
	return error;
}

static int trim_extent(struct dmu_io *io, u64 value)
{
	const struct dmu_attr *attr = dmu_attr(io->key, value);
	u8 policy = is_discard(io) ? attr->discard : attr->zeroes;
	u64 physical = dmu_value_physical(value);

	switch (attr->kind) {
	case DMU_KIND_ERROR:
		return -EIO;
	case DMU_KIND_ZERO:
		return 0;
	case DMU_KIND_COW:
		/* The block layer writes zeros instead. */
		return is_discard(io) ? 0 : -EOPNOTSUPP;
	}
	if (!attr->writable)
		return is_discard(io) ? 0 : -EOPNOTSUPP;
	switch (policy) {
	case DMU_POLICY_PASS:
		return pass_on(io, attr->dest, physical);
	case DMU_POLICY_ZERO:
		return zero_extent(io, value);
	default:
		return is_discard(io) ? 0 : dmu_write_zeros(attr->dest, physical, bio_sectors(io->bio));
	}
}

static bool must_ask(const struct dmu_key *key, u64 value, bool discard)
{
	const struct dmu_attr *attr = dmu_attr(key, value);

	return attr->kind == DMU_KIND_ASK || (discard ? attr->discard : attr->zeroes) == DMU_POLICY_ASK;
}

/* On a worker. */
void dmu_trim(struct dmu_io *io)
{
	struct dmu_key *key = io->key;

	for (;;) {
		struct dmu_io *piece = io;
		u64 run, value;
		u8 op = DMU_OP_READ;

		dmu_phase_get(key, &io->phase);
		value = dmu_look_up(key, dmu_io_start(io), &run);
		if (run < bio_sectors(io->bio)) {
			piece = dmu_io_split(io, run);
			swap(piece->phase, io->phase);
		}
		if (value == DMU_VALUE_NONE || must_ask(key, value, is_discard(io))) {
			if (value != DMU_VALUE_NONE)
				op = is_discard(io) ? DMU_OP_DISCARD : DMU_OP_ZERO;
			dmu_phase_put(key, &piece->phase);
			if (dmu_miss_wait(piece, op, value) == DMU_LOOK_AGAIN)
				dmu_io_queue(piece);
		} else {
			dmu_io_end(piece, errno_to_blk_status(trim_extent(piece, value)));
		}
		if (piece == io)
			return;
	}
}
