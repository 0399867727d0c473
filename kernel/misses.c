// SPDX-License-Identifier: GPL-2.0
/* What waits for the mapper, all of it: told to a successor, looked through, ended. */
#include "miss.h"

void dmu_miss_describe(struct dmu_miss *miss, struct dmu_event *wire)
{
	wire->id = miss->id;
	wire->start = miss->start;
	wire->length = miss->last + 1 - miss->start;
	wire->op = miss->op;
	wire->flags = (miss->sequential ? DMU_MISS_SEQUENTIAL : 0) | (miss->told ? DMU_MISS_AGAIN : 0) |
		      (miss->mapped ? DMU_MISS_MAPPED : 0) | miss->flags;
	wire->error = miss->error;
	wire->destination = miss->returned_from;
	wire->sequence = miss->answered;
	miss->told = true;
}

/* For a successor: places in use by fills that have not been logged yet. */
int dmu_miss_replay_places(struct dmu_key *key)
{
	struct dmu_miss *miss;

	lockdep_assert_held(&key->lock);
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull)) {
		struct dmu_event wire = { .type = DMU_EV_PLACED };

		if (miss->state == DMU_MISS_WAITING)
			continue;
		wire.start = miss->start;
		wire.length = miss->last + 1 - miss->start;
		wire.destination = miss->dest->number;
		wire.physical = miss->physical;
		wire.kind = DMU_KIND_LINEAR;
		if (dmu_event_note(key, &wire, GFP_ATOMIC))
			return -ENOMEM;
	}
	return 0;
}

void dmu_miss_replay(struct dmu_key *key)
{
	struct dmu_miss *miss;
	int bucket;

	lockdep_assert_held(&key->lock);
	hash_for_each(key->misses, bucket, miss, hash)
		dmu_event_queue(key, &miss->event, DMU_EV_MISS);
}

bool dmu_miss_uses(struct dmu_key *key, struct dmu_dest *dest)
{
	struct dmu_miss *miss;

	lockdep_assert_held(&key->lock);
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull))
		if (miss->state != DMU_MISS_WAITING && miss->dest == dest)
			return true;
	return false;
}

/* Fills that wait for room in the log: their places are lost. */
static void drop_waiting_fills(struct dmu_key *key, struct list_head *dropped, struct list_head *ios)
{
	struct dmu_miss *miss, *next;

	lockdep_assert_held(&key->lock);
	list_for_each_entry_safe(miss, next, &key->log_waiters, waiting) {
		dmu_miss_drop(miss, ios);
		list_add_tail(&miss->primary->node, ios);
		list_add_tail(&miss->waiting, dropped);
	}
}

static void end_list(struct list_head *ios, blk_status_t status)
{
	struct dmu_io *io, *next;

	list_for_each_entry_safe(io, next, ios, node) {
		list_del_init(&io->node);
		dmu_io_end(io, status);
	}
}

/* Nothing may wait any longer. A fill under way ends by itself. */
void dmu_miss_end_all(struct dmu_key *key, blk_status_t status)
{
	struct dmu_miss *miss, *next;
	struct hlist_node *tmp;
	LIST_HEAD(dropped);
	struct dmu_io *io;
	LIST_HEAD(ended);
	int bucket;

	spin_lock_irq(&key->lock);
	hash_for_each_safe(key->misses, bucket, tmp, miss, hash) {
		unlink_miss(miss);
		take_all(miss, &ended);
		mempool_free(miss, &dmu_miss_pool);
	}
	for (miss = miss_tree_iter_first(&key->writes, 0, ~0ull); miss; miss = miss_tree_iter_next(miss, 0, ~0ull))
		take_all(miss, &ended);
	drop_waiting_fills(key, &dropped, &ended);
	list_for_each_entry(io, &key->log_ios, node)
		key->pending--;
	list_splice_tail_init(&key->log_ios, &ended);
	spin_unlock_irq(&key->lock);
	/* Before the requests end: the key may go with the last. */
	list_for_each_entry_safe(miss, next, &dropped, waiting) {
		dmu_log_lost(key, miss->log, miss->dest, miss->physical, miss->start, miss->last + 1 - miss->start);
		mempool_free(miss, &dmu_miss_pool);
	}
	end_list(&ended, status);
}
