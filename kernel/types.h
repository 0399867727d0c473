/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the target share: requests, misses, the log, the key. dmu.h says how they meet. */
#ifndef DMU_TYPES_H
#define DMU_TYPES_H

#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/kref.h>
#include <linux/kthread.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <dm-userspace.h>

#include "compat.h"
#include "latency.h"
#include "map.h"

#define DMU_LOG_DEFAULT		65536
#define DMU_LOG_MAX		(1u << 24)
#define DMU_MAP_MEMORY_MIN	1024	/* KiB: some times what one answer brings */
#define DMU_SUSPEND_SECONDS	10
#define DMU_NO_PHASE		2
#define DMU_POOLS		4096	/* numbers from 1 to this */

struct dmu_key;

struct dmu_dest {
	struct file *file;
	struct block_device *bdev;		/* NULL: a regular file */
	struct kthread_worker *writer;		/* buffered files: who writes */
	u32 number;
	u32 flags;
	u32 alignment;
	u64 cookie;
};

/* What a tag of the map stands for; interned, never changed, freed with the key. */
struct dmu_attr {
	u8 kind;
	bool writable;
	u8 discard;
	u8 zeroes;
	bool tell;			/* what fails there comes back */
	bool ask;			/* LINEAR, not writable: writes are asked for one by one */
	u8 straight;			/* DMU_STRAIGHT_*, made of the rest */
	u32 pool;
	struct dmu_dest *dest;
	struct dmu_dest *mirror;	/* NULL: none */
	u64 distance;			/* from physical to the place on the mirror, modulo 2^64 */
};

/* Its bio itself goes to dest, and nothing else is to be done. */
#define DMU_STRAIGHT_READ	1
#define DMU_STRAIGHT_WRITE	2

#define DMU_ATTR_BLOCK		256
#define DMU_ATTR_BLOCKS		((DMU_TAG_MAX + 1) / DMU_ATTR_BLOCK)

/* Where a request's legs go, and what came of it; see legs.c. */
struct dmu_route {
	struct dmu_dest *dest[2];	/* the second: of a mirror, or NULL */
	u64 physical[2];
	u32 number;			/* of the first: it may be gone when the mapper is told */
	u64 answered;			/* the miss that sent it there, 0: the map did */
	u32 flags;			/* DMU_MAP_RETURN, DMU_MAP_TELL */
	blk_status_t status[2];
};

struct dmu_io {
	struct dmu_key *key;
	struct bio *bio;		/* bi_sector is virtual until the bio is issued */
	struct bio *parent;		/* of a piece cut off: the bio that ends when it has ended */
	struct list_head node;		/* in a miss's, or a list to be woken */
	struct dmu_dest *dest;		/* when issued to a file */
	union {
		u64 position;		/* in it, bytes */
		u64 came;		/* of a flush: nanoseconds */
	};
	union {
		struct kiocb iocb;
		struct dmu_route route;
	};
	atomic_t holders;		/* submission and completion; or legs under way */
	long result;
	union {
		struct work_struct work;
		struct kthread_work kwork;
		struct llist_node completed;	/* see completions.c */
	};
	const struct task_struct *submitter;	/* of iocb; only compared */
	u8 phase;
	bool flush_after;		/* a FUA write that must wait for a commit */
	bool is_leg;			/* of a request, which tells how it ended */
	bool returned;			/* it has been on its route and is back */
};

/* Queued in key->events until read. */
struct dmu_event_node {
	struct list_head list;		/* empty: not queued */
	u8 type;			/* DMU_EV_* */
};

struct dmu_log {
	struct list_head list;
	struct dmu_event_node event;
	u64 sequence;
	u64 start;
	u64 length;
	u64 physical;
	u32 destination;
	u32 kind;
	struct rb_node rb;	/* empty: not in key->shrink.changes */
	u64 subtree_last;
};

/* An event of its own: freed once read. */
struct dmu_note {
	struct dmu_event_node event;
	struct dmu_event wire;
};

enum dmu_miss_state {
	DMU_MISS_WAITING,	/* for the mapper */
	DMU_MISS_LOG,		/* placed; for room in the log */
	DMU_MISS_FILLING,	/* placed; I/O under way */
};

struct dmu_gather;

struct dmu_miss {
	struct dmu_key *key;
	struct rb_node rb;
	u64 start;		/* sectors, whole grains; what waits for it lies in there */
	u64 last;		/* inclusive */
	u64 subtree_last;
	struct hlist_node hash;	/* by id, while WAITING */
	u64 id;
	struct dmu_event_node event;
	struct list_head ios;
	enum dmu_miss_state state;
	u8 op;
	bool ask;		/* on an ASK extent: for one request only */
	bool sequential;
	bool mapped;		/* it was seen where the miss starts: only a place is wanted */
	bool told;		/* the mapper has read of it */
	u64 since;		/* nanoseconds */
	u32 flags;		/* DMU_MISS_*, from RETURNED on */
	u32 returned_from;	/* number of the destination, of a mirror's the first */
	u64 answered;		/* returned: the miss whose answer sent it */

	/* from the place that was given, or taken from a lease */
	struct dmu_dest *dest;
	u64 physical;
	u64 space;		/* sectors of it: more than the grains where the device ends within one */
	unsigned int tag;
	bool reads_zero;
	u8 phase;
	struct dmu_io *primary;	/* whose data makes the first write */
	struct dmu_log *log;
	union {
		struct work_struct work;
		struct kthread_work kwork;
	};
	struct list_head waiting;	/* in key->log_waiters */

	/* its data on the way */
	struct dmu_gather *gather;
	struct kiocb iocb;
	atomic_t holders;	/* submission and completion */
	long result;
	u64 bytes;
	int error;
	struct llist_node written;	/* in key->written */
};

/* Where first writes take their places from; lives as long as the key. */
struct dmu_pool {
	u32 number;
	u64 grain;
	u64 low;		/* below it the mapper is told */
	u64 left;
	bool low_told;
	struct list_head leases;	/* in the order to be taken */
	struct dmu_event_node low_event;
	struct dmu_attr placed;	/* what the tag stands for */
	unsigned int tag;	/* 0: none yet */
};

struct dmu_flush {
	struct list_head list;
	struct dmu_event_node event;
	u64 id;
	u64 sequence;
	struct dmu_io *io;	/* NULL: to make room in the log */
	u64 since;		/* nanoseconds: synced by then */
	u64 came;		/* before it was synced; 0: the kernel's own */
	bool told;
	bool asked;		/* nothing to commit: it wants DONE */
	int error;		/* asked: of syncing a destination, of this number */
	u32 destination;
};

struct dmu_drain {
	struct list_head list;
	u64 id;			/* of the INVALIDATE, or */
	struct completion *done;
};

/* A line of a table. */
struct dmu_target {
	struct dmu_key *key;
	u32 grain;
	u32 discard;		/* sectors; 0: not offered */
	bool write_zeroes;
	bool read_only;
	bool ask_flush;
	u32 logical;		/* bytes */
	u32 physical;
	u32 log_limit;
	bool may_forget;
	u32 map_memory;		/* KiB; 0: any, while there is memory */
};

/* Of one CPU; see completions.c. */
struct dmu_completions {
	struct llist_head ios;
	struct work_struct work;
};

struct dmu_counts {
	u64 hits[2];		/* of reads, of writes */
};

/* See shrink.c. The work and the hand are the map's, under its lock. */
struct dmu_shrink {
	bool allowed;		/* by the table */
	u64 limit;		/* bytes of map; 0: any, while there is memory */
	u64 stuck;		/* bytes that it had when nothing more could be forgotten, and some */
	u64 hand;		/* sector */
	u64 forgotten;		/* extents */
	struct rb_root_cached changes;	/* of the log, up to newest */
	struct dmu_log *newest;		/* NULL: none */
	struct work_struct work;
};

struct dmu_key {
	struct kref ref;
	struct list_head list;
	char name[DMU_KEY_MAX];

	struct mutex control;
	struct mapped_device *md;	/* of the tables that name the key */
	unsigned int tables;
	u64 sectors;
	u32 grain;
	bool ask_flush;			/* of the active table */

	struct mutex map_lock;
	struct dmu_map map;
	u64 invalidated;		/* a MAP must know the changes up to this one: what they made may be gone */
	struct dmu_shrink shrink;
	struct dmu_attr *attrs[DMU_ATTR_BLOCKS];
	unsigned int attr_count;	/* tags 1 .. attr_count are in use */
	struct xarray dests;
	unsigned int dest_count;
	struct xarray pools;

	struct llist_head written;	/* first writes to be published */
	struct work_struct publish;
	/*
	 * For what may wait for a destination's I/O. A destination may be a
	 * device of ours: its turn must not depend on one of those who wait.
	 */
	struct workqueue_struct *wq;
	struct workqueue_struct *done_wq;	/* completions; see completions.c */

	/* I/O issued to destinations, in two phases so that an invalidation can wait for the one before. */
	u8 phase;
	struct percpu_ref inflight[2];
	struct list_head drains;	/* to be begun */
	struct list_head draining;	/* under way */
	struct work_struct drained;

	spinlock_t lock;
	struct rb_root_cached reads;	/* misses of reads */
	struct rb_root_cached writes;	/* misses of writes, and fills */
	DECLARE_HASHTABLE(misses, 8);
	u64 next_id;
	u64 last_miss_end;		/* to tell a sequential reader */
	unsigned int pending;
	struct list_head events;
	wait_queue_head_t wait;
	struct delayed_work nudge;	/* changes are there to be read */
	unsigned int unread_changes;
	struct list_head log;
	struct list_head log_waiters;	/* fills */
	struct list_head log_ios;	/* requests that will take a lease */
	unsigned int log_entries;
	unsigned int log_limit;
	bool log_pressed;		/* a flush to make room is under way */
	u64 sequence;
	u64 committed;
	struct list_head flushes;
	bool attached;
	bool requeue;			/* a noflush suspend: nothing may wait here */
	bool suspending;
	bool failing;			/* by order */
	bool expired;			/* the mapper has been gone for too long */
	u32 wait_seconds;
	struct delayed_work expire;

	struct dmu_latency miss_latency;
	struct dmu_latency commit_latency;

	struct dmu_counts __percpu *counts;
	struct dmu_completions __percpu *completions;
	atomic64_t miss_count;
	atomic64_t first_writes;
	atomic64_t flush_count;
	atomic64_t errors;
};

#endif /* DMU_TYPES_H */
