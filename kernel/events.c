// SPDX-License-Identifier: GPL-2.0
/* What goes up a channel: events, in one ordered stream. */
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/uaccess.h>

#include "dmu.h"

#define EVENTS_PER_TURN	32
#define CHANGES_PER_WAKE	512

void dmu_event_queue(struct dmu_key *key, struct dmu_event_node *event, u8 type)
{
	lockdep_assert_held(&key->lock);
	event->type = type;
	list_add_tail(&event->list, &key->events);
	/* Nobody waits for a change to be read: the mapper is woken for many at once. */
	if (type != DMU_EV_CHANGED || ++key->unread_changes >= CHANGES_PER_WAKE) {
		key->unread_changes = 0;
		wake_up(&key->wait);
	} else if (key->unread_changes == 1 && key->attached) {
		queue_delayed_work(dmu_wq, &key->nudge, HZ / 5);
	}
}

void dmu_event_nudge(struct work_struct *work)
{
	struct dmu_key *key = container_of(to_delayed_work(work), struct dmu_key, nudge);

	spin_lock_irq(&key->lock);
	key->unread_changes = 0;
	spin_unlock_irq(&key->lock);
	wake_up(&key->wait);
}

static bool is_note(const struct dmu_event_node *event)
{
	return event->type != DMU_EV_MISS && event->type != DMU_EV_CHANGED && event->type != DMU_EV_FLUSH &&
	       event->type != DMU_EV_LEASE_LOW;
}

/* Nobody will read it any more. */
void dmu_event_drop(struct dmu_event_node *event)
{
	list_del_init(&event->list);
	if (is_note(event) && event->type)
		kfree(container_of(event, struct dmu_note, event));
}

static void queue_note(struct dmu_key *key, struct dmu_note *note)
{
	if (key->attached)
		dmu_event_queue(key, &note->event, note->wire.type);
	else
		kfree(note);
}

/* With key->lock held: GFP_ATOMIC. */
int dmu_event_note(struct dmu_key *key, const struct dmu_event *wire, gfp_t gfp)
{
	struct dmu_note *note = kmalloc(sizeof(*note), gfp);

	if (!note)
		return -ENOMEM;
	note->wire = *wire;
	INIT_LIST_HEAD(&note->event.list);
	if (gfp == GFP_ATOMIC) {
		queue_note(key, note);
		return 0;
	}
	spin_lock_irq(&key->lock);
	queue_note(key, note);
	spin_unlock_irq(&key->lock);
	return 0;
}

static void describe_change(const struct dmu_log *entry, struct dmu_event *wire)
{
	wire->sequence = entry->sequence;
	wire->start = entry->start;
	wire->length = entry->length;
	wire->kind = entry->kind;
	wire->destination = entry->destination;
	wire->physical = entry->physical;
}

static void describe_flush(struct dmu_flush *flush, struct dmu_event *wire)
{
	wire->id = flush->id;
	wire->sequence = flush->sequence;
	wire->start = flush->came;
	wire->flags = (flush->told ? DMU_MISS_AGAIN : 0) | (flush->asked ? DMU_FLUSH_ASKED : 0);
	wire->error = -flush->error;
	wire->destination = flush->destination;
	flush->told = true;
}

/* Takes the first event off the queue. */
static void take_event(struct dmu_key *key, struct dmu_event *wire)
{
	struct dmu_event_node *event = list_first_entry(&key->events, struct dmu_event_node, list);

	memset(wire, 0, sizeof(*wire));
	wire->type = event->type;
	switch (event->type) {
	case DMU_EV_MISS:
		dmu_miss_describe(container_of(event, struct dmu_miss, event), wire);
		break;
	case DMU_EV_CHANGED:
		describe_change(container_of(event, struct dmu_log, event), wire);
		break;
	case DMU_EV_FLUSH:
		describe_flush(container_of(event, struct dmu_flush, event), wire);
		break;
	case DMU_EV_LEASE_LOW:
		dmu_lease_describe_low(event, wire);
		break;
	default:
		*wire = container_of(event, struct dmu_note, event)->wire;
	}
	dmu_event_drop(event);
}

/* What a mapper reads: returns how many there were. */
unsigned int dmu_events_take(struct dmu_key *key, struct dmu_event *wire, unsigned int most)
{
	unsigned int count = 0;

	spin_lock_irq(&key->lock);
	while (count < most && !list_empty(&key->events))
		take_event(key, &wire[count++]);
	spin_unlock_irq(&key->lock);
	return count;
}

ssize_t dmu_channel_read(struct file *file, char __user *buffer, size_t size, loff_t *position)
{
	struct dmu_key *key = file->private_data;
	size_t fit = size / sizeof(struct dmu_event), done = 0;
	struct dmu_event *batch;
	ssize_t result = -EINVAL;
	unsigned int most, count;

	if (!fit)
		return result;
	batch = kmalloc_array(EVENTS_PER_TURN, sizeof(*batch), GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	do {
		most = min_t(size_t, fit - done, EVENTS_PER_TURN);
		/* What has been taken cannot be put back. */
		if (fault_in_writeable(buffer + done * sizeof(*batch), most * sizeof(*batch)))
			goto bad_buffer;
		count = dmu_events_take(key, batch, most);
		if (!count && !done) {
			result = -EAGAIN;
			if (file->f_flags & O_NONBLOCK)
				goto out;
			result = wait_event_interruptible(key->wait, !list_empty_careful(&key->events));
			if (result)
				goto out;
			continue;
		}
		if (copy_to_user(buffer + done * sizeof(*batch), batch, count * sizeof(*batch)))
			goto bad_buffer;
		done += count;
		result = done * sizeof(*batch);
	} while (done < fit && (count || !done));
	goto out;

bad_buffer:
	if (!done)
		result = -EFAULT;
out:
	kfree(batch);
	return result;
}

__poll_t dmu_channel_poll(struct file *file, poll_table *table)
{
	struct dmu_key *key = file->private_data;

	poll_wait(file, &key->wait, table);
	return EPOLLOUT | EPOLLWRNORM | (list_empty_careful(&key->events) ? 0 : EPOLLIN | EPOLLRDNORM);
}
