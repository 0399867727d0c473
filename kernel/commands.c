// SPDX-License-Identifier: GPL-2.0
/* What comes down a channel: commands, in the order written. */
#include <linux/cred.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>

#include "dmu.h"

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

static int command_lease(struct dmu_key *key, const struct dmu_command *cmd)
{
	struct dmu_dest *dest;

	if (cmd->flags & ~DMU_READS_ZERO)
		return -EINVAL;
	dest = dmu_find_place(key, cmd, true);
	if (IS_ERR(dest))
		return PTR_ERR(dest);
	return dmu_lease_add(key, cmd->pool, dest, cmd->physical, cmd->length, cmd->flags);
}

/* What has no meaning yet must not be used: one day it may have. */
static bool is_plain(const struct dmu_command *cmd)
{
	bool has_flags = cmd->type == DMU_CMD_MAP || cmd->type == DMU_CMD_PLACE || cmd->type == DMU_CMD_LEASE;

	return !cmd->reserved && (has_flags || !cmd->flags);
}

/* What a mapper writes. */
int dmu_command_apply(struct dmu_key *key, const struct dmu_command *cmd)
{
	lockdep_assert_held(&key->control);
	if (!is_plain(cmd))
		return -EINVAL;
	switch (cmd->type) {
	case DMU_CMD_MAP:
		return dmu_command_map(key, cmd);
	case DMU_CMD_PLACE:
		return dmu_command_place(key, cmd);
	case DMU_CMD_FAIL:
	case DMU_CMD_DONE:
		return dmu_command_end(key, cmd);
	case DMU_CMD_COMMITTED:
		return command_committed(key, cmd);
	case DMU_CMD_INVALIDATE:
		return command_invalidate(key, cmd);
	case DMU_CMD_LEASE:
		return command_lease(key, cmd);
	case DMU_CMD_REVOKE:
		return dmu_lease_revoke(key, cmd->pool);
	case DMU_CMD_POOL:
		return dmu_pool_set(key, cmd->pool, cmd->length, cmd->physical, cmd->sequence);
	default:
		return -EINVAL;
	}
}

ssize_t dmu_channel_write(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	struct dmu_key *key = file->private_data;
	size_t done = 0;
	int error = -EINVAL;
	unsigned int noio;

	/* A descriptor that has been passed on can be read, but gives no orders. */
	if (!uid_eq(file->f_cred->euid, current_euid()) || file->f_cred->user_ns != current_user_ns())
		return -EPERM;
	/* First writes wait for the locks that are held here: no memory may wait for them. */
	mutex_lock(&key->control);
	noio = memalloc_noio_save();
	while (size - done >= sizeof(struct dmu_command)) {
		struct dmu_command cmd;

		error = -EFAULT;
		if (copy_from_user(&cmd, buffer + done, sizeof(cmd)))
			break;
		error = dmu_command_apply(key, &cmd);
		if (error)
			break;
		done += sizeof(cmd);
		cond_resched();
	}
	memalloc_noio_restore(noio);
	mutex_unlock(&key->control);
	return done ? done : error;
}
