/* SPDX-License-Identifier: GPL-2.0 */
/* What the extent map needs of its surroundings: the kernel, or plain C. */
#ifndef DMU_MAP_ENV_H
#define DMU_MAP_ENV_H

#ifdef __KERNEL__

#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/irqflags.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include <linux/types.h>

#define dmu_map_alloc(size, gfp)	kmalloc(size, gfp)
#define dmu_map_free_later(node)	kfree_rcu(node, rcu)
#define dmu_map_free_now(node)		kfree(node)
/*
 * Readers who are there now are gone when the state is over; state_begin() sees to it that
 * it ends, but for where interrupts are off.
 */
#define dmu_map_state()			get_state_synchronize_rcu()
#define dmu_map_state_begin()		(irqs_disabled() ? dmu_map_state() : start_poll_synchronize_rcu())
#define dmu_map_is_unseen(state)	poll_state_synchronize_rcu(state)
/* The updater holds its lock, a reader RCU: both may follow a pointer. */
#define dmu_map_follow(pointer)		rcu_dereference_check(pointer, 1)
#define dmu_map_publish(slot, node)	rcu_assign_pointer(slot, node)
/* What it is is not to be known by the compiler. */
#define dmu_map_hide(variable)		OPTIMIZER_HIDE_VAR(variable)

#else

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef uint16_t u16;
typedef unsigned int gfp_t;
struct rcu_head {
	void *unused[2];
};

#define __rcu
#define GFP_KERNEL			0u
#define min(a, b)			((a) < (b) ? (a) : (b))
#define dmu_map_alloc(size, gfp)	((void)(gfp), dmu_map_test_alloc(size))
#define dmu_map_free_later(node)	free(node)
#define dmu_map_free_now(node)		free(node)
#define dmu_map_state()			0ul
#define dmu_map_state_begin()		0ul
#define dmu_map_is_unseen(state)	(!(state) && dmu_map_test_fail_after < 0)
#define dmu_map_follow(pointer)		(pointer)
#define dmu_map_publish(slot, node)	((slot) = (node))
#define dmu_map_hide(variable)		((void)(variable))

/* Tests make allocations fail with it; where they don't, it is malloc(). */
#ifdef __cplusplus
extern "C" {
#endif
extern long dmu_map_test_fail_after;	/* this many succeed, and nothing is kept; -1: all */
void *dmu_map_test_alloc(size_t size);
#ifdef __cplusplus
}
#endif

#endif /* __KERNEL__ */
#endif /* DMU_MAP_ENV_H */
