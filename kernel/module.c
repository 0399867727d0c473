// SPDX-License-Identifier: GPL-2.0
/* The module. */
#include <linux/module.h>

#include "dmu.h"

static int __init userspace_init(void)
{
	int error = dmu_pools_init();

	if (error)
		return error;
	error = -ENOMEM;
	dmu_wq = alloc_workqueue("dmu", WQ_MEM_RECLAIM, 0);
	if (!dmu_wq)
		goto bad_wq;
	error = dmu_completions_init();
	if (error)
		goto bad_completions;
	error = dmu_channel_init();
	if (error)
		goto bad_channel;
	error = dmu_shrink_init();
	if (error)
		goto bad_shrink;
	error = dm_register_target(&dmu_target_type);
	if (error)
		goto bad_target;
	return 0;

bad_target:
	dmu_shrink_exit();
bad_shrink:
	dmu_channel_exit();
bad_channel:
	dmu_completions_exit();
bad_completions:
	destroy_workqueue(dmu_wq);
bad_wq:
	dmu_pools_exit();
	return error;
}

static void __exit userspace_exit(void)
{
	dm_unregister_target(&dmu_target_type);
	dmu_shrink_exit();
	dmu_channel_exit();
	dmu_completions_exit();
	destroy_workqueue(dmu_wq);
	dmu_pools_exit();
	/* Map nodes and keys may still be on their way through RCU. */
	rcu_barrier();
}

module_init(userspace_init);
module_exit(userspace_exit);

MODULE_DESCRIPTION("Device-mapper target whose map is made by a process");
MODULE_AUTHOR("dm-userspace developers");
MODULE_LICENSE("GPL");
