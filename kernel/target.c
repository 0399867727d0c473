// SPDX-License-Identifier: GPL-2.0
/* The device-mapper target "userspace": table line, suspend, status, messages. */
#include <linux/module.h>

#include "dmu.h"

static int parse_number(struct dm_arg_set *args, u32 *number, char **error, char *text)
{
	const char *arg = dm_shift_arg(args);

	if (arg && !kstrtou32(arg, 10, number) && *number)
		return 0;
	*error = text;
	return -EINVAL;
}

static int parse_map_memory(struct dmu_target *target, struct dm_arg_set *args, char **error)
{
	const char *arg = dm_shift_arg(args);

	target->may_forget = arg && !kstrtou32(arg, 10, &target->map_memory);
	if (target->may_forget && (!target->map_memory || target->map_memory >= DMU_MAP_MEMORY_MIN))
		return 0;
	*error = "map_memory wants a number of KiB: 0, or 1024 and more";
	return -EINVAL;
}

static int parse_option(struct dmu_target *target, struct dm_arg_set *args, const char *name, char **error)
{
	if (!name) {
		*error = "Number of options does not match";
		return -EINVAL;
	}
	if (!strcasecmp(name, "grain"))
		return parse_number(args, &target->grain, error, "grain wants a number of sectors");
	if (!strcasecmp(name, "discard"))
		return parse_number(args, &target->discard, error, "discard wants a number of sectors");
	if (!strcasecmp(name, "logical"))
		return parse_number(args, &target->logical, error, "logical wants a number of bytes");
	if (!strcasecmp(name, "physical"))
		return parse_number(args, &target->physical, error, "physical wants a number of bytes");
	if (!strcasecmp(name, "log"))
		return parse_number(args, &target->log_limit, error, "log wants a number of entries");
	if (!strcasecmp(name, "map_memory"))
		return parse_map_memory(target, args, error);
	if (!strcasecmp(name, "write_zeroes")) {
		target->write_zeroes = true;
		return 0;
	}
	if (!strcasecmp(name, "read_only")) {
		target->read_only = true;
		return 0;
	}
	if (!strcasecmp(name, "ask_flush")) {
		target->ask_flush = true;
		return 0;
	}
	*error = "Unknown option";
	return -EINVAL;
}

static int check_options(struct dmu_target *target, struct dm_target *ti)
{
	char *error = NULL;

	if (!is_power_of_2(target->grain))
		error = "grain must be a power of two";
	else if (!is_power_of_2(target->logical) || target->logical < SECTOR_SIZE || target->logical > PAGE_SIZE)
		error = "logical must be a power of two from 512 to the page size";
	else if (!is_power_of_2(target->physical) || target->physical < target->logical)
		error = "physical must be a power of two, not below logical";
	else if (target->log_limit > DMU_LOG_MAX)
		error = "log is too large";
	if (!error)
		return 0;
	ti->error = error;
	return -EINVAL;
}

static int parse_options(struct dmu_target *target, struct dm_target *ti, struct dm_arg_set *args)
{
	static const struct dm_arg count = { 0, 15, "Invalid number of options" };
	unsigned int left;
	int error = 0;

	if (!args->argc)
		return 0;
	error = dm_read_arg_group(&count, args, &left, &ti->error);
	if (error)
		return error;
	if (left != args->argc) {
		ti->error = "Number of options does not match";
		return -EINVAL;
	}
	while (args->argc) {
		error = parse_option(target, args, dm_shift_arg(args), &ti->error);
		if (error)
			return error;
	}
	return check_options(target, ti);
}

/* A key is for one device; its grain stays while any table names it. */
static int join_key(struct dmu_target *target, struct dm_target *ti)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct dmu_key *key = target->key;
	char *error = NULL;

	mutex_lock(&key->control);
	if (key->tables && key->md != md)
		error = "Key is in use by another device";
	else if (key->tables && key->grain != target->grain)
		error = "grain can't change while the device exists";
	else if (dmu_dest_any_on(key, md))
		error = "A destination of the key lies on the device itself";
	if (!error) {
		key->tables++;
		key->md = md;
		key->grain = target->grain;
		key->log_limit = target->log_limit;
		WRITE_ONCE(key->shrink.allowed, target->may_forget);
		WRITE_ONCE(key->shrink.limit, (u64)target->map_memory << 10);
		if (!key->sectors)
			key->sectors = ti->len;
	}
	mutex_unlock(&key->control);
	if (!error) {
		dmu_shrink_check(key, true);
		return 0;
	}
	ti->error = error;
	return -EBUSY;
}

static int userspace_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set args = { .argc = argc, .argv = argv };
	struct dmu_target *target;
	const char *name;
	int error;

	name = dm_shift_arg(&args);
	if (!name || !*name || strlen(name) >= DMU_KEY_MAX) {
		ti->error = "Wants a key of at most 127 bytes";
		return -EINVAL;
	}
	target = kzalloc(sizeof(*target), GFP_KERNEL);
	if (!target) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	target->grain = 8;
	target->logical = SECTOR_SIZE;
	target->physical = PAGE_SIZE;
	target->log_limit = DMU_LOG_DEFAULT;
	error = parse_options(target, ti, &args);
	if (error)
		goto bad_options;
	target->key = dmu_key_get(name, true);
	if (IS_ERR(target->key)) {
		ti->error = "Out of memory";
		error = PTR_ERR(target->key);
		goto bad_options;
	}
	error = join_key(target, ti);
	if (error)
		goto bad_key;

	ti->private = target;
	ti->per_io_data_size = sizeof(struct dmu_io);
	ti->num_flush_bios = 1;
	ti->flush_supported = true;
	ti->accounts_remapped_io = true;
	ti->num_discard_bios = target->discard ? 1 : 0;
	ti->discards_supported = target->discard;
	ti->num_write_zeroes_bios = target->write_zeroes ? 1 : 0;
	return 0;

bad_key:
	dmu_key_put(target->key);
bad_options:
	kfree(target);
	return error;
}

static void userspace_dtr(struct dm_target *ti)
{
	struct dmu_target *target = ti->private;
	struct dmu_key *key = target->key;

	mutex_lock(&key->control);
	if (!--key->tables) {
		key->md = NULL;
		key->sectors = 0;
	}
	mutex_unlock(&key->control);
	dmu_key_put(key);
	kfree(target);
}

/*
 * Device-mapper waits for every bio. For a noflush suspend what waits for the
 * mapper goes back; else the mapper goes on serving, and where there is none
 * waiting ends after a while.
 */
static void userspace_presuspend(struct dm_target *ti)
{
	struct dmu_key *key = ((struct dmu_target *)ti->private)->key;
	bool requeue = dm_noflush_suspending(ti), attached;
	u32 seconds;

	spin_lock_irq(&key->lock);
	key->suspending = true;
	key->requeue = requeue;
	attached = key->attached;
	seconds = min_t(u32, key->wait_seconds, DMU_SUSPEND_SECONDS);
	spin_unlock_irq(&key->lock);
	if (requeue)
		dmu_key_requeue(key);
	else if (!attached)
		dmu_key_expire_in(key, seconds);
}

static void end_suspend(struct dmu_key *key)
{
	bool attached;
	u32 seconds;

	spin_lock_irq(&key->lock);
	key->suspending = false;
	key->requeue = false;
	key->expired = false;
	attached = key->attached;
	seconds = key->wait_seconds;
	spin_unlock_irq(&key->lock);
	cancel_delayed_work_sync(&key->expire);
	if (!attached && seconds != DMU_WAIT_FOREVER)
		dmu_key_expire_in(key, seconds);
}

static void userspace_presuspend_undo(struct dm_target *ti)
{
	end_suspend(((struct dmu_target *)ti->private)->key);
}

static void userspace_resume(struct dm_target *ti)
{
	struct dmu_target *target = ti->private;
	struct dmu_key *key = target->key;
	struct dmu_event resized = { .type = DMU_EV_RESIZED, .length = ti->len };
	bool changed;

	spin_lock_irq(&key->lock);
	changed = key->sectors != ti->len;
	key->sectors = ti->len;
	key->ask_flush = target->ask_flush;
	spin_unlock_irq(&key->lock);
	if (changed)
		dmu_event_note(key, &resized, GFP_NOIO | __GFP_NOFAIL);
	end_suspend(key);
}

static unsigned int count_options(const struct dmu_target *target)
{
	return 8 + (target->discard ? 2 : 0) + (target->may_forget ? 2 : 0) + target->write_zeroes +
	       target->read_only + target->ask_flush;
}

static void userspace_status(struct dm_target *ti, status_type_t type, unsigned int flags, char *result,
			     unsigned int maxlen)
{
	struct dmu_target *target = ti->private;
	struct dmu_key *key = target->key;
	struct dmu_state state;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		dmu_key_state(key, &state);
		DMEMIT("%s %u %llu %llu %u/%u %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %u/%u/%u %u/%u/%u %llu %llu",
		       key->name,
		       READ_ONCE(key->attached), state.sequence, state.committed, state.log_entries,
		       state.log_limit, state.extents, state.map_bytes, state.hits_read, state.hits_write,
		       state.misses, state.first_writes, state.pending, state.flushes, state.errors,
		       state.leased, state.miss_us[0], state.miss_us[1], state.miss_us[2], state.commit_us[0],
		       state.commit_us[1], state.commit_us[2], state.map_limit, state.forgotten);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %u grain %u logical %u physical %u log %u", key->name, count_options(target),
		       target->grain, target->logical, target->physical, target->log_limit);
		if (target->discard)
			DMEMIT(" discard %u", target->discard);
		if (target->may_forget)
			DMEMIT(" map_memory %u", target->map_memory);
		if (target->write_zeroes)
			DMEMIT(" write_zeroes");
		if (target->read_only)
			DMEMIT(" read_only");
		if (target->ask_flush)
			DMEMIT(" ask_flush");
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static int userspace_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
			     unsigned int maxlen)
{
	struct dmu_key *key = ((struct dmu_target *)ti->private)->key;
	u32 seconds = DMU_WAIT_FOREVER;

	if (argc == 1 && (!strcasecmp(argv[0], "fail") || !strcasecmp(argv[0], "nofail"))) {
		dmu_key_set_fail(key, !strcasecmp(argv[0], "fail"));
		return 0;
	}
	if (argc == 2 && !strcasecmp(argv[0], "wait") &&
	    (!strcasecmp(argv[1], "forever") || !kstrtou32(argv[1], 10, &seconds))) {
		dmu_key_set_wait(key, seconds);
		return 0;
	}
	DMWARN("%s: messages are: fail, nofail, wait SECONDS, wait forever", key->name);
	return -EINVAL;
}

static void userspace_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct dmu_target *target = ti->private;

	limits->logical_block_size = max(limits->logical_block_size, target->logical);
	limits->physical_block_size = max(limits->physical_block_size, target->physical);
	limits->io_min = max(limits->io_min, limits->physical_block_size);
	if (target->discard) {
		limits->discard_granularity = target->discard << SECTOR_SHIFT;
		dmu_set_max_discard(limits, UINT_MAX >> SECTOR_SHIFT);
	}
	if (target->write_zeroes)
		limits->max_write_zeroes_sectors = UINT_MAX >> SECTOR_SHIFT;
}

/* Destinations come and go at run time, below the table. */
static int userspace_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	return 0;
}

struct target_type dmu_target_type = {
	.name = "userspace",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = userspace_ctr,
	.dtr = userspace_dtr,
	.map = dmu_target_map,
	.end_io = dmu_target_end_io,
	.presuspend = userspace_presuspend,
	.presuspend_undo = userspace_presuspend_undo,
	.resume = userspace_resume,
	.status = userspace_status,
	.message = userspace_message,
	.io_hints = userspace_io_hints,
	.iterate_devices = userspace_iterate_devices,
};
