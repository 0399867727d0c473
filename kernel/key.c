// SPDX-License-Identifier: GPL-2.0
/* Keys: what outlives a table and a mapper. */
#include "dmu.h"

static LIST_HEAD(keys);
static DEFINE_MUTEX(keys_lock);

/* Everything that waits for the mapper ends; what comes later too, until one attaches. */
static void end_waiting(struct dmu_key *key)
{
	dmu_miss_end_all(key, BLK_STS_IOERR);
	dmu_flush_end_all(key, BLK_STS_IOERR);
}

/* What waits goes back to device-mapper, for a noflush suspend. */
void dmu_key_requeue(struct dmu_key *key)
{
	dmu_miss_end_all(key, BLK_STS_DM_REQUEUE);
	dmu_flush_end_all(key, BLK_STS_DM_REQUEUE);
}

static void expire_work(struct work_struct *work)
{
	struct dmu_key *key = container_of(to_delayed_work(work), struct dmu_key, expire);
	bool expired;

	spin_lock_irq(&key->lock);
	expired = !key->attached;
	key->expired = expired;
	spin_unlock_irq(&key->lock);
	if (!expired)
		return;
	DMWARN("%s: no mapper: requests that wait for one end in errors", key->name);
	end_waiting(key);
}

void dmu_key_expire_in(struct dmu_key *key, unsigned int seconds)
{
	mod_delayed_work(dmu_wq, &key->expire, (unsigned long)seconds * HZ);
}

/* How long requests wait for a successor; takes effect now if there is no mapper. */
void dmu_key_set_wait(struct dmu_key *key, u32 seconds)
{
	bool attached;

	spin_lock_irq(&key->lock);
	key->wait_seconds = seconds;
	attached = key->attached;
	spin_unlock_irq(&key->lock);
	if (attached)
		return;
	if (seconds == DMU_WAIT_FOREVER)
		cancel_delayed_work(&key->expire);
	else
		dmu_key_expire_in(key, seconds);
}

void dmu_key_set_fail(struct dmu_key *key, bool fail)
{
	spin_lock_irq(&key->lock);
	key->failing = fail;
	if (!fail)
		key->expired = false;
	spin_unlock_irq(&key->lock);
	if (fail)
		end_waiting(key);
}

static atomic_t key_count = ATOMIC_INIT(0);	/* ever made: names of workqueues */

static int make_workqueues(struct dmu_key *key)
{
	u32 number = atomic_inc_return(&key_count);

	key->wq = alloc_workqueue("dmu/%u", WQ_MEM_RECLAIM, 0, number);
	key->done_wq = alloc_workqueue("dmu/%u/done", WQ_MEM_RECLAIM, 0, number);
	return key->wq && key->done_wq ? 0 : -ENOMEM;
}

static void destroy_workqueues(struct dmu_key *key)
{
	if (key->done_wq)
		destroy_workqueue(key->done_wq);
	if (key->wq)
		destroy_workqueue(key->wq);
}

static struct dmu_key *create(const char *name)
{
	struct dmu_key *key = kzalloc(sizeof(*key), GFP_KERNEL);

	if (!key)
		return NULL;
	kref_init(&key->ref);
	strscpy(key->name, name, sizeof(key->name));
	mutex_init(&key->control);
	mutex_init(&key->map_lock);
	spin_lock_init(&key->lock);
	xa_init(&key->dests);
	xa_init(&key->pools);
	init_llist_head(&key->written);
	INIT_WORK(&key->publish, dmu_fill_publish);
	INIT_DELAYED_WORK(&key->nudge, dmu_event_nudge);
	key->reads = RB_ROOT_CACHED;
	key->writes = RB_ROOT_CACHED;
	hash_init(key->misses);
	INIT_LIST_HEAD(&key->events);
	init_waitqueue_head(&key->wait);
	INIT_LIST_HEAD(&key->log);
	INIT_LIST_HEAD(&key->log_waiters);
	INIT_LIST_HEAD(&key->log_ios);
	INIT_LIST_HEAD(&key->flushes);
	INIT_DELAYED_WORK(&key->expire, expire_work);
	dmu_shrink_init_key(key);
	key->grain = 8;
	key->log_limit = DMU_LOG_DEFAULT;
	key->wait_seconds = DMU_WAIT_FOREVER;
	/* Tag 0 is what is not known: kind NONE. */
	key->attrs[0] = kcalloc(DMU_ATTR_BLOCK, sizeof(struct dmu_attr), GFP_KERNEL);
	key->counts = alloc_percpu(struct dmu_counts);
	key->completions = dmu_completions_alloc();
	if (make_workqueues(key) || !key->attrs[0] || !key->counts || !key->completions)
		goto bad_memory;
	if (dmu_map_init(&key->map))
		goto bad_memory;
	if (dmu_drain_init(key))
		goto bad_drain;
	return key;

bad_drain:
	dmu_map_destroy(&key->map);
bad_memory:
	destroy_workqueues(key);
	free_percpu(key->completions);
	free_percpu(key->counts);
	kfree(key->attrs[0]);
	kfree(key);
	return NULL;
}

/* ERR_PTR: -ENOENT, -ENOMEM. */
struct dmu_key *dmu_key_get(const char *name, bool may_create)
{
	struct dmu_key *key;

	mutex_lock(&keys_lock);
	list_for_each_entry(key, &keys, list) {
		if (!strcmp(key->name, name)) {
			kref_get(&key->ref);
			goto out;
		}
	}
	key = may_create ? create(name) : ERR_PTR(-ENOENT);
	if (!key)
		key = ERR_PTR(-ENOMEM);
	if (!IS_ERR(key))
		list_add(&key->list, &keys);
out:
	mutex_unlock(&keys_lock);
	return key;
}

/* Not at all where it would have to wait. Each time another is the first. */
void dmu_keys_try_each(void (*what)(struct dmu_key *key, void *data), void *data)
{
	struct dmu_key *key;

	if (!mutex_trylock(&keys_lock))
		return;
	list_rotate_left(&keys);
	list_for_each_entry(key, &keys, list)
		what(key, data);
	mutex_unlock(&keys_lock);
}

static void release(struct kref *ref)
{
	struct dmu_key *key = container_of(ref, struct dmu_key, ref);
	struct dmu_event_node *event, *next;
	struct dmu_dest *dest;
	unsigned long number;
	unsigned int i;

	list_del(&key->list);
	mutex_unlock(&keys_lock);
	cancel_delayed_work_sync(&key->expire);
	cancel_delayed_work_sync(&key->nudge);
	flush_work(&key->publish);
	/* No table, no channel, so no request; a drain may still be on its way. */
	dmu_drain_wait(key);
	flush_work(&key->drained);
	destroy_workqueues(key);
	list_for_each_entry_safe(event, next, &key->events, list)
		dmu_event_drop(event);
	dmu_log_free(key);
	xa_for_each(&key->dests, number, dest)
		dmu_dest_free(dest);
	xa_destroy(&key->dests);
	dmu_lease_free(key);
	dmu_map_destroy(&key->map);
	dmu_drain_exit(key);
	for (i = 0; i < DMU_ATTR_BLOCKS; i++)
		kfree(key->attrs[i]);
	free_percpu(key->completions);
	free_percpu(key->counts);
	kfree(key);
}

/* May sleep. */
void dmu_key_put(struct dmu_key *key)
{
	kref_put_mutex(&key->ref, release, &keys_lock);
}

static bool same_attr(const struct dmu_attr *a, const struct dmu_attr *b)
{
	return a->kind == b->kind && a->writable == b->writable && a->discard == b->discard &&
	       a->zeroes == b->zeroes && a->pool == b->pool && a->dest == b->dest && a->tell == b->tell && a->ask == b->ask &&
	       a->mirror == b->mirror && a->distance == b->distance;
}

static struct dmu_attr *attr_slot(struct dmu_key *key, unsigned int tag)
{
	return &key->attrs[tag / DMU_ATTR_BLOCK][tag % DMU_ATTR_BLOCK];
}

static u8 straight(const struct dmu_attr *attr)
{
	if (attr->tell || (attr->kind != DMU_KIND_LINEAR && attr->kind != DMU_KIND_COW))
		return 0;
	return DMU_STRAIGHT_READ | (attr->writable && !attr->mirror ? DMU_STRAIGHT_WRITE : 0);
}

/*
 * The tag that stands for these attributes. There are few: kinds times
 * destinations times pools. -ENOMEM, -ENOSPC. Readers meet a tag only through
 * the map, published later.
 */
int dmu_attr_intern(struct dmu_key *key, const struct dmu_attr *want)
{
	unsigned int tag;

	lockdep_assert_held(&key->map_lock);
	for (tag = key->attr_count; tag; tag--)
		if (same_attr(attr_slot(key, tag), want))
			return tag;
	tag = key->attr_count + 1;
	if (tag > DMU_TAG_MAX)
		return -ENOSPC;
	if (!key->attrs[tag / DMU_ATTR_BLOCK]) {
		key->attrs[tag / DMU_ATTR_BLOCK] = kcalloc(DMU_ATTR_BLOCK, sizeof(*want), GFP_NOIO);
		if (!key->attrs[tag / DMU_ATTR_BLOCK])
			return -ENOMEM;
	}
	*attr_slot(key, tag) = *want;
	attr_slot(key, tag)->straight = straight(want);
	key->attr_count = tag;
	return tag;
}
