/* SPDX-License-Identifier: GPL-2.0 */
/* Every difference between kernel versions is here. */
#ifndef DMU_COMPAT_H
#define DMU_COMPAT_H

#include <linux/blkdev.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)
#define dmu_set_max_discard(limits, sectors) ((limits)->max_discard_sectors = (sectors))
#else
#define dmu_set_max_discard(limits, sectors) ((limits)->max_hw_discard_sectors = (sectors))
#endif

/*
 * Freeze protection of an asynchronous write: taken here, given back where it
 * completes, maybe by another task. (A helper of the kernel's own has it only
 * from 6.6 on, and never with a trylock.)
 */
static inline void dmu_freeze_disown(struct super_block *sb)
{
	__sb_writers_release(sb, SB_FREEZE_WRITE);
}

static inline void dmu_write_begin(struct file *file)
{
	struct super_block *sb = file_inode(file)->i_sb;

	sb_start_write(sb);
	dmu_freeze_disown(sb);
}

static inline bool dmu_write_try_begin(struct file *file)
{
	struct super_block *sb = file_inode(file)->i_sb;

	if (!sb_start_write_trylock(sb))
		return false;
	dmu_freeze_disown(sb);
	return true;
}

static inline void dmu_write_end(struct file *file)
{
	struct super_block *sb = file_inode(file)->i_sb;

	__sb_writers_acquired(sb, SB_FREEZE_WRITE);
	sb_end_write(sb);
}

/* Direct writes whose completion wants a task: from 6.6 on a file system leaves it to who asks for that. */
#ifdef IOCB_DIO_CALLER_COMP
#define DMU_CALLER_COMPLETES IOCB_DIO_CALLER_COMP

static inline bool dmu_is_left_to_us(const struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_DIO_CALLER_COMP && iocb->dio_complete;
}

static inline long dmu_complete_for(struct kiocb *iocb)
{
	long result = iocb->dio_complete(iocb->private);

	iocb->dio_complete = NULL;
	return result;
}
#else
#define DMU_CALLER_COMPLETES 0

static inline bool dmu_is_left_to_us(const struct kiocb *iocb)
{
	return false;
}

static inline long dmu_complete_for(struct kiocb *iocb)
{
	return -EIO;
}
#endif

typedef unsigned long dmu_shrinker_fn(struct shrinker *shrinker, struct shrink_control *control);

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
static inline struct shrinker *dmu_shrinker_register(dmu_shrinker_fn *count, dmu_shrinker_fn *scan, int seeks)
{
	struct shrinker *shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);
	int error;

	if (!shrinker)
		return ERR_PTR(-ENOMEM);
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = seeks;
	error = register_shrinker(shrinker, "dm-userspace");
	if (!error)
		return shrinker;
	kfree(shrinker);
	return ERR_PTR(error);
}

static inline void dmu_shrinker_free(struct shrinker *shrinker)
{
	unregister_shrinker(shrinker);
	kfree(shrinker);
}
#else
static inline struct shrinker *dmu_shrinker_register(dmu_shrinker_fn *count, dmu_shrinker_fn *scan, int seeks)
{
	struct shrinker *shrinker = shrinker_alloc(0, "dm-userspace");

	if (!shrinker)
		return ERR_PTR(-ENOMEM);
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = seeks;
	shrinker_register(shrinker);
	return shrinker;
}

static inline void dmu_shrinker_free(struct shrinker *shrinker)
{
	shrinker_free(shrinker);
}
#endif

#endif /* DMU_COMPAT_H */
