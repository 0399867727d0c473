/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inside of the target "userspace".
 *
 * A key (struct dmu_key) owns everything that outlives a table and a mapper:
 * map, destinations, misses, change log. A dm target points to it, a channel
 * (one at a time) too.
 *
 * A request (struct dmu_io) is a bio on its way. A hit goes through io.c at
 * once: look-up under RCU, a reference on the phase, off to the destination.
 * All else goes to a worker, dmu_io_process(), which may cut the bio, and
 * either issues a piece or lets it wait on a miss (miss.c). A miss becomes a
 * fill (fill.c) when the mapper has given it a place. Mirrored writes, and what
 * may come back to the mapper, go by clones (legs.c).
 *
 * Locks, outermost first: key->control (mutex: commands, destinations,
 * table), key->map_lock (mutex: updates of the map), key->lock (spinlock:
 * misses, log, events, flushes). A change is logged before it is published in
 * the map, and published before its bio ends; a request that is about to wait
 * looks again under key->lock, and whoever publishes takes key->lock
 * afterwards to wake it, so that no wake-up is lost.
 */
#ifndef DMU_H
#define DMU_H

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
#include "map.h"

#define DM_MSG_PREFIX "userspace"

#define DMU_LOG_DEFAULT		65536
#define DMU_LOG_MAX		(1u << 24)
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
	u64 position;			/* in it, bytes */
	union {
		struct kiocb iocb;
		struct dmu_route route;
	};
	atomic_t holders;		/* submission and completion; or legs under way */
	long result;
	union {
		struct work_struct work;
		struct kthread_work kwork;
		struct llist_node completed;	/* see file.c */
	};
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
	u32 flags;		/* DMU_MISS_*, from RETURNED on */
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
	bool told;
	bool asked;		/* nothing to commit: it wants DONE */
};

struct dmu_drain {
	struct list_head list;
	u64 id;			/* of the INVALIDATE, or */
	struct completion *done;
};

struct dmu_counts {
	u64 hits_read;
	u64 hits_write;
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
	u64 invalidated;		/* the last change when extents were last forgotten */
	struct dmu_attr *attrs[DMU_ATTR_BLOCKS];
	unsigned int attr_count;	/* tags 1 .. attr_count are in use */
	struct xarray dests;
	unsigned int dest_count;
	struct xarray pools;

	struct llist_head written;	/* first writes to be published */
	struct work_struct publish;

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

	struct dmu_counts __percpu *counts;
	atomic64_t miss_count;
	atomic64_t first_writes;
	atomic64_t flush_count;
	atomic64_t errors;
};

extern struct workqueue_struct *dmu_wq;
extern struct bio_set dmu_bios;		/* pieces */
extern struct bio_set dmu_sync_bios;	/* of which a worker has one at a time */
extern struct bio_set dmu_fill_bios;	/* which end by themselves */
extern struct bio_set dmu_leg_bios[2];	/* so do these */
extern mempool_t dmu_miss_pool;
extern mempool_t dmu_page_pool;

/* key.c */
struct dmu_key *dmu_key_get(const char *name, bool create);
void dmu_key_put(struct dmu_key *key);
int dmu_attr_intern(struct dmu_key *key, const struct dmu_attr *want);
static inline const struct dmu_attr *dmu_attr(const struct dmu_key *key, u64 value)
{
	unsigned int tag = dmu_value_tag(value);

	return &key->attrs[tag / DMU_ATTR_BLOCK][tag % DMU_ATTR_BLOCK];
}

static inline u64 dmu_look_up(const struct dmu_key *key, u64 sector, u64 *run)
{
	u64 value;

	rcu_read_lock();
	value = dmu_map_look_up(&key->map, sector, run);
	rcu_read_unlock();
	return value;
}

void dmu_key_set_wait(struct dmu_key *key, u32 seconds);
void dmu_key_set_fail(struct dmu_key *key, bool fail);
void dmu_key_requeue(struct dmu_key *key);
void dmu_key_expire_in(struct dmu_key *key, unsigned int seconds);

/* destination.c */
int dmu_dest_add(struct dmu_key *key, struct dmu_destination *wire);
int dmu_dest_describe(struct dmu_key *key, struct dmu_destination *wire, bool with_fd);
int dmu_dest_remove(struct dmu_key *key, u32 number);
void dmu_dest_free(struct dmu_dest *dest);
u64 dmu_dest_sectors(const struct dmu_dest *dest);
int dmu_dest_sync(struct dmu_dest *dest);
int dmu_dest_sync_all(struct dmu_key *key);
static inline bool dmu_dest_direct(const struct dmu_dest *dest)
{
	return !(dest->flags & DMU_DEST_BUFFERED);
}

/* io.c */
int dmu_io_map(struct dmu_key *key, struct bio *bio, struct dmu_io *io);
void dmu_io_process(struct dmu_io *io);
void dmu_io_queue(struct dmu_io *io);
void dmu_io_queue_list(struct list_head *ios);
void dmu_io_end(struct dmu_io *io, blk_status_t status);
void dmu_io_written(struct dmu_io *io);
void dmu_io_issue(struct dmu_io *io, struct dmu_dest *dest, u64 physical);
struct dmu_io *dmu_io_split(struct dmu_io *io, u64 sectors);
void dmu_io_init_part(struct dmu_io *part, struct dmu_io *io, struct bio *bio);
unsigned int dmu_piece_front_pad(void);
void dmu_phase_put(struct dmu_key *key, u8 *phase);
void dmu_phase_get(struct dmu_key *key, u8 *phase);

static inline u64 dmu_io_start(const struct dmu_io *io)
{
	return io->bio->bi_iter.bi_sector;
}

static inline u64 dmu_io_stop(const struct dmu_io *io)
{
	return bio_end_sector(io->bio);
}

static inline bool dmu_io_is_trim(const struct dmu_io *io)
{
	return bio_op(io->bio) == REQ_OP_DISCARD || bio_op(io->bio) == REQ_OP_WRITE_ZEROES;
}

/* legs.c */
void dmu_route_set(struct dmu_io *io, const struct dmu_attr *attr, u64 physical, u32 flags);
bool dmu_route_send(struct dmu_io *io, gfp_t gfp);
void dmu_route_queue(struct dmu_io *io);
void dmu_route_ended(struct dmu_io *io);
blk_status_t dmu_route_status(const struct dmu_route *route);
unsigned int dmu_leg_front_pad(void);

/* trim.c */
void dmu_trim(struct dmu_io *io);
void dmu_trim_route(struct dmu_io *io);

/* file.c */
void dmu_file_init(void);
void dmu_bio_to_iter(const struct bio *bio, struct iov_iter *iter);
int dmu_file_try(struct dmu_io *io);
void dmu_file_issue(struct dmu_io *io);
int dmu_rw_bio(struct dmu_dest *dest, u64 physical, struct bio *bio);
int dmu_rw_pages(struct dmu_dest *dest, bool write, u64 physical, struct bio_vec *pages, unsigned int count,
		 size_t bytes);

/* fill.c */
void dmu_fill_start(struct dmu_miss *miss);
void dmu_fill_written(struct dmu_miss *miss, int error);
void dmu_fill_publish(struct work_struct *work);
int dmu_write_zeros(struct dmu_dest *dest, u64 physical, u64 sectors);

/* gather.c */
int dmu_write_gathered(struct dmu_miss *miss);
void dmu_gather_exit(void);

/* lease.c */
enum dmu_waiting { DMU_WAITS, DMU_LOOK_AGAIN, DMU_ENDED, DMU_NO_LEASE };
enum dmu_waiting dmu_lease_write(struct dmu_io *io, u64 seen);
int dmu_pool_set(struct dmu_key *key, u32 number, u64 grain, u64 fill, u64 low);
bool dmu_pool_exists(struct dmu_key *key, u32 number);
int dmu_lease_add(struct dmu_key *key, u32 number, struct dmu_dest *dest, u64 physical, u64 length, u32 flags);
int dmu_lease_revoke(struct dmu_key *key, u32 number);
void dmu_lease_describe_low(const struct dmu_event_node *event, struct dmu_event *wire);
int dmu_lease_replay(struct dmu_key *key);
bool dmu_lease_uses(struct dmu_key *key, const struct dmu_dest *dest);
u64 dmu_lease_left(struct dmu_key *key);
void dmu_lease_free(struct dmu_key *key);

/* miss.c */
enum dmu_waiting dmu_miss_wait(struct dmu_io *io, u8 op, u64 seen);
void dmu_miss_return(struct dmu_io *io);
void dmu_miss_mapped(struct dmu_key *key, u64 start, u64 stop);
struct dmu_miss *dmu_miss_take(struct dmu_key *key, u64 id, struct list_head *ios);
struct dmu_miss *dmu_miss_find(struct dmu_key *key, u64 id);
bool dmu_miss_join(struct dmu_io *io, u64 start, u64 last);
void dmu_miss_init(struct dmu_miss *miss, struct dmu_key *key, u64 start, u64 last);
void dmu_miss_begin_fill(struct dmu_miss *miss);
void dmu_miss_place(struct dmu_miss *miss, u64 stop, struct list_head *rest);
void dmu_miss_drop(struct dmu_miss *miss, struct list_head *ios);
void dmu_miss_finish(struct dmu_miss *miss);
void dmu_miss_describe(struct dmu_miss *miss, struct dmu_event *wire);
int dmu_miss_replay_places(struct dmu_key *key);
void dmu_miss_replay(struct dmu_key *key);
bool dmu_miss_uses(struct dmu_key *key, struct dmu_dest *dest);
void dmu_miss_end_all(struct dmu_key *key, blk_status_t status);

/* log.c */
struct dmu_log *dmu_log_alloc(gfp_t gfp);
void dmu_log_append(struct dmu_key *key, struct dmu_log *entry);
void dmu_log_lost(struct dmu_key *key, struct dmu_log *entry, const struct dmu_dest *dest, u64 physical, u64 start,
		  u64 length);
bool dmu_log_room(struct dmu_key *key);
void dmu_log_press(struct dmu_key *key);
void dmu_log_committed(struct dmu_key *key, u64 sequence);
void dmu_log_start_waiters(struct dmu_key *key, struct list_head *ready);
void dmu_flush(struct dmu_io *io);
int dmu_flush_answer(struct dmu_key *key, u64 id, bool done, blk_status_t status);
void dmu_flush_end_all(struct dmu_key *key, blk_status_t status);
void dmu_log_replay(struct dmu_key *key);
void dmu_flush_replay(struct dmu_key *key);
void dmu_log_free(struct dmu_key *key);

/* drain.c */
int dmu_drain_init(struct dmu_key *key);
void dmu_drain_exit(struct dmu_key *key);
int dmu_drain(struct dmu_key *key, u64 id);
int dmu_drain_wait(struct dmu_key *key);

/* target.c */
extern struct target_type dmu_target_type;

/* channel.c */
int dmu_channel_init(void);
void dmu_channel_exit(void);
void dmu_key_state(struct dmu_key *key, struct dmu_state *state);

/* events.c */
void dmu_event_queue(struct dmu_key *key, struct dmu_event_node *event, u8 type);
void dmu_event_drop(struct dmu_event_node *event);
void dmu_event_nudge(struct work_struct *work);
int dmu_event_note(struct dmu_key *key, const struct dmu_event *wire, gfp_t gfp);
ssize_t dmu_channel_read(struct file *file, char __user *buffer, size_t size, loff_t *position);
__poll_t dmu_channel_poll(struct file *file, struct poll_table_struct *table);

/* commands.c */
ssize_t dmu_channel_write(struct file *file, const char __user *buffer, size_t size, loff_t *position);

#endif /* DMU_H */
