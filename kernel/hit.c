// SPDX-License-Identifier: GPL-2.0
/* A request as it comes: a hit is sent on at once, all else goes to a worker or the mapper. */
#include "dmu.h"
#include "map_node.h"

static inline void phase_put(struct dmu_key *key, u8 *phase)
{
	u8 held = *phase;

	if (held == DMU_NO_PHASE)
		return;
	*phase = DMU_NO_PHASE;
	percpu_ref_put(&key->inflight[held]);
}

void dmu_phase_put(struct dmu_key *key, u8 *phase)
{
	phase_put(key, phase);
}

/* A phase that is being drained takes nobody new; it may also have ended in between. */
static inline bool phase_try_rcu(struct dmu_key *key, u8 *phase)
{
	u8 now = READ_ONCE(key->phase);

	if (unlikely(!percpu_ref_tryget_live_rcu(&key->inflight[now])))
		return false;
	*phase = now;
	if (likely(now == READ_ONCE(key->phase)))
		return true;
	dmu_phase_put(key, phase);
	return false;
}

static inline void phase_get_rcu(struct dmu_key *key, u8 *phase)
{
	while (unlikely(!phase_try_rcu(key, phase)))
		cpu_relax();
}

void dmu_phase_get(struct dmu_key *key, u8 *phase)
{
	rcu_read_lock();
	phase_get_rcu(key, phase);
	rcu_read_unlock();
}

static inline void count_hit(struct dmu_key *key, bool write)
{
	this_cpu_inc(key->counts->hits[write]);
}

/* A hit of which more is to be done than to send it on. false: not here. */
static bool map_route(struct dmu_io *io, const struct dmu_attr *attr, u64 value, u64 run)
{
	struct bio *bio = io->bio;

	if (attr->kind != DMU_KIND_LINEAR || (op_is_write(bio_op(bio)) && !attr->writable) || bio->bi_opf & REQ_NOWAIT)
		return false;
	if (run < bio_sectors(bio))
		dm_accept_partial_bio(bio, run);
	count_hit(io->key, op_is_write(bio_op(bio)));
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
	count_hit(key, false);
	bio_endio(bio);
}

/* On a worker, where there is time to wait. */
static noinline int map_later(struct dmu_io *io)
{
	dmu_phase_put(io->key, &io->phase);
	if (io->bio->bi_opf & REQ_NOWAIT)
		bio_wouldblock_error(io->bio);
	else
		dmu_io_queue(io);
	return DM_MAPIO_SUBMITTED;
}

/* Kept out of line for the hit's sake, which then has fewer registers to save. */
static noinline int map_otherwise(struct dmu_io *io, const struct dmu_attr *attr, u64 value, u64 run)
{
	if (attr->kind == DMU_KIND_ZERO && bio_op(io->bio) == REQ_OP_READ)
		map_zero(io->key, io->bio, run);
	else if (!map_route(io, attr, value, run) && !dmu_io_ask(io, value, run))
		return map_later(io);
	return DM_MAPIO_SUBMITTED;
}

static noinline int map_to_file(struct dmu_io *io, struct dmu_dest *dest, u64 physical)
{
	io->dest = dest;
	io->position = physical << SECTOR_SHIFT;
	if (dmu_file_try(io))
		return DM_MAPIO_SUBMITTED;
	if (io->bio->bi_opf & REQ_NOWAIT)
		bio_wouldblock_error(io->bio);
	else
		dmu_file_issue(io);
	return DM_MAPIO_SUBMITTED;
}

int dmu_target_map(struct dm_target *ti, struct bio *bio)
{
	struct dmu_target *target = ti->private;
	struct dmu_io *io = dm_per_bio_data(bio, sizeof(*io));
	struct dmu_key *key = target->key;
	enum req_op op = bio_op(bio);
	const struct dmu_attr *attr;
	u64 value, run;
	bool write;

	if (bio_sectors(bio))
		bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	if (unlikely(target->read_only) && op_is_write(op) && bio_sectors(bio))
		return DM_MAPIO_KILL;
	dmu_io_init(io, key, bio, NULL);
	if (unlikely((op != REQ_OP_READ && op != REQ_OP_WRITE) || bio->bi_opf & REQ_PREFLUSH)) {
		io->came = ktime_get_ns();
		return map_later(io);
	}

	rcu_read_lock();
	phase_get_rcu(key, &io->phase);
	value = map_find(&key->map, bio->bi_iter.bi_sector, &run);
	rcu_read_unlock();
	attr = dmu_attr(key, value);
	write = op_is_write(bio_op(bio));
	if (unlikely(dmu_wants_commit(key, bio)))
		return map_later(io);
	if (unlikely(!(attr->straight & dmu_straight(write))))
		return map_otherwise(io, attr, value, run);
	if (unlikely(run < bio_sectors(bio)))
		dm_accept_partial_bio(bio, run);
	count_hit(key, write);
	if (!attr->dest->bdev)
		return map_to_file(io, attr->dest, dmu_value_physical(value));
	bio_set_dev(bio, attr->dest->bdev);
	bio->bi_iter.bi_sector = dmu_value_physical(value);
	return DM_MAPIO_REMAPPED;
}

/* Of a bio that was sent on as it came; what ends on the way here has no phase any more. */
int dmu_target_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct dmu_io *io = dm_per_bio_data(bio, sizeof(*io));

	phase_put(io->key, &io->phase);
	return DM_ENDIO_DONE;
}
