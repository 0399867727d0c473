/* SPDX-License-Identifier: GPL-2.0 */
/* Tests at random, in the kernel: a seed repeats them. */
#ifndef DMU_KUNIT_RANDOM_H
#define DMU_KUNIT_RANDOM_H

#include <kunit/test.h>
#include <linux/prandom.h>

/* Begins with the module's parameter "seed", or any; prints it. */
void rig_random(struct kunit *test, struct rnd_state *random);

static inline u32 rig_below(struct rnd_state *random, u32 limit)
{
	return prandom_u32_state(random) % limit;
}

#endif /* DMU_KUNIT_RANDOM_H */
