/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long things took, lately: counts in buckets a quarter of a power of two
 * wide. The caller keeps others out. Plain C, so that it can be tried outside
 * of the kernel.
 */
#ifndef DMU_LATENCY_H
#define DMU_LATENCY_H

#include "map_env.h"

#define DMU_LATENCY_BUCKETS	128

struct dmu_latency {
	u16 count[DMU_LATENCY_BUCKETS];
	unsigned int sum;	/* of the counts */
};

/* Old ones lose weight as new ones come. */
void dmu_latency_add(struct dmu_latency *latency, u64 microseconds);

/* So many percent of them took no longer, in microseconds, to within a quarter; 0: there are none. */
u64 dmu_latency_percentile(const struct dmu_latency *latency, unsigned int percent);

#endif /* DMU_LATENCY_H */
