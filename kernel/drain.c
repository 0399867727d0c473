// SPDX-License-Identifier: GPL-2.0
/*
 * Waiting for I/O issued before. Requests count themselves in one of two
 * per-CPU references; a drain turns new ones to the other, and waits for the
 * first to come to nothing. All drains that were asked for by then share it.
 */
#include "dmu.h"

static void phase_empty(struct percpu_ref *ref)
{
	/* The current phase is only ever killed by a drain, or when the key dies. */
	struct dmu_key *key = container_of(ref, struct dmu_key, inflight[0]);

	queue_work(dmu_wq, &key->drained);
}

static void other_phase_empty(struct percpu_ref *ref)
{
	struct dmu_key *key = container_of(ref, struct dmu_key, inflight[1]);

	queue_work(dmu_wq, &key->drained);
}

static void start_next(struct dmu_key *key)
{
	u8 old;

	lockdep_assert_held(&key->lock);
	if (!list_empty(&key->draining) || list_empty(&key->drains))
		return;
	list_splice_init(&key->drains, &key->draining);
	old = key->phase;
	WRITE_ONCE(key->phase, !old);
	percpu_ref_kill(&key->inflight[old]);
}

static void drained(struct work_struct *work)
{
	struct dmu_key *key = container_of(work, struct dmu_key, drained);
	struct dmu_event wire = { .type = DMU_EV_INVALIDATED };
	struct dmu_drain *drain, *next;
	LIST_HEAD(done);

	percpu_ref_reinit(&key->inflight[!key->phase]);
	spin_lock_irq(&key->lock);
	list_splice_init(&key->draining, &done);
	spin_unlock_irq(&key->lock);
	list_for_each_entry_safe(drain, next, &done, list) {
		if (drain->done) {
			/* It lies on the stack of who waits. */
			complete(drain->done);
		} else {
			wire.id = drain->id;
			dmu_event_note(key, &wire, GFP_NOIO | __GFP_NOFAIL);
			kfree(drain);
		}
	}
	spin_lock_irq(&key->lock);
	start_next(key);
	spin_unlock_irq(&key->lock);
}

int dmu_drain_init(struct dmu_key *key)
{
	int error = percpu_ref_init(&key->inflight[0], phase_empty, PERCPU_REF_ALLOW_REINIT, GFP_KERNEL);

	if (error)
		return error;
	error = percpu_ref_init(&key->inflight[1], other_phase_empty, PERCPU_REF_ALLOW_REINIT, GFP_KERNEL);
	if (error)
		percpu_ref_exit(&key->inflight[0]);
	INIT_LIST_HEAD(&key->drains);
	INIT_LIST_HEAD(&key->draining);
	INIT_WORK(&key->drained, drained);
	return error;
}

void dmu_drain_exit(struct dmu_key *key)
{
	percpu_ref_exit(&key->inflight[0]);
	percpu_ref_exit(&key->inflight[1]);
}

static void queue_drain(struct dmu_key *key, struct dmu_drain *drain)
{
	spin_lock_irq(&key->lock);
	list_add_tail(&drain->list, &key->drains);
	start_next(key);
	spin_unlock_irq(&key->lock);
}

/* INVALIDATED with the id follows. */
int dmu_drain(struct dmu_key *key, u64 id)
{
	struct dmu_drain *drain = kzalloc(sizeof(*drain), GFP_KERNEL);

	if (!drain)
		return -ENOMEM;
	drain->id = id;
	queue_drain(key, drain);
	return 0;
}

/* Blocks for as long as I/O to the destinations takes. Never fails: who calls has no way back. */
void dmu_drain_wait(struct dmu_key *key)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct dmu_drain drain = { .done = &done };

	queue_drain(key, &drain);
	wait_for_completion(&done);
}
