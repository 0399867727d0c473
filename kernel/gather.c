// SPDX-License-Identifier: GPL-2.0
/*
 * The data of a first write, sent in one piece where it can be: what comes
 * before the request in its grains, the request's own pages, what comes
 * after. Zeros are the zero page; what is copied is read first.
 */
#include <linux/uio.h>

#include "dmu.h"

#define FILE_PIECES	1024	/* of memory in one write */
#define KEPT_PAGES	512

/*
 * Pages to copy through are kept for the next copy: many kernels clear what
 * they allocate, which costs as much as the copy.
 */
static DEFINE_SPINLOCK(kept_lock);
static struct page *kept[KEPT_PAGES];
static unsigned int kept_count;

static struct page *get_page_kept(void)
{
	struct page *page = NULL;
	unsigned long flags;

	spin_lock_irqsave(&kept_lock, flags);
	if (kept_count)
		page = kept[--kept_count];
	spin_unlock_irqrestore(&kept_lock, flags);
	return page ? page : alloc_page(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
}

static void put_page_kept(struct page *page)
{
	unsigned long flags;

	spin_lock_irqsave(&kept_lock, flags);
	if (kept_count < KEPT_PAGES) {
		kept[kept_count++] = page;
		page = NULL;
	}
	spin_unlock_irqrestore(&kept_lock, flags);
	if (page)
		__free_page(page);
}

void dmu_gather_exit(void)
{
	while (kept_count)
		__free_page(kept[--kept_count]);
}

/* What is written where that is more than the request. */
struct dmu_gather {
	unsigned int room;
	unsigned int count;
	unsigned int own_from, own_to;	/* between these: the request's pages */
	struct bio_vec vec[];
};

static void gather_free(struct dmu_gather *gather)
{
	unsigned int i;

	if (!gather)
		return;
	for (i = 0; i < gather->count; i++)
		if ((i < gather->own_from || i >= gather->own_to) && gather->vec[i].bv_page != ZERO_PAGE(0))
			put_page_kept(gather->vec[i].bv_page);
	kfree(gather);
}

static struct bio_vec *add(struct dmu_gather *gather, struct page *page, unsigned int length, unsigned int offset)
{
	struct bio_vec *vec = &gather->vec[gather->count++];

	vec->bv_page = page;
	vec->bv_len = length;
	vec->bv_offset = offset;
	return vec;
}

static int add_zeros(struct dmu_gather *gather, u64 sectors)
{
	u64 bytes = sectors << SECTOR_SHIFT;

	while (bytes) {
		unsigned int now = min_t(u64, bytes, PAGE_SIZE);

		if (gather->count == gather->room)
			return -E2BIG;
		add(gather, ZERO_PAGE(0), now, 0);
		bytes -= now;
	}
	return 0;
}

static int add_copy(struct dmu_gather *gather, struct dmu_dest *from, u64 source, u64 sectors)
{
	u64 bytes = sectors << SECTOR_SHIFT;
	unsigned int first = gather->count;

	while (bytes) {
		unsigned int now = min_t(u64, bytes, PAGE_SIZE);
		struct page *page;

		if (gather->count == gather->room)
			return -E2BIG;
		page = get_page_kept();
		if (!page)
			return -ENOMEM;
		add(gather, page, now, 0);
		bytes -= now;
	}
	while (first < gather->count) {
		unsigned int count = min(gather->count - first, (unsigned int)BIO_MAX_VECS), i;
		int error;

		for (i = 0; i < count; i++)
			bytes += gather->vec[first + i].bv_len;
		error = dmu_rw_pages(from, false, source, &gather->vec[first], count, bytes);
		if (error)
			return error;
		source += bytes >> SECTOR_SHIFT;
		first += count;
		bytes = 0;
	}
	return 0;
}

/* What the map holds in a part of the grains; past the device's end there are zeros. */
static int add_ground(struct dmu_gather *gather, struct dmu_miss *miss, u64 start, u64 stop)
{
	int error = 0;

	while (start < stop && !error) {
		u64 run, value = dmu_look_up(miss->key, start, &run);
		const struct dmu_attr *attr = dmu_attr(miss->key, value);
		u64 now = min(run, stop - start);

		if (start > miss->last)
			return add_zeros(gather, stop - start);
		now = min(now, miss->last + 1 - start);
		if (attr->kind == DMU_KIND_COW)
			error = add_copy(gather, attr->dest, dmu_value_physical(value), now);
		else if (attr->kind == DMU_KIND_ZERO)
			error = add_zeros(gather, now);
		else
			return -ESTALE;
		start += now;
	}
	return error;
}

static int add_request(struct dmu_gather *gather, struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec vec;

	gather->own_from = gather->count;
	gather->own_to = gather->room;
	bio_for_each_bvec(vec, bio, iter) {
		if (gather->count == gather->room)
			return -E2BIG;
		add(gather, vec.bv_page, vec.bv_len, vec.bv_offset);
	}
	gather->own_to = gather->count;
	return 0;
}

/* Space that reads as zeros already needs none written: how much at the edges must be. */
static void trim_edges(struct dmu_miss *miss, struct dmu_io *io, u64 *from, u64 *to)
{
	u64 at = *from, run;

	if (!miss->reads_zero)
		return;
	while (at < dmu_io_start(io) && dmu_attr(miss->key, dmu_look_up(miss->key, at, &run))->kind == DMU_KIND_ZERO)
		at += run;
	*from = min(at, dmu_io_start(io));
	*to = dmu_io_stop(io);
	for (at = *to; at <= miss->last; at += run)
		if (dmu_attr(miss->key, dmu_look_up(miss->key, at, &run))->kind != DMU_KIND_ZERO)
			*to = min(at + run, miss->last + 1);
}

static unsigned int count_pieces(struct dmu_io *io, u64 sectors)
{
	/* Extents that do not end at pages make some more: then it goes piecemeal. */
	return DIV_ROUND_UP_ULL(sectors, PAGE_SECTORS) + bio_segments(io->bio) + 4;
}

/* -E2BIG, -ENOMEM: it has to be done piecemeal. */
static int gather_all(struct dmu_miss *miss, struct dmu_io *io, u64 from, u64 to)
{
	unsigned int room = count_pieces(io, to - from - bio_sectors(io->bio));
	struct dmu_gather *gather;
	int error;

	if (room > (miss->dest->bdev ? BIO_MAX_VECS : FILE_PIECES))
		return -E2BIG;
	gather = kmalloc(struct_size(gather, vec, room), GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!gather)
		return -ENOMEM;
	gather->room = room;
	gather->count = 0;
	gather->own_from = gather->own_to = room;
	error = add_ground(gather, miss, from, dmu_io_start(io));
	if (!error)
		error = add_request(gather, io->bio);
	if (!error)
		error = add_ground(gather, miss, dmu_io_stop(io), to);
	if (error)
		gather_free(gather);
	else
		miss->gather = gather;
	return error;
}

/* ------------------------------------------------------------ writing --- */

static void written(struct dmu_miss *miss, int error)
{
	gather_free(miss->gather);
	miss->gather = NULL;
	dmu_fill_written(miss, error);
}

static void device_written(struct bio *bio)
{
	struct dmu_miss *miss = bio->bi_private;
	int error = blk_status_to_errno(bio->bi_status);

	bio_put(bio);
	written(miss, error);
}

static void write_device(struct dmu_miss *miss, struct dmu_io *io, u64 physical)
{
	struct block_device *bdev = miss->dest->bdev;
	struct dmu_gather *gather = miss->gather;
	struct bio *bio;
	unsigned int i;

	if (gather) {
		bio = bio_alloc_bioset(bdev, gather->count, REQ_OP_WRITE | (io->bio->bi_opf & REQ_SYNC), GFP_NOIO,
				       &dmu_fill_bios);
		for (i = 0; i < gather->count; i++)
			__bio_add_page(bio, gather->vec[i].bv_page, gather->vec[i].bv_len, gather->vec[i].bv_offset);
	} else {
		bio = bio_alloc_clone(bdev, io->bio, GFP_NOIO, &dmu_fill_bios);
		bio->bi_opf &= ~(REQ_FUA | REQ_PREFLUSH);
	}
	bio->bi_iter.bi_sector = physical;
	bio->bi_private = miss;
	bio->bi_end_io = device_written;
	submit_bio_noacct(bio);
}

static void file_done(struct dmu_miss *miss)
{
	long result = miss->result;

	dmu_write_end(miss->dest->file);
	if (result == miss->bytes)
		written(miss, 0);
	else
		/* Cut short, or no direct I/O here: again, piecemeal. */
		written(miss, result >= 0 || result == -ENOTBLK ? -E2BIG : result);
}

static void file_complete(struct kiocb *iocb, long result)
{
	struct dmu_miss *miss = container_of(iocb, struct dmu_miss, iocb);

	miss->result = result;
	if (atomic_dec_and_test(&miss->holders))
		file_done(miss);
}

static void write_file(struct dmu_miss *miss, struct dmu_io *io, u64 physical)
{
	struct kiocb *iocb = &miss->iocb;
	struct iov_iter iter;
	ssize_t result;

	if (miss->gather) {
		unsigned int i;

		for (i = 0, miss->bytes = 0; i < miss->gather->count; i++)
			miss->bytes += miss->gather->vec[i].bv_len;
		iov_iter_bvec(&iter, WRITE, miss->gather->vec, miss->gather->count, miss->bytes);
	} else {
		miss->bytes = io->bio->bi_iter.bi_size;
		dmu_bio_to_iter(io->bio, &iter);
	}
	memset(iocb, 0, sizeof(*iocb));
	iocb->ki_filp = miss->dest->file;
	iocb->ki_pos = physical << SECTOR_SHIFT;
	iocb->ki_complete = file_complete;
	iocb->ki_ioprio = bio_prio(io->bio);
	iocb->ki_flags = IOCB_WRITE | (dmu_dest_direct(miss->dest) ? IOCB_DIRECT : 0);
	/* As in file.c: the kiocb outlives both the submission and the completion. */
	atomic_set(&miss->holders, 2);
	dmu_write_begin(miss->dest->file);
	result = miss->dest->file->f_op->write_iter(iocb, &iter);
	if (result != -EIOCBQUEUED)
		file_complete(iocb, result);
	if (atomic_dec_and_test(&miss->holders))
		file_done(miss);
}

/*
 * Starts the write of all that the grains need; dmu_fill_written() follows.
 * -E2BIG, -ENOMEM: nothing has been started, it has to be done piecemeal;
 * other errors: of reading what surrounds the request.
 */
int dmu_write_gathered(struct dmu_miss *miss)
{
	struct dmu_io *io = miss->primary;
	u64 from = miss->start, to = miss->start + miss->space;
	int error = 0;

	trim_edges(miss, io, &from, &to);
	if (from < dmu_io_start(io) || to > dmu_io_stop(io))
		error = gather_all(miss, io, from, to);
	if (error)
		return error;
	if (miss->dest->bdev)
		write_device(miss, io, miss->physical + (from - miss->start));
	else
		write_file(miss, io, miss->physical + (from - miss->start));
	return 0;
}
