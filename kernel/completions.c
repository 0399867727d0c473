// SPDX-License-Identifier: GPL-2.0
/*
 * Completions that the file system leaves to the submitter, which would take a
 * turn of a worker each: those of a CPU that come meanwhile share one.
 *
 * Where the task that submitted the write is still running, it may be about to
 * submit more, and would gain nothing from being preempted: then a thread of the
 * CPU that preempts nobody does it as soon as that task sleeps, or has had its
 * time. If it waits for each of its writes, this costs more than a worker at once:
 * whoever did is asked again only after a while.
 *
 * A completion may wait for a journal that lies on another device of ours: those
 * of one key never wait behind those of another. Nor behind a submission: that may
 * hold the file's lock, or wait for it, until all writes under way have completed.
 */
#include <linux/sched/mm.h>
#include <linux/smpboot.h>
#include <uapi/linux/sched/types.h>

#include "dmu.h"

#define EAGER_TURNS	64

struct lazy {
	struct llist_head ios;
	struct task_struct *thread;
	unsigned int eager;	/* so many do not wait here */
	bool busy;
};

static DEFINE_PER_CPU(struct lazy, lazy);

static void complete_list(struct llist_node *list)
{
	unsigned int flags = memalloc_noio_save();
	struct dmu_io *io, *next;

	llist_for_each_entry_safe(io, next, list, completed) {
		io->result = dmu_complete_for(&io->iocb);
		dmu_file_ended(io);
	}
	memalloc_noio_restore(flags);
}

static void completions_work(struct work_struct *work)
{
	struct dmu_completions *here = container_of(work, struct dmu_completions, work);

	complete_list(llist_reverse_order(llist_del_all(&here->ios)));
}

/*
 * With preemption off, as the request may end before its work is queued: a key goes
 * only after its table has, and that waits for all such sections.
 */
static void to_worker(struct dmu_io *io)
{
	struct dmu_key *key = io->key;
	struct dmu_completions *here = this_cpu_ptr(key->completions);

	llist_add(&io->completed, &here->ios);
	queue_work(key->done_wq, &here->work);
}

static bool may_be_lazy(struct lazy *here, const struct dmu_io *io)
{
	unsigned int eager = READ_ONCE(here->eager);

	if (eager)
		WRITE_ONCE(here->eager, eager - 1);
	/* A CPU that goes is inactive before its thread is parked. */
	return !eager && io->submitter == current && !READ_ONCE(here->busy) && cpu_active(smp_processor_id());
}

/* May be called in an interrupt. */
void dmu_completion_add(struct dmu_io *io)
{
	struct lazy *here = get_cpu_ptr(&lazy);

	if (!may_be_lazy(here, io))
		to_worker(io);
	else if (llist_add(&io->completed, &here->ios))
		wake_up_process(here->thread);
	put_cpu_ptr(&lazy);
}

static void thread_setup(unsigned int cpu)
{
	struct sched_attr attr = { .size = sizeof(attr), .sched_policy = SCHED_BATCH };

	WARN_ON_ONCE(sched_setattr_nocheck(current, &attr));
}

static int thread_should_run(unsigned int cpu)
{
	return !llist_empty(&per_cpu(lazy, cpu).ios);
}

/* Those of the first one's key; of other keys are few, if any. */
static void thread_run(unsigned int cpu)
{
	struct lazy *here = per_cpu_ptr(&lazy, cpu);
	LLIST_HEAD(ours);
	const struct dmu_key *key = NULL;
	struct llist_node *list;
	struct dmu_io *io, *next;
	unsigned int count = 0;

	WRITE_ONCE(here->busy, true);
	list = llist_reverse_order(llist_del_all(&here->ios));
	preempt_disable();
	llist_for_each_entry_safe(io, next, list, completed) {
		if (!key)
			key = io->key;
		if (io->key == key)
			__llist_add(&io->completed, &ours);
		else
			to_worker(io);
		count++;
	}
	preempt_enable();
	complete_list(llist_reverse_order(__llist_del_all(&ours)));
	WRITE_ONCE(here->eager, count > 1 ? 0 : EAGER_TURNS);
	WRITE_ONCE(here->busy, false);
}

static struct smp_hotplug_thread threads = {
	.store = &lazy.thread,
	.setup = thread_setup,
	.thread_should_run = thread_should_run,
	.thread_fn = thread_run,
	.park = thread_run,
	.thread_comm = "dmu/%u",
};

struct dmu_completions __percpu *dmu_completions_alloc(void)
{
	struct dmu_completions __percpu *completions = alloc_percpu(struct dmu_completions);
	int cpu;

	for_each_possible_cpu(cpu) {
		if (!completions)
			break;
		init_llist_head(&per_cpu_ptr(completions, cpu)->ios);
		INIT_WORK(&per_cpu_ptr(completions, cpu)->work, completions_work);
	}
	return completions;
}

int dmu_completions_init(void)
{
	return DMU_CALLER_COMPLETES ? smpboot_register_percpu_thread(&threads) : 0;
}

/* All requests have ended. */
void dmu_completions_exit(void)
{
	if (DMU_CALLER_COMPLETES)
		smpboot_unregister_percpu_thread(&threads);
}
