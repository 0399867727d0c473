// SPDX-License-Identifier: GPL-2.0
/*
 * Keeping the map small: within a budget, and under memory pressure, where the
 * table says that it may be. What is forgotten misses, and the mapper is asked
 * again.
 *
 * A hand goes round the sectors, one step at a time: whole grains of some
 * leaves, whatever was used there lately (to know would cost each hit). Never
 * forgotten is what a change not yet acknowledged stands for, the ground of a
 * miss or a first write under way, and anything while nobody could be asked.
 * All that can come to be only with key->lock, so a step is made under it:
 * atomic, and a grain is known as a whole or not at all.
 *
 * No drain is needed, unlike after an INVALIDATE: what is forgotten was right,
 * and remains so until the mapper changes it. It does that by an INVALIDATE,
 * which waits for all I/O issued before, whether the map still holds what sent
 * it there or not. But like an INVALIDATE it makes room for a MAP made from
 * older metadata, on its way for long: so one that does not know of every
 * change that was acknowledged by then is not taken.
 */
#include "miss.h"
#include "trace.h"

#define KEPT_NODES	16	/* of each map: not worth asking again */
#define INDEX_AT_ONCE	64
#define STEPS_AT_ONCE	64

#define CHANGE_START(change)	((change)->start)
#define CHANGE_LAST(change)	((change)->start + (change)->length - 1)
INTERVAL_TREE_DEFINE(struct dmu_log, rb, u64, subtree_last, CHANGE_START, CHANGE_LAST, static __maybe_unused, change_tree)

/* Nothing is forgotten for good: somebody must be there to be asked. */
static bool may_forget(const struct dmu_key *key)
{
	return READ_ONCE(key->shrink.allowed) && READ_ONCE(key->attached) && !READ_ONCE(key->failing);
}

/* Changes are put in order only where somebody looks. false: there are more to come. */
static bool index_changes(struct dmu_key *key)
{
	struct dmu_shrink *shrink = &key->shrink;
	unsigned int count;

	lockdep_assert_held(&key->lock);
	for (count = 0; count < INDEX_AT_ONCE; count++) {
		struct list_head *next = shrink->newest ? shrink->newest->list.next : key->log.next;

		if (next == &key->log)
			return true;
		shrink->newest = list_entry(next, struct dmu_log, list);
		change_tree_insert(shrink->newest, &shrink->changes);
	}
	return false;
}

/* It leaves the log, and so does all before it. */
void dmu_shrink_acknowledged(struct dmu_key *key, struct dmu_log *change)
{
	lockdep_assert_held(&key->lock);
	if (RB_EMPTY_NODE(&change->rb))
		return;
	change_tree_remove(change, &key->shrink.changes);
	if (key->shrink.newest == change)
		key->shrink.newest = NULL;
}

/* The first thing from start on that keeps what it lies on. */
static void find_kept(struct dmu_key *key, u64 start, u64 *kept, u64 *last)
{
	struct dmu_log *change = change_tree_iter_first(&key->shrink.changes, start, U64_MAX);
	struct dmu_miss *misses[] = { miss_tree_iter_first(&key->writes, start, U64_MAX),
				      miss_tree_iter_first(&key->reads, start, U64_MAX) };
	unsigned int i;

	*kept = *last = U64_MAX;
	if (change) {
		*kept = change->start;
		*last = CHANGE_LAST(change);
	}
	for (i = 0; i < ARRAY_SIZE(misses); i++) {
		if (misses[i] && misses[i]->start < *kept) {
			*kept = misses[i]->start;
			*last = misses[i]->last;
		}
	}
}

/* 0, or why not now: -EAGAIN, -ENOMEM. */
static int forget(struct dmu_key *key, u64 start, u64 stop, u64 *done)
{
	u64 extents = key->map.extents;
	int error = dmu_map_forget(&key->map, start, stop, key->grain, done,
				   GFP_NOWAIT | __GFP_NOWARN | __GFP_NOMEMALLOC);

	if (error)
		return error;
	key->invalidated = max(key->invalidated, key->committed);
	/* Where a rest stays on both sides there are more of them than before. */
	if (key->map.extents < extents) {
		WRITE_ONCE(key->shrink.forgotten, key->shrink.forgotten + extents - key->map.extents);
		trace_dmu_forget(key->name, key->shrink.forgotten, start, *done - start, 0);
	}
	return 0;
}

static int step(struct dmu_key *key)
{
	u64 start = key->shrink.hand, stop, kept, last;
	int error = -EAGAIN;

	lockdep_assert_held(&key->map_lock);
	spin_lock_irq(&key->lock);
	if (!may_forget(key))
		goto out;
	error = 0;
	if (!index_changes(key))
		goto out;
	start = round_down(start, key->grain);
	find_kept(key, start, &kept, &last);
	stop = round_down(kept, key->grain);
	if (stop <= start)
		key->shrink.hand = round_up(last + 1, key->grain);
	else
		error = forget(key, start, stop, &key->shrink.hand);
out:
	spin_unlock_irq(&key->lock);
	return error;
}

/*
 * Goes on until the map has no more than so many nodes, or the hand has been
 * everywhere once. It never waits. *wrapped belongs to first, where it began.
 */
static int go_round(struct dmu_key *key, u64 nodes, u64 first, bool *wrapped, unsigned int steps)
{
	int error = 0;

	nodes = max_t(u64, nodes, KEPT_NODES);
	while (!error && key->map.nodes > nodes && steps--) {
		error = step(key);
		if (key->shrink.hand < round_down(U64_MAX, key->grain))
			continue;
		key->shrink.hand = 0;
		if (*wrapped)
			error = -EAGAIN;
		*wrapped = true;
	}
	if (!error && *wrapped && key->shrink.hand >= first)
		error = -EAGAIN;
	return error ? error : key->map.nodes > nodes;
}

static void shrink_work(struct work_struct *work)
{
	struct dmu_key *key = container_of(work, struct dmu_key, shrink.work);
	u64 limit = READ_ONCE(key->shrink.limit), first, bytes;
	bool wrapped = false;
	int more = limit != 0;

	mutex_lock(&key->map_lock);
	first = key->shrink.hand;
	while (more > 0) {
		/* An eighth more than it must, so as not to come for every node. */
		more = go_round(key, (limit - limit / 8) / DMU_MAP_NODE_BYTES, first, &wrapped, STEPS_AT_ONCE);
		mutex_unlock(&key->map_lock);
		cond_resched();
		mutex_lock(&key->map_lock);
	}
	bytes = dmu_map_bytes(&key->map);
	/* All that is left must stay for now: not again before it has grown, or changes are acknowledged. */
	key->shrink.stuck = bytes > limit ? bytes + limit / 16 : 0;
	mutex_unlock(&key->map_lock);
}

/* The map has grown, or more of it may be forgotten than before. */
void dmu_shrink_check(struct dmu_key *key, bool anew)
{
	u64 bytes = dmu_map_bytes(&key->map), limit = READ_ONCE(key->shrink.limit);

	if (anew)
		WRITE_ONCE(key->shrink.stuck, 0);
	if (limit && bytes > limit && bytes > READ_ONCE(key->shrink.stuck))
		queue_work(key->wq, &key->shrink.work);
}

void dmu_shrink_init_key(struct dmu_key *key)
{
	key->shrink.changes = RB_ROOT_CACHED;
	INIT_WORK(&key->shrink.work, shrink_work);
}

/* ---------------------------------------------------- memory pressure --- */

static u64 forgettable_nodes(const struct dmu_key *key)
{
	u64 nodes = READ_ONCE(key->map.nodes);

	return may_forget(key) && nodes > KEPT_NODES ? nodes - KEPT_NODES : 0;
}

static void count_key(struct dmu_key *key, void *data)
{
	*(u64 *)data += forgettable_nodes(key) + READ_ONCE(key->map.spares.count);
}

struct scan {
	u64 wanted;
	u64 freed;
};

/* Who holds the map's lock may be who waits for this memory. */
static void scan_key(struct dmu_key *key, void *data)
{
	u64 before, nodes, forgettable = forgettable_nodes(key);
	struct scan *scan = data;
	bool wrapped = false;

	if (!forgettable && !READ_ONCE(key->map.spares.count))
		return;
	if (scan->freed >= scan->wanted || !mutex_trylock(&key->map_lock))
		return;
	scan->freed += dmu_map_free_spares(&key->map);
	if (forgettable && scan->freed < scan->wanted) {
		before = key->map.nodes;
		nodes = min(scan->wanted - scan->freed, forgettable);
		go_round(key, before > nodes ? before - nodes : 0, key->shrink.hand, &wrapped, nodes + STEPS_AT_ONCE);
		if (key->map.nodes < before)
			scan->freed += before - key->map.nodes;
		dmu_map_free_spares(&key->map);
	}
	mutex_unlock(&key->map_lock);
}

u64 dmu_shrink_count(void)
{
	u64 nodes = 0;

	dmu_keys_try_each(count_key, &nodes);
	return nodes;
}

/* Nodes that were given back. Takes no lock that anybody holds over an allocation or I/O but by trying. */
u64 dmu_shrink_scan(u64 wanted)
{
	struct scan scan = { .wanted = wanted };

	dmu_keys_try_each(scan_key, &scan);
	return scan.freed;
}

static unsigned long count_objects(struct shrinker *shrinker, struct shrink_control *control)
{
	return min_t(u64, dmu_shrink_count(), LONG_MAX);
}

static unsigned long scan_objects(struct shrinker *shrinker, struct shrink_control *control)
{
	u64 freed = dmu_shrink_scan(control->nr_to_scan);

	return freed ? freed : SHRINK_STOP;
}

static struct shrinker *shrinker;

int dmu_shrink_init(void)
{
	/* To have one back costs a question to a process, maybe I/O. */
	shrinker = dmu_shrinker_register(count_objects, scan_objects, 4 * DEFAULT_SEEKS);
	return IS_ERR(shrinker) ? PTR_ERR(shrinker) : 0;
}

void dmu_shrink_exit(void)
{
	dmu_shrinker_free(shrinker);
}
