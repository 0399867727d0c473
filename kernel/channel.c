// SPDX-License-Identifier: GPL-2.0
/* /dev/dmu, and the life and the ioctls of a channel. */
#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "dmu.h"

void dmu_key_state(struct dmu_key *key, struct dmu_state *state)
{
	static const unsigned int percents[] = { 50, 90, 99 };
	unsigned int i;
	int cpu;

	memset(state, 0, sizeof(*state));
	for_each_possible_cpu(cpu) {
		state->hits_read += READ_ONCE(per_cpu_ptr(key->counts, cpu)->hits[0]);
		state->hits_write += READ_ONCE(per_cpu_ptr(key->counts, cpu)->hits[1]);
	}
	state->extents = READ_ONCE(key->map.extents);
	state->map_bytes = dmu_map_bytes(&key->map);
	state->map_limit = READ_ONCE(key->shrink.limit);
	state->forgotten = READ_ONCE(key->shrink.forgotten);
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
	state->leased = dmu_lease_left(key);
	for (i = 0; i < ARRAY_SIZE(percents); i++) {
		state->miss_us[i] = dmu_latency_percentile(&key->miss_latency, percents[i]);
		state->commit_us[i] = dmu_latency_percentile(&key->commit_latency, percents[i]);
	}
	spin_unlock_irq(&key->lock);
}

static int ioctl_dest(struct dmu_key *key, unsigned int cmd, void __user *argument)
{
	struct dmu_destination wire;
	struct file *file = NULL;
	int error;

	if (copy_from_user(&wire, argument, sizeof(wire)))
		return -EFAULT;
	mutex_lock(&key->control);
	if (cmd == DMU_DEST_ADD)
		error = dmu_dest_add(key, &wire);
	else
		error = dmu_dest_describe(key, &wire, cmd == DMU_DEST_FD ? &file : NULL);
	mutex_unlock(&key->control);
	if (!error && copy_to_user(argument, &wire, sizeof(wire)))
		error = -EFAULT;
	if (!file)
		return error;
	/* Who cannot be told its number must not have it open. */
	if (error) {
		put_unused_fd(wire.fd);
		fput(file);
	} else {
		fd_install(wire.fd, file);
	}
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
void dmu_key_detach(struct dmu_key *key)
{
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
}

static int channel_release(struct inode *inode, struct file *file)
{
	struct dmu_key *key = file->private_data;

	dmu_key_detach(key);
	dmu_key_put(key);
	return 0;
}

static const struct file_operations channel_fops = {
	.owner = THIS_MODULE,
	.read = dmu_channel_read,
	.write = dmu_channel_write,
	.poll = dmu_channel_poll,
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
	error = dmu_lease_replay(key);
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

/* -EBUSY: it has a mapper. -ENOMEM. */
int dmu_key_attach(struct dmu_key *key)
{
	struct dmu_event_node *event, *next;
	bool press = false;
	int error = -EBUSY;

	spin_lock_irq(&key->lock);
	if (!key->attached) {
		list_for_each_entry_safe(event, next, &key->events, list)
			dmu_event_drop(event);
		key->attached = true;
		key->expired = false;
		key->unread_changes = 0;
		error = hand_over(key);
		if (error) {
			list_for_each_entry_safe(event, next, &key->events, list)
				dmu_event_drop(event);
			key->attached = false;
		}
		press = !error && key->log_entries > key->log_limit / 2;
	}
	spin_unlock_irq(&key->lock);
	/* It may have filled up while there was nobody to be asked; the map has grown. */
	if (press)
		dmu_log_press(key);
	if (!error)
		dmu_shrink_check(key, true);
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
	fd = dmu_key_attach(key);
	if (fd) {
		dmu_key_put(key);
		return fd;
	}
	cancel_delayed_work_sync(&key->expire);
	fd = anon_inode_getfd("[dmu]", &channel_fops, key, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		dmu_key_detach(key);
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
	hello.features = DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE | DMU_FEATURE_LEASES |
			 DMU_FEATURE_MIRROR | DMU_FEATURE_RETURN | DMU_FEATURE_ASK_FLUSH | DMU_FEATURE_FORGET;
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
