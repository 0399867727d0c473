// SPDX-License-Identifier: GPL-2.0
/*
 * Discard and write-zeroes: what the mapping says that they become, at both
 * places of a mirror.
 */
#include <linux/types.h>
#include <linux/falloc.h>

#include "dmu.h"

static bool is_discard(const struct dmu_io *io)
{
	return bio_op(io->bio) == REQ_OP_DISCARD;
}

static int pass_on(struct dmu_io *io, struct dmu_dest *dest, u64 physical, u64 sectors)
{
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

static int write_zeros(struct dmu_io *io, struct dmu_dest *dest, u64 physical, u64 sectors)
{
	return dmu_write_zeros(dest, physical, sectors);
}

/* A part of the request, at all its places. What fails is kept with the route. */
static int at_places(struct dmu_io *io, u64 offset, u64 sectors,
		     int (*what)(struct dmu_io *io, struct dmu_dest *dest, u64 physical, u64 sectors))
{
	struct dmu_route *route = &io->route;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(route->dest) && route->dest[i]; i++) {
		int error = what(io, route->dest[i], route->physical[i] + offset, sectors);

		if (error)
			route->status[i] = errno_to_blk_status(error);
	}
	return blk_status_to_errno(dmu_route_status(route));
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
	dmu_shrink_check(key, false);
	mutex_unlock(&key->map_lock);
	return 0;
}

/* Parts of a grain are zeroed by a write-zeroes, ignored by a discard. */
static int zero_extent(struct dmu_io *io, u64 value)
{
	struct dmu_key *key = io->key;
	u64 start = dmu_io_start(io), stop = dmu_io_stop(io);
	u64 first = round_up(start, key->grain), last = round_down(stop, key->grain);
	int error;

	if (stop == key->sectors)
		last = stop;
	if (first >= last || make_zero(key, dmu_value_after(value, first - start), first, last))
		first = last = stop;
	if (is_discard(io))
		return 0;
	error = at_places(io, 0, first - start, write_zeros);
	return error ? error : at_places(io, last - start, stop - last, write_zeros);
}

static int trim_extent(struct dmu_io *io, u64 value)
{
	const struct dmu_attr *attr = dmu_attr(io->key, value);
	u8 policy = is_discard(io) ? attr->discard : attr->zeroes;

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
	dmu_route_set(io, attr, dmu_value_physical(value), 0);
	switch (policy) {
	case DMU_POLICY_PASS:
		return at_places(io, 0, bio_sectors(io->bio), pass_on);
	case DMU_POLICY_ZERO:
		return zero_extent(io, value);
	default:
		return is_discard(io) ? 0 : at_places(io, 0, bio_sectors(io->bio), write_zeros);
	}
}

/* One that the mapper has sent on. */
void dmu_trim_route(struct dmu_io *io)
{
	at_places(io, 0, bio_sectors(io->bio), pass_on);
	dmu_route_ended(io);
}

static void trim(struct dmu_io *io, u64 value)
{
	int error;

	io->route = (struct dmu_route){ .flags = 0 };
	error = trim_extent(io, value);
	if (dmu_route_status(&io->route))
		dmu_route_ended(io);
	else
		dmu_io_end(io, errno_to_blk_status(error));
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
			if (dmu_miss_wait(piece, op, value, GFP_NOIO) == DMU_LOOK_AGAIN)
				dmu_io_queue(piece);
		} else {
			trim(piece, value);
		}
		if (piece == io)
			return;
	}
}
