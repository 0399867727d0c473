// SPDX-License-Identifier: GPL-2.0
/* Where the tests at random begin: see kunit_random.h. */
#include <linux/module.h>
#include <linux/random.h>

#include "kunit_random.h"

static uint seed;
module_param(seed, uint, 0);
MODULE_PARM_DESC(seed, "of the random tests; 0: any");

/* There are kernels that run suites before they look at a module's parameters. */
static u32 seed_given(void)
{
	const char *given = strstr(THIS_MODULE->args, "seed=");
	u32 now = seed;

	if (!now && given)
		sscanf(given, "seed=%u", &now);
	return now;
}

void rig_random(struct kunit *test, struct rnd_state *random)
{
	u32 now = seed_given();

	if (!now)
		now = get_random_u32();
	kunit_info(test, "seed %u", now);
	prandom_seed_state(random, now);
}
