// SPDX-License-Identifier: GPL-2.0
/*
 * Regular files below the map: asynchronous direct I/O by the target itself;
 * buffered, by the destination's own thread, where the file has no direct I/O.
 */
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/uio.h>

#include "dmu.h"

/* Larger requests are not worth holding up the submitter. */
#define INLINE_BYTES	(64 * 1024)

static unsigned int bio_vector_count(const struct bio *bio)
{
	const struct bio_vec *bvec = __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter);
	size_t left = bio->bi_iter.bi_size + bio->bi_iter.bi_bvec_done;
	unsigned int count = 0;

	while (left) {
		left -= min_t(size_t, left, bvec[count].bv_len);
		count++;
	}
	return count;
}

void dmu_bio_to_iter(const struct bio *bio, struct iov_iter *iter)
{
	iov_iter_bvec(iter, op_is_write(bio_op(bio)) ? WRITE : READ,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), bio_vector_count(bio), bio->bi_iter.bi_size);
	iter->iov_offset = bio->bi_iter.bi_bvec_done;
}

/* Both submission and completion are done with the request. May be called in an interrupt. */
static void file_over(struct dmu_io *io)
{
	if (dmu_is_left_to_us(&io->iocb))
		dmu_completion_add(io);
	else
		dmu_file_ended(io);
}

/* May be called in an interrupt, and before the submission has returned. */
static void file_complete(struct kiocb *iocb, long result)
{
	struct dmu_io *io = container_of(iocb, struct dmu_io, iocb);

	io->result = result;
	if (atomic_dec_and_test(&io->holders))
		file_over(io);
}

static ssize_t call_file(struct dmu_io *io, int flags)
{
	struct bio *bio = io->bio;
	struct file *file = io->dest->file;
	struct kiocb *iocb = &io->iocb;
	struct iov_iter iter;

	memset(iocb, 0, sizeof(*iocb));
	iocb->ki_filp = file;
	iocb->ki_pos = io->position;
	iocb->ki_complete = file_complete;
	iocb->ki_ioprio = bio_prio(bio);
	iocb->ki_flags = flags;
	if (dmu_dest_direct(io->dest))
		iocb->ki_flags |= IOCB_DIRECT;
	dmu_bio_to_iter(bio, &iter);
	if (!op_is_write(bio_op(bio)))
		return file->f_op->read_iter(iocb, &iter);
	iocb->ki_flags |= IOCB_WRITE | DMU_CALLER_COMPLETES;
	if (bio->bi_opf & REQ_FUA)
		iocb->ki_flags |= IOCB_DSYNC;
	return file->f_op->write_iter(iocb, &iter);
}

/*
 * The file system looks at the kiocb even after it has queued the I/O, which
 * may have completed by then: the request, and the kiocb in it, stays until
 * both the submission and the completion are done with it.
 */
static void submit(struct dmu_io *io, int flags)
{
	ssize_t result;

	atomic_set(&io->holders, 2);
	io->submitter = current;
	result = call_file(io, flags);
	if (result != -EIOCBQUEUED)
		file_complete(&io->iocb, result);
	if (atomic_dec_and_test(&io->holders))
		file_over(io);
}

static void file_work(struct work_struct *work);
static void file_kwork(struct kthread_work *work);

/* Never blocks: a worker, or the file's own thread, goes on with it. */
void dmu_file_issue(struct dmu_io *io)
{
	if (io->dest->writer && op_is_write(bio_op(io->bio))) {
		kthread_init_work(&io->kwork, file_kwork);
		kthread_queue_work(io->dest->writer, &io->kwork);
		return;
	}
	INIT_WORK(&io->work, file_work);
	queue_work(io->key->wq, &io->work);
}

/* May be called in an interrupt. */
void dmu_file_ended(struct dmu_io *io)
{
	struct bio *bio = io->bio;
	long result = io->result;
	bool write = op_is_write(bio_op(bio));

	if (write)
		dmu_write_end(io->dest->file);
	if (result == -EAGAIN && io->iocb.ki_flags & IOCB_NOWAIT) {
		dmu_file_issue(io);
		return;
	}
	if (result == -ENOTBLK)
		result = -EIO;
	if (result > 0 && result < bio->bi_iter.bi_size) {
		/* Cut short: by the file's end, or where an extent of it ended. */
		io->position += result;
		bio_advance(bio, result);
		dmu_file_issue(io);
		return;
	}
	if (!result && !write)
		zero_fill_bio(bio);
	else if (result <= 0)
		bio->bi_status = errno_to_blk_status(result ? result : -EIO);
	if (write)
		dmu_io_written(io);
	else
		dmu_io_end(io, bio->bi_status);
}

static void file_go(struct dmu_io *io)
{
	unsigned int flags = memalloc_noio_save();

	if (op_is_write(bio_op(io->bio)))
		dmu_write_begin(io->dest->file);
	submit(io, 0);
	memalloc_noio_restore(flags);
}

static void file_work(struct work_struct *work)
{
	file_go(container_of(work, struct dmu_io, work));
}

static void file_kwork(struct kthread_work *work)
{
	file_go(container_of(work, struct dmu_io, kwork));
}

/* Another stack of block devices and a file system fits on top; images nest in images. */
static bool has_stack(void)
{
	unsigned long left = (unsigned long)__builtin_frame_address(0) - (unsigned long)task_stack_page(current);

	return left > THREAD_SIZE / 2;
}

/*
 * A file system above us may be of the same type as the one below, and its locks be held:
 * what keeps them apart is the order of the devices, of which lockdep knows nothing.
 */
static void submit_inline(struct dmu_io *io)
{
	/* dm's own is one. */
	bool locks = lockdep_depth(current) > 1;

	if (locks)
		lockdep_off();
	submit(io, IOCB_NOWAIT);
	if (locks)
		lockdep_on();
}

/*
 * From ->map: false where it might block for long. IOCB_NOWAIT does not keep a
 * file system from reading its own metadata and waiting for it (ext4: a block
 * of the extent tree): its bios start at once, for on the submitter's list they
 * would wait for our return while we wait for them. Were there others on that
 * list already, an allocation here could wait for one of those.
 */
int dmu_file_try(struct dmu_io *io)
{
	struct bio *bio = io->bio;
	bool write = op_is_write(bio_op(bio));
	struct bio_list *list = current->bio_list;
	unsigned int flags;

	if (!dmu_dest_direct(io->dest) || bio->bi_iter.bi_size > INLINE_BYTES || bio->bi_opf & REQ_FUA)
		return false;
	if (!(io->dest->file->f_mode & FMODE_NOWAIT) || !has_stack())
		return false;
	if (list && (!bio_list_empty(&list[0]) || !bio_list_empty(&list[1])))
		return false;
	/* A file system in a transaction of its own (ext4 that zeroes inode tables) must not begin another's. */
	if (current->journal_info)
		return false;
	/* The submitter's limit is on its own files: a device has none, but this file would. */
	if (write && rlimit(RLIMIT_FSIZE) != RLIM_INFINITY)
		return false;
	if (write && !dmu_write_try_begin(io->dest->file))
		return false;
	flags = memalloc_noio_save();
	current->bio_list = NULL;
	submit_inline(io);
	current->bio_list = list;
	memalloc_noio_restore(flags);
	return true;
}

static ssize_t rw_iter_once(struct dmu_dest *dest, bool write, loff_t position, struct iov_iter *iter)
{
	struct kiocb iocb;
	ssize_t result;

	init_sync_kiocb(&iocb, dest->file);
	iocb.ki_pos = position;
	iocb.ki_flags = dmu_dest_direct(dest) ? IOCB_DIRECT : 0;
	if (!write)
		return dest->file->f_op->read_iter(&iocb, iter);
	iocb.ki_flags |= IOCB_WRITE;
	dmu_write_begin(dest->file);
	result = dest->file->f_op->write_iter(&iocb, iter);
	dmu_write_end(dest->file);
	return result;
}

/* Whole, or an error; what lies past the end reads as zeros. */
static int rw_iter(struct dmu_dest *dest, bool write, u64 physical, struct iov_iter *iter)
{
	loff_t position = physical << SECTOR_SHIFT;

	while (iov_iter_count(iter)) {
		ssize_t result = rw_iter_once(dest, write, position, iter);

		if (result < 0)
			return result == -ENOTBLK ? -EIO : result;
		if (!result && write)
			return -EIO;
		if (!result) {
			iov_iter_zero(iov_iter_count(iter), iter);
			return 0;
		}
		position += result;
	}
	return 0;
}

/* A bio's data, synchronously; the bio stays as it is. */
int dmu_rw_bio(struct dmu_dest *dest, u64 physical, struct bio *bio)
{
	struct iov_iter iter;
	struct bio *clone;
	int error;

	if (!dest->bdev) {
		dmu_bio_to_iter(bio, &iter);
		return rw_iter(dest, op_is_write(bio_op(bio)), physical, &iter);
	}
	clone = bio_alloc_clone(dest->bdev, bio, GFP_NOIO, &dmu_sync_bios);
	clone->bi_opf &= ~(REQ_FUA | REQ_PREFLUSH);
	clone->bi_iter.bi_sector = physical;
	error = submit_bio_wait(clone);
	bio_put(clone);
	return error;
}

int dmu_rw_pages(struct dmu_dest *dest, bool write, u64 physical, struct bio_vec *pages, unsigned int count,
		 size_t bytes)
{
	struct iov_iter iter;
	struct bio *bio;
	unsigned int i;
	int error;

	if (!dest->bdev) {
		iov_iter_bvec(&iter, write ? WRITE : READ, pages, count, bytes);
		return rw_iter(dest, write, physical, &iter);
	}
	bio = bio_alloc_bioset(dest->bdev, count, write ? REQ_OP_WRITE : REQ_OP_READ, GFP_NOIO, &dmu_sync_bios);
	bio->bi_iter.bi_sector = physical;
	for (i = 0; i < count && bytes; i++) {
		unsigned int length = min_t(size_t, bytes, pages[i].bv_len);

		__bio_add_page(bio, pages[i].bv_page, length, pages[i].bv_offset);
		bytes -= length;
	}
	error = submit_bio_wait(bio);
	bio_put(bio);
	return error;
}
