// SPDX-License-Identifier: GPL-2.0
/* The extent map's allocator in userspace; not part of the module. */
#include "map_env.h"

long dmu_map_test_fail_after = -1;

void *dmu_map_test_alloc(size_t size)
{
	if (!dmu_map_test_fail_after)
		return NULL;
	if (dmu_map_test_fail_after > 0)
		dmu_map_test_fail_after--;
	return malloc(size);
}
