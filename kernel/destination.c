// SPDX-License-Identifier: GPL-2.0
/* Destinations: open files and block devices that the mapper has handed over. */
#include <linux/file.h>
#include <linux/stat.h>

#include "dmu.h"

u64 dmu_dest_sectors(const struct dmu_dest *dest)
{
	if (dest->bdev)
		return bdev_nr_sectors(dest->bdev);
	return DIV_ROUND_UP_ULL(i_size_read(file_inode(dest->file)), SECTOR_SIZE);
}

int dmu_dest_sync(struct dmu_dest *dest)
{
	if (dest->flags & (DMU_DEST_READ_ONLY | DMU_DEST_HOLD))
		return 0;
	if (dest->bdev)
		return blkdev_issue_flush(dest->bdev);
	return vfs_fsync_range(dest->file, 0, LLONG_MAX, 1);
}

/* All that was written to them before is durable, or failed is the first of which it is not. */
int dmu_dest_sync_all(struct dmu_key *key, u32 *failed)
{
	struct dmu_dest *dest;
	unsigned long number;
	u8 phase = DMU_NO_PHASE;
	int error = 0;

	/* A destination is freed only after the phase has ended. */
	dmu_phase_get(key, &phase);
	xa_for_each(&key->dests, number, dest) {
		int now = dmu_dest_sync(dest);

		if (now && !error) {
			error = now;
			*failed = number;
		}
	}
	dmu_phase_put(key, &phase);
	return error;
}

void dmu_dest_free(struct dmu_dest *dest)
{
	if (dest->writer)
		kthread_destroy_worker(dest->writer);
	fput(dest->file);
	kfree(dest);
}

static bool is_on(const struct dmu_dest *dest, struct mapped_device *md)
{
	struct block_device *bdev = dest->bdev ? dest->bdev : file_inode(dest->file)->i_sb->s_bdev;

	return bdev && md && bdev->bd_disk == dm_disk(md);
}

/* I/O to what stands on the device itself would wait for itself. */
bool dmu_dest_any_on(struct dmu_key *key, struct mapped_device *md)
{
	struct dmu_dest *dest;
	unsigned long number;

	lockdep_assert_held(&key->control);
	xa_for_each(&key->dests, number, dest)
		if (is_on(dest, md))
			return true;
	return false;
}

static int examine(struct dmu_key *key, struct dmu_dest *dest)
{
	struct inode *inode = file_inode(dest->file);
	struct kstat stat;

	if (S_ISBLK(inode->i_mode)) {
		dest->bdev = I_BDEV(dest->file->f_mapping->host);
		dest->flags |= DMU_DEST_BLOCK;
		dest->flags &= ~DMU_DEST_BUFFERED;
		dest->alignment = bdev_logical_block_size(dest->bdev);
	} else if (!S_ISREG(inode->i_mode) || IS_SWAPFILE(inode)) {
		return -EINVAL;
	}
	if (is_on(dest, key->md))
		return -EINVAL;
	if (dest->flags & DMU_DEST_HOLD)
		return 0;
	if (!(dest->file->f_mode & FMODE_READ))
		return -EBADF;
	if (!(dest->flags & DMU_DEST_READ_ONLY) && !(dest->file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (dest->bdev)
		return 0;
	if (!dest->file->f_op->read_iter || !dest->file->f_op->write_iter)
		return -EINVAL;
	dest->alignment = inode->i_sb->s_bdev ? bdev_logical_block_size(inode->i_sb->s_bdev) : SECTOR_SIZE;
	if (!vfs_getattr(&dest->file->f_path, &stat, STATX_DIOALIGN, 0) && stat.result_mask & STATX_DIOALIGN) {
		if (stat.dio_offset_align)
			dest->alignment = stat.dio_offset_align;
		else
			dest->flags |= DMU_DEST_BUFFERED;
	}
	if (!(dest->file->f_mode & FMODE_CAN_ODIRECT))
		dest->flags |= DMU_DEST_BUFFERED;
	if (dest->flags & DMU_DEST_BUFFERED)
		dest->alignment = 1;
	return 0;
}

static int start_writer(struct dmu_key *key, struct dmu_dest *dest)
{
	if (!(dest->flags & DMU_DEST_BUFFERED) || dest->flags & (DMU_DEST_READ_ONLY | DMU_DEST_HOLD))
		return 0;
	dest->writer = kthread_create_worker(0, "dmu/%u", dest->number);
	if (!IS_ERR(dest->writer))
		return 0;
	dest->writer = NULL;
	return -ENOMEM;
}

static void describe(const struct dmu_dest *dest, struct dmu_destination *wire)
{
	wire->flags = dest->flags;
	wire->alignment = dest->alignment;
	wire->sectors = dmu_dest_sectors(dest);
	wire->cookie = dest->cookie;
}

int dmu_dest_add(struct dmu_key *key, struct dmu_destination *wire)
{
	struct dmu_dest *dest;
	int error;

	lockdep_assert_held(&key->control);
	if (wire->number >= DMU_DESTINATIONS ||
	    wire->flags & ~(DMU_DEST_READ_ONLY | DMU_DEST_BUFFERED | DMU_DEST_HOLD))
		return -EINVAL;
	dest = kzalloc(sizeof(*dest), GFP_KERNEL);
	if (!dest)
		return -ENOMEM;
	dest->number = wire->number;
	dest->flags = wire->flags;
	dest->cookie = wire->cookie;
	dest->file = fget(wire->fd);
	error = -EBADF;
	if (!dest->file)
		goto bad_file;
	error = examine(key, dest);
	if (!error)
		error = start_writer(key, dest);
	if (error)
		goto bad;
	error = xa_insert(&key->dests, dest->number, dest, GFP_KERNEL);
	if (error) {
		error = error == -EBUSY ? -EEXIST : error;
		goto bad;
	}
	key->dest_count++;
	describe(dest, wire);
	return 0;

bad:
	dmu_dest_free(dest);
	return error;
bad_file:
	kfree(dest);
	return error;
}

int dmu_dest_describe(struct dmu_key *key, struct dmu_destination *wire, struct file **file)
{
	struct dmu_dest *dest = xa_load(&key->dests, wire->number);

	lockdep_assert_held(&key->control);
	if (!dest)
		return -ENOENT;
	describe(dest, wire);
	wire->fd = -1;
	if (!file)
		return 0;
	wire->fd = get_unused_fd_flags(O_CLOEXEC);
	if (wire->fd < 0)
		return wire->fd;
	*file = get_file(dest->file);
	return 0;
}

static bool is_mapped(struct dmu_key *key, struct dmu_dest *dest)
{
	u64 at = 0, run;

	for (; at < ~0ull; at += run) {
		u64 value = dmu_look_up(key, at, &run);

		if (value != DMU_VALUE_NONE &&
		    (dmu_attr(key, value)->dest == dest || dmu_attr(key, value)->mirror == dest))
			return true;
		cond_resched();
	}
	return false;
}

int dmu_dest_remove(struct dmu_key *key, u32 number)
{
	struct dmu_dest *dest = xa_load(&key->dests, number);
	bool used;

	lockdep_assert_held(&key->control);
	if (!dest)
		return -ENOENT;
	spin_lock_irq(&key->lock);
	used = dmu_miss_uses(key, dest) || dmu_lease_uses(key, dest);
	spin_unlock_irq(&key->lock);
	/* Extents come only by commands, which key->control keeps out, and from leases and fills. */
	if (used || is_mapped(key, dest))
		return -EBUSY;
	xa_erase(&key->dests, number);
	key->dest_count--;
	/* What found it before must end first. */
	dmu_drain_wait(key);
	dmu_dest_free(dest);
	return 0;
}
