// SPDX-License-Identifier: GPL-2.0
/* /dev/dmu and the channels: events up, commands down. */
#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/uaccess.h>

#include "dmu.h"

#define EVENTS_PER_TURN	32

/* ------------------------------------------------------------- events --- */

void dmu_event_queue(struct dmu_key *key, struct dmu_event_node *event, u8 type)
{
	lockdep_assert_held(&key->lock);
	event->type = type;
	list_add_tail(&event->list, &key->events);
	wake_up(&key->wait);
}

static bool is_note(const struct dmu_event_node *event)
{
	return event->type != DMU_EV_MISS && event->type != DMU_EV_CHANGED && event->type != DMU_EV_FLUSH;
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
	wire->flags = flush->told ? DMU_MISS_AGAIN : 0;
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
	default:
		*wire = container_of(event, struct dmu_note, event)->wire;
	}
	dmu_event_drop(event);
}

static unsigned int take_events(struct dmu_key *key, struct dmu_event *wire, unsigned int most)
{
	unsigned int count = 0;

	spin_lock_irq(&key->lock);
	while (count < most && !list_empty(&key->events))
		take_event(key, &wire[count++]);
	spin_unlock_irq(&key->lock);
	return count;
}

static ssize_t channel_read(struct file *file, char __user *buffer, size_t size, loff_t *position)
{
	struct dmu_key *key = file->private_data;
	size_t fit = size / sizeof(struct dmu_event), done = 0;
	struct dmu_event *batch;
	ssize_t result = -EINVAL;
	unsigned int count;

	if (!fit)
		return result;
	batch = kmalloc_array(EVENTS_PER_TURN, sizeof(*batch), GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	do {
		count = take_events(key, batch, min_t(size_t, fit - done, EVENTS_PER_TURN));
		if (!count && !done) {
			result = -EAGAIN;
			if (file->f_flags & O_NONBLOCK)
				goto out;
			result = wait_event_interruptible(key->wait, !list_empty_careful(&key->events));
			if (result)
				goto out;
			continue;
		}
		result = -EFAULT;
		if (copy_to_user(buffer + done * sizeof(*batch), batch, count * sizeof(*batch)))
			goto out;
		done += count;
		result = done * sizeof(*batch);
	} while (done < fit && (count || !done));
out:
	kfree(batch);
	return result;
}

static __poll_t channel_poll(struct file *file, poll_table *table)
{
	struct dmu_key *key = file->private_data;

	poll_wait(file, &key->wait, table);
	return EPOLLOUT | EPOLLWRNORM | (list_empty_careful(&key->events) ? 0 : EPOLLIN | EPOLLRDNORM);
}

/* ----------------------------------------------------------- commands --- */

static int check_range(const struct dmu_key *key, const struct dmu_command *cmd)
{
	if (!cmd->length || cmd->start + cmd->length < cmd->start)
		return -EINVAL;
	if (cmd->start + cmd->length > (key->sectors ? key->sectors : DMU_PHYSICAL_MASK))
		return -ERANGE;
	return 0;
}

/* The destination of a range, with the whole of it inside. */
static struct dmu_dest *find_place(struct dmu_key *key, const struct dmu_command *cmd, bool writable)
{
	struct dmu_dest *dest = xa_load(&key->dests, cmd->destination);
	u64 sectors;

	if (!dest)
		return ERR_PTR(-ENOENT);
	if (dest->flags & DMU_DEST_HOLD || (writable && dest->flags & DMU_DEST_READ_ONLY))
		return ERR_PTR(-EINVAL);
	sectors = dmu_dest_sectors(dest);
	if (cmd->physical > sectors || cmd->length > sectors - cmd->physical)
		return ERR_PTR(-ERANGE);
	return dest;
}

static int make_attr(struct dmu_key *key, const struct dmu_command *cmd, struct dmu_attr *attr)
{
	bool placed = cmd->kind == DMU_KIND_LINEAR || cmd->kind == DMU_KIND_COW;

	if (cmd->discard > DMU_POLICY_ASK || cmd->zeroes > DMU_POLICY_ASK)
		return -EINVAL;
	attr->kind = cmd->kind;
	attr->writable = cmd->kind == DMU_KIND_LINEAR && cmd->flags & DMU_MAP_WRITABLE;
	attr->discard = cmd->discard;
	attr->zeroes = cmd->zeroes;
	attr->pool = cmd->pool;
	attr->dest = placed ? find_place(key, cmd, attr->writable) : NULL;
	return PTR_ERR_OR_ZERO(attr->dest);
}

static int intern(struct dmu_key *key, const struct dmu_attr *attr)
{
	int tag;

	mutex_lock(&key->map_lock);
	tag = dmu_attr_intern(key, attr);
	mutex_unlock(&key->map_lock);
	return tag;
}

/* Carries out what one request asked, and leaves no trace in the map. */
static void map_once(struct dmu_key *key, struct dmu_io *io, const struct dmu_command *cmd,
		     const struct dmu_attr *attr)
{
	u64 start = dmu_io_start(io), stop = cmd->start + cmd->length;

	if (start < cmd->start || start >= stop) {
		dmu_io_queue(io);
		return;
	}
	if (dmu_io_stop(io) > stop) {
		struct dmu_io *piece = dmu_io_split(io, stop - start);

		dmu_io_queue(io);
		io = piece;
	}
	if (attr->dest) {
		dmu_phase_get(key, &io->phase);
		dmu_io_issue(io, attr->dest, cmd->physical + (start - cmd->start));
		return;
	}
	if (attr->kind == DMU_KIND_ZERO && !op_is_write(bio_op(io->bio)))
		zero_fill_bio(io->bio);
	dmu_io_end(io, attr->kind == DMU_KIND_ZERO ? 0 : BLK_STS_IOERR);
}

static void end_miss(struct dmu_miss *miss)
{
	if (miss)
		mempool_free(miss, &dmu_miss_pool);
}

static int command_once(struct dmu_key *key, const struct dmu_command *cmd, const struct dmu_attr *attr)
{
	struct dmu_io *io, *next;
	struct dmu_miss *miss;
	LIST_HEAD(ios);

	if (cmd->kind == DMU_KIND_ASK)
		return -EINVAL;
	spin_lock_irq(&key->lock);
	miss = dmu_miss_take(key, cmd->id, &ios);
	spin_unlock_irq(&key->lock);
	list_for_each_entry_safe(io, next, &ios, node) {
		list_del_init(&io->node);
		/* A write where the place is read-only is the mapper's mistake. */
		if (op_is_write(bio_op(io->bio)) && attr->dest && !attr->writable)
			dmu_io_end(io, BLK_STS_IOERR);
		else
			map_once(key, io, cmd, attr);
	}
	end_miss(miss);
	return 0;
}

static int command_map(struct dmu_key *key, const struct dmu_command *cmd)
{
	struct dmu_miss *miss = NULL;
	struct dmu_attr attr;
	LIST_HEAD(ios);
	int tag, error = check_range(key, cmd);

	if (error)
		return error;
	if (cmd->kind < DMU_KIND_LINEAR || cmd->kind > DMU_KIND_ERROR ||
	    cmd->flags & ~(DMU_MAP_WRITABLE | DMU_MAP_ONCE | DMU_MAP_MIRROR))
		return -EINVAL;
	if (cmd->flags & DMU_MAP_MIRROR)
		return -EOPNOTSUPP;
	error = make_attr(key, cmd, &attr);
	if (error)
		return error;
	if (cmd->flags & DMU_MAP_ONCE)
		return command_once(key, cmd, &attr);
	tag = intern(key, &attr);
	if (tag < 0)
		return tag;
	mutex_lock(&key->map_lock);
	/*
	 * Made from metadata older than an invalidation: it may lack changes
	 * that the map no longer holds. The miss comes again.
	 */
	if (cmd->sequence >= key->invalidated)
		error = dmu_map_fill(&key->map, cmd->start, cmd->start + cmd->length,
				     dmu_value(tag, attr.dest, attr.dest ? cmd->physical : 0), GFP_KERNEL);
	mutex_unlock(&key->map_lock);
	if (error)
		return error;
	if (cmd->id) {
		spin_lock_irq(&key->lock);
		miss = dmu_miss_take(key, cmd->id, &ios);
		spin_unlock_irq(&key->lock);
		end_miss(miss);
	}
	dmu_miss_mapped(key, cmd->start, cmd->start + cmd->length);
	dmu_io_queue_list(&ios);
	return 0;
}

/* Nobody wants the place any more. */
static void refuse_place(struct dmu_key *key, const struct dmu_command *cmd, struct dmu_log *entry)
{
	entry->start = cmd->start;
	entry->length = cmd->length;
	entry->kind = DMU_KIND_LOST;
	entry->destination = cmd->destination;
	entry->physical = cmd->physical;
	spin_lock_irq(&key->lock);
	key->log_entries++;
	spin_unlock_irq(&key->lock);
	dmu_log_append(key, entry);
}

static bool is_placeable(const struct dmu_miss *miss, const struct dmu_command *cmd)
{
	u64 stop = cmd->start + cmd->length;

	return miss->op == DMU_OP_WRITE && !miss->ask && cmd->start == miss->start && stop <= miss->last + 1 &&
	       (!(cmd->length % miss->key->grain) || stop == miss->last + 1);
}

static int command_place(struct dmu_key *key, const struct dmu_command *cmd)
{
	struct dmu_attr attr = { .kind = DMU_KIND_LINEAR, .writable = true, .discard = cmd->discard,
				 .zeroes = cmd->zeroes, .pool = cmd->pool };
	struct dmu_log *entry;
	struct dmu_miss *miss;
	LIST_HEAD(rest);
	bool start = false;
	int tag, error = check_range(key, cmd);

	if (error)
		return error;
	if (cmd->flags & ~DMU_READS_ZERO || cmd->discard > DMU_POLICY_ASK || cmd->zeroes > DMU_POLICY_ASK)
		return -EINVAL;
	attr.dest = find_place(key, cmd, true);
	if (IS_ERR(attr.dest))
		return PTR_ERR(attr.dest);
	tag = intern(key, &attr);
	if (tag < 0)
		return tag;
	entry = dmu_log_alloc(GFP_KERNEL);
	if (!entry)
		return -ENOMEM;

	spin_lock_irq(&key->lock);
	miss = dmu_miss_find(key, cmd->id);
	if (miss && !is_placeable(miss, cmd)) {
		spin_unlock_irq(&key->lock);
		kfree(entry);
		return -EINVAL;
	}
	if (miss) {
		miss->dest = attr.dest;
		miss->physical = cmd->physical;
		miss->tag = tag;
		miss->reads_zero = cmd->flags & DMU_READS_ZERO;
		miss->log = entry;
		dmu_miss_place(miss, cmd->start + cmd->length, &rest);
		start = dmu_log_room(key);
		miss->state = start ? DMU_MISS_FILLING : DMU_MISS_LOG;
		if (!start)
			list_add_tail(&miss->waiting, &key->log_waiters);
	}
	spin_unlock_irq(&key->lock);
	dmu_io_queue_list(&rest);
	if (!miss)
		refuse_place(key, cmd, entry);
	else if (start)
		dmu_fill_start(miss);
	else
		dmu_log_press(key);
	return 0;
}

static int command_end(struct dmu_key *key, const struct dmu_command *cmd)
{
	struct dmu_io *io, *next;
	struct dmu_miss *miss;
	blk_status_t status = 0;
	LIST_HEAD(ios);

	if (cmd->type == DMU_CMD_FAIL) {
		if (!cmd->error || cmd->error > MAX_ERRNO)
			return -EINVAL;
		status = errno_to_blk_status(-(int)cmd->error);
		if (dmu_flush_fail(key, cmd->id, status))
			return 0;
	}
	spin_lock_irq(&key->lock);
	miss = dmu_miss_find(key, cmd->id);
	if (miss && cmd->type == DMU_CMD_DONE && miss->op != DMU_OP_DISCARD && miss->op != DMU_OP_ZERO) {
		spin_unlock_irq(&key->lock);
		return -EINVAL;
	}
	miss = dmu_miss_take(key, cmd->id, &ios);
	spin_unlock_irq(&key->lock);
	list_for_each_entry_safe(io, next, &ios, node) {
		list_del_init(&io->node);
		dmu_io_end(io, status);
	}
	end_miss(miss);
	return 0;
}

static int command_committed(struct dmu_key *key, const struct dmu_command *cmd)
{
	bool future;

	spin_lock_irq(&key->lock);
	future = cmd->sequence > key->sequence;
	spin_unlock_irq(&key->lock);
	if (future)
		return -EINVAL;
	dmu_log_committed(key, cmd->sequence);
	return 0;
}

static int command_invalidate(struct dmu_key *key, const struct dmu_command *cmd)
{
	u64 stop = cmd->start + cmd->length;
	int error = 0;

	if (stop < cmd->start)
		return -EINVAL;
	mutex_lock(&key->map_lock);
	if (cmd->length)
		key->invalidated = READ_ONCE(key->sequence);
	if (!cmd->start && stop >= key->sectors && cmd->length)
		error = dmu_map_clear(&key->map, GFP_KERNEL);
	else if (cmd->length)
		error = dmu_map_assign(&key->map, cmd->start, stop, DMU_VALUE_NONE, GFP_KERNEL);
	mutex_unlock(&key->map_lock);
	return error ? error : dmu_drain(key, cmd->id);
}

static int apply(struct dmu_key *key, const struct dmu_command *cmd)
{
	switch (cmd->type) {
	case DMU_CMD_MAP:
		return command_map(key, cmd);
	case DMU_CMD_PLACE:
		return command_place(key, cmd);
	case DMU_CMD_FAIL:
	case DMU_CMD_DONE:
		return command_end(key, cmd);
	case DMU_CMD_COMMITTED:
		return command_committed(key, cmd);
	case DMU_CMD_INVALIDATE:
		return command_invalidate(key, cmd);
	case DMU_CMD_LEASE:
	case DMU_CMD_REVOKE:
	case DMU_CMD_POOL:
		return -EOPNOTSUPP;
	default:
		return -EINVAL;
	}
}

static ssize_t channel_write(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	struct dmu_key *key = file->private_data;
	size_t done = 0;
	int error = -EINVAL;

	/* A descriptor that has been passed on can be read, but gives no orders. */
	if (!uid_eq(file->f_cred->euid, current_euid()) || file->f_cred->user_ns != current_user_ns())
		return -EPERM;
	mutex_lock(&key->control);
	while (size - done >= sizeof(struct dmu_command)) {
		struct dmu_command cmd;

		error = -EFAULT;
		if (copy_from_user(&cmd, buffer + done, sizeof(cmd)))
			break;
		error = apply(key, &cmd);
		if (error)
			break;
		done += sizeof(cmd);
		cond_resched();
	}
	mutex_unlock(&key->control);
	return done ? done : error;
}

/* ------------------------------------------------------------- ioctls --- */

void dmu_key_state(struct dmu_key *key, struct dmu_state *state)
{
	int cpu;

	memset(state, 0, sizeof(*state));
	for_each_possible_cpu(cpu) {
		state->hits_read += READ_ONCE(per_cpu_ptr(key->counts, cpu)->hits_read);
		state->hits_write += READ_ONCE(per_cpu_ptr(key->counts, cpu)->hits_write);
	}
	state->extents = READ_ONCE(key->map.extents);
	state->map_bytes = dmu_map_bytes(&key->map);
	state->misses = atomic64_read(&key->miss_count);
	state->first_writes = atomic64_read(&key->first_writes);
	state->flushes = atomic64_read(&key->flush_count);
	state->errors = atomic64_read(&key->errors);
	spin_lock_irq(&key->lock);
	state->sectors = key->sectors;
	state->sequence = key->sequence;
	state->committed = key->committed;
	state->pending = key->pending;
	state->log_entries = key->log_entries;
	state->log_limit = key->log_limit;
	state->wait_seconds = key->wait_seconds;
	state->destinations = key->dest_count;
	spin_unlock_irq(&key->lock);
}

static int ioctl_dest(struct dmu_key *key, unsigned int cmd, void __user *argument)
{
	struct dmu_destination wire;
	int error;

	if (copy_from_user(&wire, argument, sizeof(wire)))
		return -EFAULT;
	mutex_lock(&key->control);
	if (cmd == DMU_DEST_ADD)
		error = dmu_dest_add(key, &wire);
	else
		error = dmu_dest_describe(key, &wire, cmd == DMU_DEST_FD);
	mutex_unlock(&key->control);
	if (!error && copy_to_user(argument, &wire, sizeof(wire)))
		error = -EFAULT;
	return error;
}

static int ioctl_dest_remove(struct dmu_key *key, void __user *argument)
{
	u32 number;
	int error;

	if (copy_from_user(&number, argument, sizeof(number)))
		return -EFAULT;
	mutex_lock(&key->control);
	error = dmu_dest_remove(key, number);
	mutex_unlock(&key->control);
	return error;
}

static int ioctl_set(struct dmu_key *key, void __user *argument)
{
	struct dmu_set set;

	if (copy_from_user(&set, argument, sizeof(set)))
		return -EFAULT;
	if (set.what & ~(DMU_SET_WAIT | DMU_SET_FAIL))
		return -EINVAL;
	if (set.what & DMU_SET_WAIT)
		dmu_key_set_wait(key, set.wait_seconds);
	if (set.what & DMU_SET_FAIL)
		dmu_key_set_fail(key, set.fail);
	return 0;
}

static long channel_ioctl(struct file *file, unsigned int cmd, unsigned long argument)
{
	struct dmu_key *key = file->private_data;
	void __user *user = (void __user *)argument;
	struct dmu_state state;

	if (!uid_eq(file->f_cred->euid, current_euid()) || file->f_cred->user_ns != current_user_ns())
		return -EPERM;
	switch (cmd) {
	case DMU_DEST_ADD:
	case DMU_DEST_GET:
	case DMU_DEST_FD:
		return ioctl_dest(key, cmd, user);
	case DMU_DEST_REMOVE:
		return ioctl_dest_remove(key, user);
	case DMU_STATE:
		dmu_key_state(key, &state);
		return copy_to_user(user, &state, sizeof(state)) ? -EFAULT : 0;
	case DMU_SET:
		return ioctl_set(key, user);
	default:
		return -ENOTTY;
	}
}

/* The mapper is gone: what it had not answered waits for the next. */
static int channel_release(struct inode *inode, struct file *file)
{
	struct dmu_key *key = file->private_data;
	struct dmu_event_node *event, *next;
	u32 seconds;

	spin_lock_irq(&key->lock);
	list_for_each_entry_safe(event, next, &key->events, list)
		dmu_event_drop(event);
	key->attached = false;
	seconds = key->wait_seconds;
	if (key->suspending && !key->requeue)
		seconds = min_t(u32, seconds, DMU_SUSPEND_SECONDS);
	spin_unlock_irq(&key->lock);
	if (seconds != DMU_WAIT_FOREVER)
		dmu_key_expire_in(key, seconds);
	dmu_key_put(key);
	return 0;
}

static const struct file_operations channel_fops = {
	.owner = THIS_MODULE,
	.read = channel_read,
	.write = channel_write,
	.poll = channel_poll,
	.unlocked_ioctl = channel_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = channel_release,
};

/* In the order that the header promises. */
static int hand_over(struct dmu_key *key)
{
	struct dmu_event attached = { .type = DMU_EV_ATTACHED };
	int error;

	lockdep_assert_held(&key->lock);
	dmu_log_replay(key);
	error = dmu_miss_replay_places(key);
	if (error)
		return error;
	attached.sequence = key->sequence;
	attached.length = key->sectors;
	error = dmu_event_note(key, &attached, GFP_ATOMIC);
	if (error)
		return error;
	dmu_miss_replay(key);
	dmu_flush_replay(key);
	return 0;
}

static int attach(struct dmu_key *key)
{
	struct dmu_event_node *event, *next;
	int error = -EBUSY;

	spin_lock_irq(&key->lock);
	if (!key->attached) {
		list_for_each_entry_safe(event, next, &key->events, list)
			dmu_event_drop(event);
		key->attached = true;
		key->log_pressed = false;
		key->expired = false;
		error = hand_over(key);
		if (error) {
			list_for_each_entry_safe(event, next, &key->events, list)
				dmu_event_drop(event);
			key->attached = false;
		}
	}
	spin_unlock_irq(&key->lock);
	return error;
}

static int ioctl_attach(void __user *argument)
{
	struct dmu_attach wire;
	struct dmu_key *key;
	int fd;

	if (copy_from_user(&wire, argument, sizeof(wire)))
		return -EFAULT;
	if (wire.flags & ~DMU_ATTACH_CREATE || !wire.key[0] || strnlen(wire.key, DMU_KEY_MAX) == DMU_KEY_MAX)
		return -EINVAL;
	key = dmu_key_get(wire.key, wire.flags & DMU_ATTACH_CREATE);
	if (IS_ERR(key))
		return PTR_ERR(key);
	fd = attach(key);
	if (fd) {
		dmu_key_put(key);
		return fd;
	}
	cancel_delayed_work_sync(&key->expire);
	fd = anon_inode_getfd("[dmu]", &channel_fops, key, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		spin_lock_irq(&key->lock);
		key->attached = false;
		spin_unlock_irq(&key->lock);
		dmu_key_put(key);
	}
	return fd;
}

static int ioctl_hello(void __user *argument)
{
	struct dmu_hello hello;

	if (copy_from_user(&hello, argument, sizeof(hello)))
		return -EFAULT;
	hello.version = min_t(u32, hello.version, DMU_VERSION);
	hello.features = DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE;
	return copy_to_user(argument, &hello, sizeof(hello)) ? -EFAULT : 0;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long argument)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (cmd) {
	case DMU_HELLO:
		return ioctl_hello((void __user *)argument);
	case DMU_ATTACH:
		return ioctl_attach((void __user *)argument);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmu",
	.fops = &device_fops,
	.mode = 0600,
};

int dmu_channel_init(void)
{
	return misc_register(&device);
}

void dmu_channel_exit(void)
{
	misc_deregister(&device);
}
