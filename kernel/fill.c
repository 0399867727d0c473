// SPDX-License-Identifier: GPL-2.0
/*
 * The first write of grains: what the request does not cover is filled from
 * what the map holds there (gather.c in one write, here piecemeal where there
 * is no memory for that), the data is written, the change is logged and
 * published, then the request ends. Everything else that wants to write there
 * waits on the miss that became this fill; reads go on seeing what was.
 */
#include <linux/sched/mm.h>

#include "dmu.h"

#define CHUNK_PAGES	64

/* Pages to copy through; one there is always, more when memory allows. */
struct chunk {
	unsigned int count;
	struct bio_vec pages[CHUNK_PAGES];
};

static struct chunk *chunk_alloc(void)
{
	struct chunk *chunk = kmalloc(sizeof(*chunk), GFP_NOIO | __GFP_NOFAIL);

	chunk->count = 0;
	while (chunk->count < CHUNK_PAGES) {
		struct page *page = chunk->count ? alloc_page(GFP_NOWAIT | __GFP_NOWARN)
						 : mempool_alloc(&dmu_page_pool, GFP_NOIO);

		if (!page)
			break;
		chunk->pages[chunk->count].bv_page = page;
		chunk->pages[chunk->count].bv_offset = 0;
		chunk->pages[chunk->count++].bv_len = PAGE_SIZE;
	}
	return chunk;
}

static void chunk_free(struct chunk *chunk)
{
	while (chunk->count > 1)
		__free_page(chunk->pages[--chunk->count].bv_page);
	mempool_free(chunk->pages[0].bv_page, &dmu_page_pool);
	kfree(chunk);
}

static u64 chunk_sectors(const struct chunk *chunk)
{
	return (u64)chunk->count << (PAGE_SHIFT - SECTOR_SHIFT);
}

int dmu_write_zeros(struct dmu_dest *dest, u64 physical, u64 sectors)
{
	struct chunk *chunk;
	unsigned int i;
	int error = 0;

	if (!sectors)
		return 0;
	chunk = chunk_alloc();
	for (i = 0; i < chunk->count; i++)
		clear_page(page_address(chunk->pages[i].bv_page));
	while (sectors && !error) {
		u64 now = min(sectors, chunk_sectors(chunk));

		error = dmu_rw_pages(dest, true, physical, chunk->pages, chunk->count, now << SECTOR_SHIFT);
		physical += now;
		sectors -= now;
	}
	chunk_free(chunk);
	return error;
}

static int copy(struct dmu_dest *from, u64 source, struct dmu_dest *to, u64 target, u64 sectors)
{
	struct chunk *chunk = chunk_alloc();
	int error = 0;

	while (sectors && !error) {
		u64 now = min(sectors, chunk_sectors(chunk));

		error = dmu_rw_pages(from, false, source, chunk->pages, chunk->count, now << SECTOR_SHIFT);
		if (!error)
			error = dmu_rw_pages(to, true, target, chunk->pages, chunk->count, now << SECTOR_SHIFT);
		source += now;
		target += now;
		sectors -= now;
	}
	chunk_free(chunk);
	return error;
}

/* -ESTALE: the map no longer holds there what a first write starts from. */
static int fill_range(struct dmu_miss *miss, u64 start, u64 stop)
{
	int error = 0;

	while (start < stop && !error) {
		u64 target = miss->physical + (start - miss->start);
		u64 run, value = dmu_look_up(miss->key, start, &run);
		const struct dmu_attr *attr = dmu_attr(miss->key, value);
		u64 now = min(run, stop - start);

		if (value == DMU_VALUE_NONE)
			return -ESTALE;
		if (attr->kind == DMU_KIND_COW)
			error = copy(attr->dest, dmu_value_physical(value), miss->dest, target, now);
		else if (attr->kind != DMU_KIND_ZERO)
			return -ESTALE;
		else if (!miss->reads_zero)
			error = dmu_write_zeros(miss->dest, target, now);
		start += now;
	}
	return error;
}

/* A place is for what reads as zeros or from a source, all of it. */
static int check_places(struct dmu_miss *miss)
{
	u64 at = miss->start;

	while (at <= miss->last) {
		u64 run, value = dmu_look_up(miss->key, at, &run);
		u8 kind = dmu_attr(miss->key, value)->kind;

		if (value == DMU_VALUE_NONE || (kind != DMU_KIND_ZERO && kind != DMU_KIND_COW))
			return -ESTALE;
		at += min(run, miss->last + 1 - at);
	}
	return 0;
}

static int write_piecemeal(struct dmu_miss *miss)
{
	struct dmu_io *io = miss->primary;
	u64 past_end = miss->start + miss->space - (miss->last + 1);
	int error = fill_range(miss, miss->start, dmu_io_start(io));

	if (!error)
		error = fill_range(miss, dmu_io_stop(io), miss->last + 1);
	if (!error && !miss->reads_zero)
		error = dmu_write_zeros(miss->dest, miss->physical + miss->space - past_end, past_end);
	if (!error)
		error = dmu_rw_bio(miss->dest, miss->physical + (dmu_io_start(io) - miss->start), io->bio);
	return error;
}

static void describe(struct dmu_miss *miss)
{
	struct dmu_log *entry = miss->log;

	entry->start = miss->start;
	entry->length = miss->last + 1 - miss->start;
	entry->kind = miss->error ? DMU_KIND_LOST : DMU_KIND_LINEAR;
	entry->destination = miss->dest->number;
	entry->physical = miss->physical;
}

/*
 * Log, then map: a request that finds the new extent, ends, and is followed
 * by a flush must find the change in the log.
 */
static void publish(struct dmu_miss *miss)
{
	struct dmu_key *key = miss->key;

	lockdep_assert_held(&key->map_lock);
	describe(miss);
	dmu_log_append(key, miss->log);
	miss->log = NULL;
	if (!miss->error)
		dmu_map_assign(&key->map, miss->start, miss->last + 1,
			       dmu_value(miss->tag, true, miss->physical), GFP_NOIO | __GFP_NOFAIL);
}

/* The key may go with the last request. */
static void end(struct dmu_miss *miss)
{
	struct dmu_io *io = miss->primary;
	int error = miss->error;

	dmu_phase_put(miss->key, &miss->phase);
	if (!error)
		atomic64_inc(&miss->key->first_writes);
	dmu_miss_finish(miss);
	mempool_free(miss, &dmu_miss_pool);
	if (error == -ESTALE) {
		dmu_io_queue(io);
	} else if (error) {
		dmu_io_end(io, errno_to_blk_status(error));
	} else {
		if (io->bio->bi_opf & REQ_FUA)
			io->flush_after = true;
		dmu_io_written(io);
	}
}

/* Those that were written meanwhile share one turn. */
void dmu_fill_publish(struct work_struct *work)
{
	struct dmu_key *key = container_of(work, struct dmu_key, publish);
	struct llist_node *list = llist_reverse_order(llist_del_all(&key->written));
	unsigned int flags = memalloc_noio_save();
	struct dmu_miss *miss, *next;

	llist_for_each_entry(miss, list, written)
		if (miss->error == -E2BIG)
			miss->error = write_piecemeal(miss);
	mutex_lock(&key->map_lock);
	llist_for_each_entry(miss, list, written)
		publish(miss);
	dmu_shrink_check(key, false);
	mutex_unlock(&key->map_lock);
	llist_for_each_entry_safe(miss, next, list, written)
		end(miss);
	memalloc_noio_restore(flags);
}

/* The data is there, or it failed. May be called in an interrupt. */
void dmu_fill_written(struct dmu_miss *miss, int error)
{
	struct dmu_key *key = miss->key;

	miss->error = error;
	if (!llist_add(&miss->written, &key->written))
		return;
	/* A file system that completes on a worker of its own spares one of ours. */
	if (error != -E2BIG && IS_ENABLED(CONFIG_PREEMPT_COUNT) && preemptible() && current_work())
		dmu_fill_publish(&key->publish);
	else
		queue_work(key->wq, &key->publish);
}

static void fill(struct dmu_miss *miss)
{
	unsigned int flags = memalloc_noio_save();
	struct dmu_io *io = miss->primary;
	int error = 0;

	if (dmu_io_stop(io) > miss->last + 1) {
		/* The place is shorter than the request: the rest looks again. */
		miss->primary = dmu_io_split(io, miss->last + 1 - dmu_io_start(io));
		dmu_io_queue(io);
	}
	if (miss->phase == DMU_NO_PHASE) {
		dmu_phase_get(miss->key, &miss->phase);
		error = check_places(miss);
	}
	if (!error)
		error = miss->dest->writer ? -E2BIG : dmu_write_gathered(miss);
	if (error == -E2BIG || error == -ENOMEM)
		dmu_fill_written(miss, write_piecemeal(miss));
	else if (error)
		dmu_fill_written(miss, error);
	memalloc_noio_restore(flags);
}

static void fill_work(struct work_struct *work)
{
	fill(container_of(work, struct dmu_miss, work));
}

static void fill_kwork(struct kthread_work *work)
{
	fill(container_of(work, struct dmu_miss, kwork));
}

/* From a worker: a lease was taken, or a command came. */
void dmu_fill_start(struct dmu_miss *miss)
{
	if (miss->dest->writer) {
		kthread_init_work(&miss->kwork, fill_kwork);
		kthread_queue_work(miss->dest->writer, &miss->kwork);
		return;
	}
	if (current_work()) {
		fill(miss);
		return;
	}
	INIT_WORK(&miss->work, fill_work);
	queue_work(miss->key->wq, &miss->work);
}
