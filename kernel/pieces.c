// SPDX-License-Identifier: GPL-2.0
/* Parts of a request that go ways of their own. */
#include "dmu.h"

struct dmu_piece {
	struct dmu_io io;
	struct bio bio;
};

unsigned int dmu_piece_front_pad(void)
{
	return offsetof(struct dmu_piece, bio);
}

static void piece_ended(struct bio *bio)
{
	struct dmu_piece *piece = container_of(bio, struct dmu_piece, bio);
	struct bio *parent = piece->io.parent;

	if (bio->bi_status && !parent->bi_status)
		parent->bi_status = bio->bi_status;
	dmu_phase_put(piece->io.key, &piece->io.phase);
	bio_put(bio);
	bio_endio(parent);
}

static struct dmu_io *make_piece(struct dmu_io *io, struct bio *bio)
{
	struct dmu_piece *piece = container_of(bio, struct dmu_piece, bio);

	bio->bi_end_io = piece_ended;
	dmu_io_init(&piece->io, io->key, bio, io->bio);
	piece->io.flush_after = io->flush_after;
	return &piece->io;
}

/*
 * Cuts the first sectors off as a request of its own; io is what remains, and
 * ends when the piece has ended too. The phase stays with io.
 */
struct dmu_io *dmu_io_split(struct dmu_io *io, u64 sectors)
{
	struct bio *bio = bio_split(io->bio, sectors, GFP_NOIO, &dmu_bios);

	bio_inc_remaining(io->bio);
	return make_piece(io, bio);
}

/*
 * All that remains of a request that has been cut, with its phase: a bio does
 * not end before its pieces, which may wait for the mapper, while a phase is
 * held for as long as its I/O takes and no longer.
 */
struct dmu_io *dmu_io_rest(struct dmu_io *io)
{
	struct dmu_io *rest = make_piece(io, bio_alloc_clone(io->bio->bi_bdev, io->bio, GFP_NOIO, &dmu_bios));

	swap(rest->phase, io->phase);
	return rest;
}
