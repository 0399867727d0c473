// SPDX-License-Identifier: GPL-2.0
/* What all devices share: memory for when there is none, and the tracepoints. */
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

int dmu_pools_init(void)
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

void dmu_pools_exit(void)
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
