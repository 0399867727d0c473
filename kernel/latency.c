// SPDX-License-Identifier: GPL-2.0
#include "latency.h"

#define MOST	0xffff	/* what a count can hold; all of them together have no more */

/* 0 to 3 have buckets of their own; then four for each power of two. */
static unsigned int bucket_of(u64 value)
{
	unsigned int power;

	if (value < 4)
		return value;
	power = 63 - __builtin_clzll(value);
	return min(power * 4 - 4 + (unsigned int)((value >> (power - 2)) & 3), DMU_LATENCY_BUCKETS - 1u);
}

static u64 last_of(unsigned int bucket)
{
	if (bucket < 4)
		return bucket;
	return ((5ull + bucket % 4) << (bucket / 4 - 1)) - 1;
}

void dmu_latency_add(struct dmu_latency *latency, u64 microseconds)
{
	unsigned int bucket;

	latency->count[bucket_of(microseconds)]++;
	if (++latency->sum < MOST)
		return;
	latency->sum = 0;
	for (bucket = 0; bucket < DMU_LATENCY_BUCKETS; bucket++) {
		latency->count[bucket] /= 2;
		latency->sum += latency->count[bucket];
	}
}

u64 dmu_latency_percentile(const struct dmu_latency *latency, unsigned int percent)
{
	unsigned int wanted = (latency->sum * percent + 99) / 100, seen = 0, bucket;

	if (!latency->sum)
		return 0;
	for (bucket = 0; bucket < DMU_LATENCY_BUCKETS - 1; bucket++) {
		seen += latency->count[bucket];
		if (seen >= wanted)
			break;
	}
	return last_of(bucket);
}
