// SPDX-License-Identifier: GPL-2.0
/*
 * The change log: every mapping that is not yet in durable metadata, in
 * order, and the flushes that wait for it. Without it a flush would ask
 * nobody, and a successor would give the same space out twice.
 */
#include "dmu.h"
#include "trace.h"

struct dmu_log *dmu_log_alloc(gfp_t gfp)
{
	struct dmu_log *entry = kzalloc(sizeof(*entry), gfp);

	if (entry) {
		INIT_LIST_HEAD(&entry->event.list);
		RB_CLEAR_NODE(&entry->rb);
	}
	return entry;
}

/* Takes a place in the log for an entry to come. */
bool dmu_log_room(struct dmu_key *key)
{
	lockdep_assert_held(&key->lock);
	if (key->log_entries >= key->log_limit)
		return false;
	key->log_entries++;
	return true;
}

/* The entry's place has been taken; it is the key's from now on. */
void dmu_log_append(struct dmu_key *key, struct dmu_log *entry)
{
	bool press;

	spin_lock_irq(&key->lock);
	entry->sequence = key->sequence + 1;
	WRITE_ONCE(key->sequence, entry->sequence);
	list_add_tail(&entry->list, &key->log);
	dmu_event_queue(key, &entry->event, DMU_EV_CHANGED);
	trace_dmu_change(key->name, entry->sequence, entry->start, entry->length, entry->kind);
	press = key->log_entries > key->log_limit / 2;
	spin_unlock_irq(&key->lock);
	if (press)
		dmu_log_press(key);
}

/* A place that nobody took, or whose write failed; logged even where there is no room. */
void dmu_log_lost(struct dmu_key *key, struct dmu_log *entry, const struct dmu_dest *dest, u64 physical, u64 start,
		  u64 length)
{
	entry->start = start;
	entry->length = length;
	entry->kind = DMU_KIND_LOST;
	entry->destination = dest->number;
	entry->physical = physical;
	spin_lock_irq(&key->lock);
	key->log_entries++;
	spin_unlock_irq(&key->lock);
	dmu_log_append(key, entry);
}

/* Fills that waited for room, as many as there is room for. */
void dmu_log_start_waiters(struct dmu_key *key, struct list_head *ready)
{
	lockdep_assert_held(&key->lock);
	while (!list_empty(&key->log_waiters) && dmu_log_room(key)) {
		struct dmu_miss *miss = list_first_entry(&key->log_waiters, struct dmu_miss, waiting);

		miss->state = DMU_MISS_FILLING;
		list_move_tail(&miss->waiting, ready);
	}
}

static void end_flush(struct dmu_flush *flush, blk_status_t status)
{
	if (flush->io)
		dmu_io_end(flush->io, status);
	kfree(flush);
}

static void end_flushes(struct list_head *flushes, blk_status_t status)
{
	struct dmu_flush *flush, *next;

	list_for_each_entry_safe(flush, next, flushes, list)
		end_flush(flush, status);
}

void dmu_log_committed(struct dmu_key *key, u64 sequence)
{
	struct dmu_log *entry, *next;
	struct dmu_flush *flush, *after;
	struct dmu_miss *miss, *later;
	LIST_HEAD(done);
	LIST_HEAD(ended);
	LIST_HEAD(ready);
	struct dmu_io *io;
	LIST_HEAD(ios);

	spin_lock_irq(&key->lock);
	list_for_each_entry_safe(entry, next, &key->log, list) {
		if (entry->sequence > sequence)
			break;
		dmu_event_drop(&entry->event);
		dmu_shrink_acknowledged(key, entry);
		list_move_tail(&entry->list, &done);
		key->log_entries--;
	}
	WRITE_ONCE(key->committed, max(key->committed, sequence));
	trace_dmu_commit(key->name, sequence, 0, 0, 0);
	list_for_each_entry_safe(flush, after, &key->flushes, list) {
		if (flush->asked || flush->sequence > key->committed)
			continue;
		dmu_event_drop(&flush->event);
		dmu_key_waited(&key->commit_latency, flush->since);
		if (!flush->io)
			key->log_pressed = false;
		list_move_tail(&flush->list, &ended);
	}
	dmu_log_start_waiters(key, &ready);
	if (key->log_entries < key->log_limit) {
		list_for_each_entry(io, &key->log_ios, node)
			key->pending--;
		list_splice_init(&key->log_ios, &ios);
	}
	spin_unlock_irq(&key->lock);
	dmu_io_queue_list(&ios);
	dmu_shrink_check(key, true);

	list_for_each_entry_safe(entry, next, &done, list)
		kfree(entry);
	list_for_each_entry_safe(miss, later, &ready, waiting) {
		list_del_init(&miss->waiting);
		dmu_fill_start(miss);
	}
	end_flushes(&ended, 0);
}

/*
 * Data is durable up to what was written when this began; the mapper is asked
 * only if a mapping of that data is not, or if it wants to be: then it also
 * hears of it if the data is not.
 */
static void flush_now(struct dmu_key *key, struct dmu_io *io)
{
	struct dmu_flush *flush;
	blk_status_t status = 0;
	bool wait = false, ask;
	u64 sequence;
	u32 failed = 0;
	int error;

	sequence = READ_ONCE(key->sequence);
	error = dmu_dest_sync_all(key, &failed);
	/* The rest of a FUA write is not a flush of its own. */
	ask = READ_ONCE(key->ask_flush) && io && !bio_sectors(io->bio) && sequence <= READ_ONCE(key->committed);
	if (error && !ask) {
		status = errno_to_blk_status(error);
		goto end;
	}
	flush = kzalloc(sizeof(*flush), GFP_NOIO | __GFP_NOFAIL);
	INIT_LIST_HEAD(&flush->event.list);
	flush->sequence = sequence;
	flush->io = io;
	flush->came = io ? io->came : 0;
	flush->asked = ask;
	flush->error = error;
	flush->destination = failed;
	spin_lock_irq(&key->lock);
	if (sequence <= key->committed && !flush->asked)
		status = 0;
	else if (key->failing || key->expired)
		status = BLK_STS_IOERR;
	else if (key->requeue && io)
		status = BLK_STS_DM_REQUEUE;
	else
		wait = true;
	if (wait) {
		flush->id = ++key->next_id;
		flush->since = ktime_get_ns();
		list_add_tail(&flush->list, &key->flushes);
		dmu_event_queue(key, &flush->event, DMU_EV_FLUSH);
		trace_dmu_flush(key->name, flush->id, sequence, 0, 0);
	}
	spin_unlock_irq(&key->lock);
	if (wait)
		return;
	kfree(flush);
end:
	if (io) {
		dmu_io_end(io, status);
	} else {
		spin_lock_irq(&key->lock);
		key->log_pressed = false;
		spin_unlock_irq(&key->lock);
	}
}

struct press_work {
	struct work_struct work;
	struct dmu_key *key;
	struct dmu_io *io;
};

static void press_flush(struct work_struct *work)
{
	struct press_work *flush = container_of(work, struct press_work, work);

	flush_now(flush->key, flush->io);
	if (!flush->io)
		dmu_key_put(flush->key);
	kfree(flush);
}

static void io_flush_work(struct work_struct *work)
{
	struct dmu_io *io = container_of(work, struct dmu_io, work);

	flush_now(io->key, io);
}

/* A flush that came at io->came, or the rest of a FUA write; may be called where nothing may block. */
void dmu_flush(struct dmu_io *io)
{
	atomic64_inc(&io->key->flush_count);
	INIT_WORK(&io->work, io_flush_work);
	queue_work(io->key->wq, &io->work);
}

/* The log fills up: have the mapper commit before anybody must wait. */
void dmu_log_press(struct dmu_key *key)
{
	struct press_work *flush;
	bool pressed;

	spin_lock_irq(&key->lock);
	pressed = key->log_pressed || !key->attached;
	if (!pressed)
		key->log_pressed = true;
	spin_unlock_irq(&key->lock);
	if (pressed)
		return;
	flush = kmalloc(sizeof(*flush), GFP_NOIO | __GFP_NOFAIL);
	INIT_WORK(&flush->work, press_flush);
	flush->io = NULL;
	flush->key = key;
	kref_get(&key->ref);
	queue_work(dmu_wq, &flush->work);
}

void dmu_flush_end_all(struct dmu_key *key, blk_status_t status)
{
	LIST_HEAD(ended);
	struct dmu_flush *flush;

	spin_lock_irq(&key->lock);
	list_for_each_entry(flush, &key->flushes, list)
		dmu_event_drop(&flush->event);
	list_splice_init(&key->flushes, &ended);
	key->log_pressed = false;
	spin_unlock_irq(&key->lock);
	end_flushes(&ended, status);
}

/*
 * The mapper's word on one flush: 1. 0: there is no such flush. -EINVAL: it is
 * not done before its changes are committed.
 */
int dmu_flush_answer(struct dmu_key *key, u64 id, bool done, blk_status_t status)
{
	struct dmu_flush *flush, *found = NULL;
	int error = 0;

	spin_lock_irq(&key->lock);
	list_for_each_entry(flush, &key->flushes, list) {
		if (flush->id != id)
			continue;
		if (done && flush->sequence > key->committed) {
			error = -EINVAL;
			break;
		}
		found = flush;
		dmu_event_drop(&found->event);
		list_del(&found->list);
		if (!found->io)
			key->log_pressed = false;
		break;
	}
	spin_unlock_irq(&key->lock);
	if (!found)
		return error;
	end_flush(found, status);
	return 1;
}

void dmu_log_replay(struct dmu_key *key)
{
	struct dmu_log *entry;

	lockdep_assert_held(&key->lock);
	list_for_each_entry(entry, &key->log, list)
		dmu_event_queue(key, &entry->event, DMU_EV_CHANGED);
}

void dmu_flush_replay(struct dmu_key *key)
{
	struct dmu_flush *flush;

	lockdep_assert_held(&key->lock);
	list_for_each_entry(flush, &key->flushes, list)
		dmu_event_queue(key, &flush->event, DMU_EV_FLUSH);
}

void dmu_log_free(struct dmu_key *key)
{
	struct dmu_log *entry, *next;
	struct dmu_flush *flush, *after;

	list_for_each_entry_safe(entry, next, &key->log, list)
		kfree(entry);
	list_for_each_entry_safe(flush, after, &key->flushes, list)
		kfree(flush);
}
