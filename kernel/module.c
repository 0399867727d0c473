// SPDX-License-Identifier: GPL-2.0
/* What all devices share, and the module. */
#include <linux/module.h>

#include "dmu.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

struct workqueue_struct *dmu_wq;
struct bio_set dmu_bios;
struct bio_set dmu_sync_bios;
struct bio_set dmu_fill_bios;
struct bio_set dmu_leg_bios[2];
mempool_t dmu_miss_pool;
mempool_t dmu_page_pool;

static int init_pools(void)
{
	int error = bioset_init(&dmu_bios, 64, dmu_piece_front_pad(), 0);

	if (error)
		return error;
	error = bioset_init(&dmu_sync_bios, 64, 0, BIOSET_NEED_BVECS);
	if (error)
		goto bad_sync;
	error = bioset_init(&dmu_fill_bios, 64, 0, BIOSET_NEED_BVECS);
	if (error)
		goto bad_fill;
	error = bioset_init(&dmu_leg_bios[0], 64, dmu_leg_front_pad(), 0);
	if (error)
		goto bad_first;
	error = bioset_init(&dmu_leg_bios[1], 64, dmu_leg_front_pad(), 0);
	if (error)
		goto bad_second;
	error = mempool_init_kmalloc_pool(&dmu_miss_pool, 64, sizeof(struct dmu_miss));
	if (error)
		goto bad_miss;
	error = mempool_init_page_pool(&dmu_page_pool, 64, 0);
	if (!error)
		return 0;
	mempool_exit(&dmu_miss_pool);
bad_miss:
	bioset_exit(&dmu_leg_bios[1]);
bad_second:
	bioset_exit(&dmu_leg_bios[0]);
bad_first:
	bioset_exit(&dmu_fill_bios);
bad_fill:
	bioset_exit(&dmu_sync_bios);
bad_sync:
	bioset_exit(&dmu_bios);
	return error;
}

static void exit_pools(void)
{
	dmu_gather_exit();
	mempool_exit(&dmu_page_pool);
	mempool_exit(&dmu_miss_pool);
	bioset_exit(&dmu_leg_bios[1]);
	bioset_exit(&dmu_leg_bios[0]);
	bioset_exit(&dmu_fill_bios);
	bioset_exit(&dmu_sync_bios);
	bioset_exit(&dmu_bios);
}

static int __init userspace_init(void)
{
	int error = init_pools();

	if (error)
		return error;
	error = -ENOMEM;
	dmu_file_init();
	dmu_wq = alloc_workqueue("dmu", WQ_MEM_RECLAIM, 0);
	if (!dmu_wq)
		goto bad_wq;
	error = dmu_channel_init();
	if (error)
		goto bad_channel;
	error = dm_register_target(&dmu_target_type);
	if (error)
		goto bad_target;
	return 0;

bad_target:
	dmu_channel_exit();
bad_channel:
	destroy_workqueue(dmu_wq);
bad_wq:
	exit_pools();
	return error;
}

static void __exit userspace_exit(void)
{
	dm_unregister_target(&dmu_target_type);
	dmu_channel_exit();
	destroy_workqueue(dmu_wq);
	exit_pools();
	/* Map nodes and keys may still be on their way through RCU. */
	rcu_barrier();
}

module_init(userspace_init);
module_exit(userspace_exit);

MODULE_DESCRIPTION("Device-mapper target whose map is made by a process");
MODULE_AUTHOR("dm-userspace developers");
MODULE_LICENSE("GPL");
