// SPDX-License-Identifier: GPL-2.0
/*
 * Requests for which it is not enough to send their bio on: a write to two
 * destinations of a mirror, and what the mapper wants to hear of when its I/O
 * has ended (RETURN) or failed (TELL). Here the bio stays: every destination
 * gets a clone of it, a leg. So the request is as it was when it comes back,
 * and can go anywhere again.
 */
#include <linux/sched/mm.h>

#include "dmu.h"

struct leg {
	struct dmu_io io;	/* for file.c */
	struct dmu_io *of;
	unsigned int index;
	struct bio bio;
};

unsigned int dmu_leg_front_pad(void)
{
	return offsetof(struct leg, bio);
}

void dmu_route_set(struct dmu_io *io, const struct dmu_attr *attr, u64 physical, u32 flags)
{
	io->route = (struct dmu_route) {
		.dest = { attr->dest, attr->mirror },
		.physical = { physical, physical + attr->distance },
		.number = attr->dest->number,
		.flags = flags | (attr->tell ? DMU_MAP_TELL : 0),
	};
}

static void return_work(struct work_struct *work)
{
	unsigned int flags = memalloc_noio_save();

	dmu_miss_return(container_of(work, struct dmu_io, work));
	memalloc_noio_restore(flags);
}

blk_status_t dmu_route_status(const struct dmu_route *route)
{
	return route->status[0] ? route->status[0] : route->status[1];
}

/* All that was to be done is. May be called in an interrupt. */
void dmu_route_ended(struct dmu_io *io)
{
	blk_status_t status = dmu_route_status(&io->route);

	if (io->route.flags & DMU_MAP_RETURN || (status && io->route.flags & DMU_MAP_TELL)) {
		io->returned = true;
		INIT_WORK(&io->work, return_work);
		queue_work(io->key->wq, &io->work);
	} else if (!status && bio_op(io->bio) == REQ_OP_WRITE) {
		dmu_io_written(io);
	} else {
		dmu_io_end(io, status);
	}
}

static void leg_ended(struct bio *bio)
{
	struct leg *leg = container_of(bio, struct leg, bio);
	struct dmu_io *io = leg->of;

	io->route.status[leg->index] = bio->bi_status;
	bio_put(bio);
	if (atomic_dec_and_test(&io->holders))
		dmu_route_ended(io);
}

/* A pool for each of the two: whoever waits for the second has only the first in hand. */
static struct leg *make_leg(struct dmu_io *io, unsigned int index, gfp_t gfp)
{
	struct dmu_dest *dest = io->route.dest[index];
	struct bio *bio = bio_alloc_clone(dest->bdev ? dest->bdev : io->bio->bi_bdev, io->bio, gfp,
					  &dmu_leg_bios[index]);
	struct leg *leg;

	if (!bio)
		return NULL;
	bio->bi_opf &= ~(REQ_PREFLUSH | REQ_NOWAIT | REQ_POLLED);
	bio->bi_end_io = leg_ended;
	leg = container_of(bio, struct leg, bio);
	leg->of = io;
	leg->index = index;
	dmu_io_init(&leg->io, io->key, bio, io->bio);
	leg->io.is_leg = true;
	return leg;
}

static void send_leg(struct leg *leg)
{
	struct dmu_route *route = &leg->of->route;

	dmu_io_issue(&leg->io, route->dest[leg->index], route->physical[leg->index]);
}

/*
 * Sends a read or a write on its route, the phase held. false: no memory, and
 * nothing has been sent.
 */
bool dmu_route_send(struct dmu_io *io, gfp_t gfp)
{
	bool both = io->route.dest[1] && op_is_write(bio_op(io->bio));
	struct leg *first = make_leg(io, 0, gfp), *second = NULL;

	if (!first)
		return false;
	if (both) {
		second = make_leg(io, 1, gfp);
		if (!second) {
			bio_put(&first->bio);
			return false;
		}
	}
	atomic_set(&io->holders, both ? 2 : 1);
	io->returned = false;
	/* With the last one the request may end. */
	send_leg(first);
	if (both)
		send_leg(second);
	return true;
}

static void route_work(struct work_struct *work)
{
	struct dmu_io *io = container_of(work, struct dmu_io, work);
	unsigned int flags = memalloc_noio_save();

	if (dmu_io_is_trim(io))
		dmu_trim_route(io);
	else
		dmu_route_send(io, GFP_NOIO);
	memalloc_noio_restore(flags);
}

/* The same, or a discard or write-zeroes, from a worker. */
void dmu_route_queue(struct dmu_io *io)
{
	INIT_WORK(&io->work, route_work);
	queue_work(io->key->wq, &io->work);
}
