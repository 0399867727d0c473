// SPDX-License-Identifier: GPL-2.0
/* The tests' key, mapper and requests, in a module without a target: see kunit_rig.h. */
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>

#include "kunit_rig.h"
#include "miss.h"

#define PATIENCE	(60 * HZ)	/* only a broken module makes anybody wait so long */
#define TURNS		8		/* from one queue to the next, until a request on its way is seen somewhere */

/* ------------------------------------------------------- destinations --- */

static int add_dest(struct rig *rig, u32 number)
{
	struct file *file = shmem_file_setup("dmu-kunit", (loff_t)RIG_DEST_SECTORS << SECTOR_SHIFT, 0);
	struct dmu_destination wire = { .number = number, .flags = DMU_DEST_BUFFERED };
	int error;

	if (IS_ERR(file))
		return PTR_ERR(file);
	wire.fd = get_unused_fd_flags(O_CLOEXEC);
	if (wire.fd < 0) {
		fput(file);
		return wire.fd;
	}
	fd_install(wire.fd, file);
	mutex_lock(&rig->key->control);
	error = dmu_dest_add(rig->key, &wire);
	mutex_unlock(&rig->key->control);
	close_fd(wire.fd);
	if (!error)
		rig->dest[number] = xa_load(&rig->key->dests, number);
	return error;
}

static void stall_work(struct kthread_work *work)
{
	wait_for_completion(&container_of(work, struct rig_stall, work)->over);
}

void rig_stall(struct rig *rig, unsigned int dest)
{
	struct rig_stall *stall = &rig->stall[dest];

	kthread_init_work(&stall->work, stall_work);
	init_completion(&stall->over);
	stall->on = true;
	kthread_queue_work(rig->dest[dest]->writer, &stall->work);
}

void rig_go(struct rig *rig, unsigned int dest)
{
	struct rig_stall *stall = &rig->stall[dest];

	if (!stall->on)
		return;
	stall->on = false;
	complete(&stall->over);
	kthread_flush_work(&stall->work);
}

static bool is_stalled(const struct rig *rig, const struct dmu_dest *dest)
{
	unsigned int i;

	for (i = 0; i < RIG_DESTS; i++)
		if (rig->stall[i].on && rig->dest[i] == dest)
			return true;
	return false;
}

/* A request may fill one place after another, and those that waited for it follow. */
static bool is_filling(struct rig *rig)
{
	struct dmu_miss *miss;
	bool filling = false;

	spin_lock_irq(&rig->key->lock);
	for (miss = miss_tree_iter_first(&rig->key->writes, 0, ~0ull); miss && !filling;
	     miss = miss_tree_iter_next(miss, 0, ~0ull))
		filling = miss->state == DMU_MISS_FILLING && !is_stalled(rig, miss->dest);
	spin_unlock_irq(&rig->key->lock);
	return filling;
}

void rig_settle(struct rig *rig)
{
	unsigned long end = jiffies + PATIENCE;
	unsigned int turn, i;

	for (turn = 0; turn < TURNS; turn++) {
		if (is_filling(rig) && time_before(jiffies, end))
			turn = 0;
		flush_workqueue(rig->key->wq);
		flush_workqueue(rig->key->done_wq);
		flush_workqueue(dmu_wq);
		for (i = 0; i < RIG_DESTS; i++)
			if (rig->dest[i] && rig->dest[i]->writer && !rig->stall[i].on)
				kthread_flush_worker(rig->dest[i]->writer);
	}
	flush_workqueue(rig->key->wq);
}

bool rig_is_all(const u8 *data, u64 sectors, u8 byte)
{
	return !memchr_inv(data, byte, sectors << SECTOR_SHIFT);
}

bool rig_holds(struct rig *rig, unsigned int dest, u64 physical, u64 sectors, u8 byte)
{
	size_t bytes = sectors << SECTOR_SHIFT;
	loff_t position = physical << SECTOR_SHIFT;
	u8 *data = kvmalloc(bytes, GFP_KERNEL);
	bool same;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(rig->test, data);
	same = kernel_read(rig->dest[dest]->file, data, bytes, &position) == bytes && rig_is_all(data, sectors, byte);
	kvfree(data);
	return same;
}

void rig_write_dest(struct rig *rig, unsigned int dest, u64 physical, u64 sectors, u8 byte)
{
	size_t bytes = sectors << SECTOR_SHIFT;
	loff_t position = physical << SECTOR_SHIFT;
	u8 *data = kvmalloc(bytes, GFP_KERNEL);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(rig->test, data);
	memset(data, byte, bytes);
	KUNIT_EXPECT_EQ(rig->test, kernel_write(rig->dest[dest]->file, data, bytes, &position), (ssize_t)bytes);
	kvfree(data);
}

/* ----------------------------------------------------------- requests --- */

/* As the target's end_io does. */
static void request_ended(struct bio *bio)
{
	struct rig_request *request = bio->bi_private;

	dmu_phase_put(request->io.key, &request->io.phase);
	request->status = bio->bi_status;
	complete_all(&request->ended);
}

/*
 * From where a request goes on that is not a plain hit: there the bio need
 * not be one of device-mapper's.
 */
struct rig_request *rig_submit(struct rig *rig, blk_opf_t op, u64 start, u64 sectors, u8 byte)
{
	struct rig_request *request = kzalloc(sizeof(*request), GFP_KERNEL | __GFP_NOFAIL);
	size_t bytes = sectors << SECTOR_SHIFT;
	bool has_data = (op & REQ_OP_MASK) == REQ_OP_READ || (op & REQ_OP_MASK) == REQ_OP_WRITE;

	init_completion(&request->ended);
	request->bio = bio_alloc(NULL, 1, op, GFP_KERNEL);
	request->bio->bi_iter.bi_sector = start;
	request->bio->bi_end_io = request_ended;
	request->bio->bi_private = request;
	if (bytes && has_data) {
		request->data = kmalloc(bytes, GFP_KERNEL);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(rig->test, request->data);
		memset(request->data, byte, bytes);
		__bio_add_page(request->bio, virt_to_page(request->data), bytes, offset_in_page(request->data));
	}
	request->bio->bi_iter.bi_size = bytes;
	request->io.key = rig->key;
	request->io.bio = request->bio;
	request->io.phase = DMU_NO_PHASE;
	request->io.came = ktime_get_ns();
	list_add_tail(&request->list, &rig->requests);
	dmu_io_queue(&request->io);
	return request;
}

bool rig_waits(struct rig *rig, struct rig_request *request)
{
	rig_settle(rig);
	return !completion_done(&request->ended);
}

blk_status_t rig_status(struct rig *rig, struct rig_request *request)
{
	rig_settle(rig);
	KUNIT_EXPECT_TRUE_MSG(rig->test, completion_done(&request->ended), "a request has not ended");
	return request->status;
}

bool rig_reads(struct rig *rig, u64 start, u64 sectors, u8 byte)
{
	struct rig_request *request = rig_submit(rig, REQ_OP_READ, start, sectors, ~byte);

	return !rig_status(rig, request) && rig_is_all(request->data, sectors, byte);
}

void rig_forget(struct rig_request *request)
{
	list_del(&request->list);
	bio_put(request->bio);
	kfree(request->data);
	kfree(request);
}

/* Who is not done by now waits for ever: then nothing may be freed. */
static bool end_requests(struct rig *rig)
{
	struct rig_request *request, *next;

	dmu_key_set_fail(rig->key, true);
	list_for_each_entry(request, &rig->requests, list) {
		if (!wait_for_completion_timeout(&request->ended, PATIENCE)) {
			KUNIT_FAIL(rig->test, "a request at %llu never ended",
				   (u64)request->bio->bi_iter.bi_sector);
			return false;
		}
	}
	list_for_each_entry_safe(request, next, &rig->requests, list)
		rig_forget(request);
	return true;
}

/* ---------------------------------------------------- the mapper's part --- */

int rig_apply(struct rig *rig, const struct dmu_command *command)
{
	unsigned int noio;
	int error;

	mutex_lock(&rig->key->control);
	noio = memalloc_noio_save();
	error = dmu_command_apply(rig->key, command);
	memalloc_noio_restore(noio);
	mutex_unlock(&rig->key->control);
	return error;
}

int rig_commit(struct rig *rig, u64 sequence)
{
	return RIG_APPLY(rig, .type = DMU_CMD_COMMITTED, .sequence = sequence);
}

void rig_map_zero(struct rig *rig, u64 start, u64 length, u32 pool)
{
	KUNIT_ASSERT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_MAP, .start = start, .length = length,
						.kind = DMU_KIND_ZERO, .pool = pool));
}

void rig_pool(struct rig *rig, u32 pool, u64 low)
{
	KUNIT_ASSERT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_POOL, .pool = pool, .length = rig->key->grain,
						.physical = rig->key->grain, .sequence = low));
}

void rig_lease(struct rig *rig, u32 pool, u32 dest, u64 physical, u64 length, u32 flags)
{
	KUNIT_ASSERT_EQ(rig->test, 0, RIG_APPLY(rig, .type = DMU_CMD_LEASE, .pool = pool, .destination = dest,
						.physical = physical, .length = length, .flags = flags));
}

bool rig_change(struct rig *rig, u64 start, u64 length, u64 physical)
{
	struct dmu_log *entry = dmu_log_alloc(GFP_KERNEL | __GFP_NOFAIL);
	bool room;

	spin_lock_irq(&rig->key->lock);
	room = dmu_log_room(rig->key);
	spin_unlock_irq(&rig->key->lock);
	if (!room) {
		kfree(entry);
		return false;
	}
	entry->start = start;
	entry->length = length;
	entry->physical = physical;
	entry->kind = DMU_KIND_LINEAR;
	dmu_log_append(rig->key, entry);
	rig_settle(rig);
	return true;
}

struct dmu_state rig_state(struct rig *rig)
{
	struct dmu_state state;

	rig_settle(rig);
	dmu_key_state(rig->key, &state);
	return state;
}

static void show(struct kunit *test, const char *what, const struct dmu_event *event)
{
	kunit_err(test, "%s: type %u flags %x id %llu start %llu length %llu sequence %llu physical %llu destination %u kind %u op %u pool/error %u\n",
		  what, event->type, event->flags, event->id, event->start, event->length, event->sequence,
		  event->physical, event->destination, event->kind, event->op, event->pool);
}

void rig_expect(struct rig *rig, int line, const struct dmu_event *want)
{
	struct dmu_event got = {};

	rig_settle(rig);
	dmu_events_take(rig->key, &got, 1);
	if (got.type == DMU_EV_FLUSH)
		got.start = !!got.start;
	if (!memcmp(&got, want, sizeof(got)))
		return;
	KUNIT_FAIL(rig->test, "line %d: another event", line);
	show(rig->test, "wanted", want);
	show(rig->test, "got", &got);
}

/* --------------------------------------------------------------- life --- */

/* Not when the module is loaded: there are kernels that run suites before that. */
int rig_begin(struct kunit_suite *suite)
{
	int error = dmu_pools_init();

	if (error)
		return error;
	dmu_wq = alloc_workqueue("dmu-kunit", WQ_MEM_RECLAIM, 0);
	if (dmu_wq)
		return 0;
	dmu_pools_exit();
	return -ENOMEM;
}

void rig_end(struct kunit_suite *suite)
{
	destroy_workqueue(dmu_wq);
	dmu_pools_exit();
	/* Nodes of maps may still be on their way through RCU. */
	rcu_barrier();
}

int rig_init(struct kunit *test)
{
	struct rig *rig = kunit_kzalloc(test, sizeof(*rig), GFP_KERNEL);
	unsigned int i;
	int error;

	if (!rig)
		return -ENOMEM;
	rig->test = test;
	INIT_LIST_HEAD(&rig->requests);
	rig->key = dmu_key_get("kunit", true);
	if (IS_ERR(rig->key))
		return PTR_ERR(rig->key);
	test->priv = rig;
	rig->key->sectors = RIG_SECTORS;
	for (i = 0; i < RIG_DESTS; i++) {
		error = add_dest(rig, i);
		if (error)
			return error;
	}
	error = dmu_key_attach(rig->key);
	if (error)
		return error;
	EXPECT_EVENT(rig, .type = DMU_EV_ATTACHED, .length = RIG_SECTORS);
	return 0;
}

void rig_exit(struct kunit *test)
{
	struct rig *rig = test->priv;
	unsigned int i;

	if (!rig)
		return;
	for (i = 0; i < RIG_DESTS; i++)
		rig_go(rig, i);
	if (!end_requests(rig))
		return;
	rig_settle(rig);
	dmu_key_detach(rig->key);
	dmu_key_put(rig->key);
}

MODULE_DESCRIPTION("Tests of the device-mapper target whose map is made by a process");
MODULE_AUTHOR("dm-userspace developers");
MODULE_LICENSE("GPL");
