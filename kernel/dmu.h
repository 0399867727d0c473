/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inside of the target "userspace".
 *
 * A key (struct dmu_key) owns everything that outlives a table and a mapper:
 * map, destinations, misses, change log. A dm target points to it, a channel
 * (one at a time) too.
 *
 * A request (struct dmu_io) is a bio on its way. A hit goes through hit.c at
 * once: look-up under RCU, a reference on the phase, off to the destination.
 * Most of what misses waits for the mapper from there on, too. All else goes
 * to a worker, dmu_io_process(), which may cut the bio (pieces.c), and either
 * issues a piece or lets it wait on a miss (miss.c). A miss becomes a fill
 * (fill.c) when the mapper has given it a place. Mirrored writes, and what may
 * come back to the mapper, go by clones (legs.c). What the map holds may be
 * forgotten (shrink.c).
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

#define DM_MSG_PREFIX "userspace"

#include "types.h"

extern struct workqueue_struct *dmu_wq;	/* for what waits for no I/O, and the last of a key */
extern struct bio_set dmu_bios;		/* pieces */
extern struct bio_set dmu_sync_bios;	/* of which a worker has one at a time */
extern struct bio_set dmu_fill_bios;	/* which end by themselves */
extern struct bio_set dmu_leg_bios[2];	/* so do these */
extern mempool_t dmu_miss_pool;
extern mempool_t dmu_page_pool;

/* pools.c */
int dmu_pools_init(void);
void dmu_pools_exit(void);

/* shrink.c */
int dmu_shrink_init(void);
void dmu_shrink_exit(void);
void dmu_shrink_init_key(struct dmu_key *key);
void dmu_shrink_check(struct dmu_key *key, bool anew);
void dmu_shrink_acknowledged(struct dmu_key *key, struct dmu_log *change);
u64 dmu_shrink_count(void);
u64 dmu_shrink_scan(u64 wanted);

/* key.c */
void dmu_keys_try_each(void (*what)(struct dmu_key *key, void *data), void *data);
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

/* With key->lock held, which the counts are under. */
static inline void dmu_key_waited(struct dmu_latency *latency, u64 since)
{
	dmu_latency_add(latency, div_u64(ktime_get_ns() - since, NSEC_PER_USEC));
}

/* destination.c */
int dmu_dest_add(struct dmu_key *key, struct dmu_destination *wire);
/* With file: wire->fd is reserved for it; the caller installs it or puts both. */
int dmu_dest_describe(struct dmu_key *key, struct dmu_destination *wire, struct file **file);
int dmu_dest_remove(struct dmu_key *key, u32 number);
void dmu_dest_free(struct dmu_dest *dest);
bool dmu_dest_any_on(struct dmu_key *key, struct mapped_device *md);
u64 dmu_dest_sectors(const struct dmu_dest *dest);
int dmu_dest_sync(struct dmu_dest *dest);
int dmu_dest_sync_all(struct dmu_key *key, u32 *failed);
static inline bool dmu_dest_direct(const struct dmu_dest *dest)
{
	return !(dest->flags & DMU_DEST_BUFFERED);
}

/* hit.c */
int dmu_target_map(struct dm_target *ti, struct bio *bio);
int dmu_target_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void dmu_phase_put(struct dmu_key *key, u8 *phase);
void dmu_phase_get(struct dmu_key *key, u8 *phase);

static inline u8 dmu_straight(bool write)
{
	return write ? DMU_STRAIGHT_WRITE : DMU_STRAIGHT_READ;
}

/* FUA asks that the mapping be durable too, which here means a commit. */
static inline bool dmu_wants_commit(const struct dmu_key *key, const struct bio *bio)
{
	return bio->bi_opf & REQ_FUA && READ_ONCE(key->sequence) != READ_ONCE(key->committed);
}

/* io.c */
bool dmu_io_ask(struct dmu_io *io, u64 value, u64 run);
void dmu_io_process(struct dmu_io *io);
void dmu_io_queue(struct dmu_io *io);
void dmu_io_queue_list(struct list_head *ios);
void dmu_io_end(struct dmu_io *io, blk_status_t status);
void dmu_io_written(struct dmu_io *io);
void dmu_io_issue(struct dmu_io *io, struct dmu_dest *dest, u64 physical);

/* parent: NULL, or that of which this bio does a part */
static inline void dmu_io_init(struct dmu_io *io, struct dmu_key *key, struct bio *bio, struct bio *parent)
{
	io->key = key;
	io->bio = bio;
	io->parent = parent;
	io->phase = DMU_NO_PHASE;
	io->flush_after = false;
	io->is_leg = false;
	io->returned = false;
}

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

/* pieces.c */
struct dmu_io *dmu_io_split(struct dmu_io *io, u64 sectors);
struct dmu_io *dmu_io_rest(struct dmu_io *io);
unsigned int dmu_piece_front_pad(void);

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

/* completions.c */
int dmu_completions_init(void);
void dmu_completions_exit(void);
struct dmu_completions __percpu *dmu_completions_alloc(void);
void dmu_completion_add(struct dmu_io *io);

/* file.c */
void dmu_file_ended(struct dmu_io *io);
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

/* miss.c, misses.c */
enum dmu_waiting dmu_miss_wait(struct dmu_io *io, u8 op, u64 seen, gfp_t gfp);
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
void dmu_drain_wait(struct dmu_key *key);

/* target.c */
extern struct target_type dmu_target_type;

/* channel.c */
int dmu_channel_init(void);
void dmu_channel_exit(void);
int dmu_key_attach(struct dmu_key *key);
void dmu_key_detach(struct dmu_key *key);
void dmu_key_state(struct dmu_key *key, struct dmu_state *state);

/* events.c */
void dmu_event_queue(struct dmu_key *key, struct dmu_event_node *event, u8 type);
void dmu_event_drop(struct dmu_event_node *event);
void dmu_event_nudge(struct work_struct *work);
int dmu_event_note(struct dmu_key *key, const struct dmu_event *wire, gfp_t gfp);
unsigned int dmu_events_take(struct dmu_key *key, struct dmu_event *wire, unsigned int most);
ssize_t dmu_channel_read(struct file *file, char __user *buffer, size_t size, loff_t *position);
__poll_t dmu_channel_poll(struct file *file, struct poll_table_struct *table);

/* answers.c */
struct dmu_dest *dmu_find_place(struct dmu_key *key, const struct dmu_command *cmd, bool writable);
int dmu_command_map(struct dmu_key *key, const struct dmu_command *cmd);
int dmu_command_place(struct dmu_key *key, const struct dmu_command *cmd);
int dmu_command_end(struct dmu_key *key, const struct dmu_command *cmd);

/* commands.c */
int dmu_command_apply(struct dmu_key *key, const struct dmu_command *cmd);
ssize_t dmu_channel_write(struct file *file, const char __user *buffer, size_t size, loff_t *position);

#endif /* DMU_H */
