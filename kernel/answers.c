// SPDX-License-Identifier: GPL-2.0
/* What the mapper says of a miss, or unasked: MAP, PLACE, FAIL, DONE. */
#include "dmu.h"
#include "trace.h"

static int check_range(const struct dmu_key *key, const struct dmu_command *cmd)
{
	if (!cmd->length || cmd->start + cmd->length < cmd->start)
		return -EINVAL;
	if (cmd->start + cmd->length > (key->sectors ? key->sectors : DMU_PHYSICAL_MASK))
		return -ERANGE;
	return 0;
}

/* A destination, with the whole of a range inside. */
static struct dmu_dest *find_dest(struct dmu_key *key, u32 number, u64 physical, u64 length, bool writable)
{
	struct dmu_dest *dest = xa_load(&key->dests, number);
	u64 sectors;

	if (!dest)
		return ERR_PTR(-ENOENT);
	if (dest->flags & DMU_DEST_HOLD || (writable && dest->flags & DMU_DEST_READ_ONLY))
		return ERR_PTR(-EINVAL);
	/* A sparse file may be larger than what a value of the map can name. */
	sectors = min_t(u64, dmu_dest_sectors(dest), DMU_PHYSICAL_MASK);
	if (physical > sectors || length > sectors - physical)
		return ERR_PTR(-ERANGE);
	return dest;
}

struct dmu_dest *dmu_find_place(struct dmu_key *key, const struct dmu_command *cmd, bool writable)
{
	return find_dest(key, cmd->destination, cmd->physical, cmd->length, writable);
}

#define MAP_FLAGS	(DMU_MAP_WRITABLE | DMU_MAP_ONCE | DMU_MAP_MIRROR | DMU_MAP_RETURN | DMU_MAP_TELL | \
			 DMU_MAP_ASK)

static bool map_flags_agree(const struct dmu_command *cmd)
{
	if (cmd->flags & ~MAP_FLAGS)
		return false;
	if (cmd->flags & DMU_MAP_RETURN && !(cmd->flags & DMU_MAP_ONCE))
		return false;
	if (cmd->flags & DMU_MAP_ASK && cmd->flags & ~DMU_MAP_ASK)
		return false;
	return cmd->kind == DMU_KIND_LINEAR || !(cmd->flags & (DMU_MAP_MIRROR | DMU_MAP_RETURN | DMU_MAP_TELL | DMU_MAP_ASK));
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
	if (cmd->pool != DMU_NO_POOL && !dmu_pool_exists(key, cmd->pool))
		return -ENOENT;
	attr->tell = cmd->flags & DMU_MAP_TELL;
	attr->ask = cmd->flags & DMU_MAP_ASK;
	attr->dest = placed ? dmu_find_place(key, cmd, attr->writable) : NULL;
	attr->mirror = NULL;
	attr->distance = 0;
	if (IS_ERR(attr->dest) || !(cmd->flags & DMU_MAP_MIRROR))
		return PTR_ERR_OR_ZERO(attr->dest);
	attr->mirror = find_dest(key, cmd->destination2, cmd->physical2, cmd->length, true);
	attr->distance = cmd->physical2 - cmd->physical;
	return PTR_ERR_OR_ZERO(attr->mirror);
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
	u64 physical = cmd->physical + (start - cmd->start);

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
		if (cmd->flags & DMU_MAP_RETURN || attr->tell || attr->mirror || dmu_io_is_trim(io)) {
			/* Another channel's device may lie below, of this very mapper: not from here. */
			dmu_route_set(io, attr, physical, cmd->flags & DMU_MAP_RETURN);
			io->route.answered = cmd->id;
			dmu_route_queue(io);
		} else {
			dmu_io_issue(io, attr->dest, physical);
		}
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

int dmu_command_map(struct dmu_key *key, const struct dmu_command *cmd)
{
	struct dmu_miss *miss = NULL;
	struct dmu_attr attr;
	LIST_HEAD(ios);
	int tag, error = check_range(key, cmd);

	if (error)
		return error;
	if (cmd->kind < DMU_KIND_LINEAR || cmd->kind > DMU_KIND_ERROR || !map_flags_agree(cmd))
		return -EINVAL;
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
	dmu_shrink_check(key, false);
	mutex_unlock(&key->map_lock);
	if (error)
		return error;
	trace_dmu_map(key->name, cmd->id, cmd->start, cmd->length, cmd->kind);
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

static bool is_placeable(const struct dmu_miss *miss, const struct dmu_command *cmd)
{
	u64 stop = cmd->start + cmd->length;

	return miss->op == DMU_OP_WRITE && !miss->ask && cmd->start == miss->start && stop <= miss->last + 1 &&
	       (!(cmd->length % miss->key->grain) || stop == miss->last + 1);
}

int dmu_command_place(struct dmu_key *key, const struct dmu_command *cmd)
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
	if (cmd->pool != DMU_NO_POOL && !dmu_pool_exists(key, cmd->pool))
		return -ENOENT;
	attr.dest = dmu_find_place(key, cmd, true);
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
		miss->space = cmd->length;
		miss->tag = tag;
		miss->reads_zero = cmd->flags & DMU_READS_ZERO;
		miss->log = entry;
		dmu_miss_place(miss, cmd->start + cmd->length, &rest);
		if (!miss->primary) {
			/* No writer is left that begins in there. */
			dmu_miss_drop(miss, &rest);
			end_miss(miss);
			miss = NULL;
		}
	}
	if (miss) {
		start = dmu_log_room(key);
		miss->state = start ? DMU_MISS_FILLING : DMU_MISS_LOG;
		if (!start)
			list_add_tail(&miss->waiting, &key->log_waiters);
	}
	spin_unlock_irq(&key->lock);
	dmu_io_queue_list(&rest);
	if (!miss)
		dmu_log_lost(key, entry, attr.dest, cmd->physical, cmd->start, cmd->length);
	else if (start)
		dmu_fill_start(miss);
	else
		dmu_log_press(key);
	return 0;
}

/* What the mapper has let go. */
static void end_done(struct dmu_io *io)
{
	if (bio_op(io->bio) == REQ_OP_READ && !(io->returned && !dmu_route_status(&io->route)))
		zero_fill_bio(io->bio);
	if (bio_op(io->bio) == REQ_OP_WRITE)
		dmu_io_written(io);
	else
		dmu_io_end(io, 0);
}

int dmu_command_end(struct dmu_key *key, const struct dmu_command *cmd)
{
	bool done = cmd->type == DMU_CMD_DONE;
	struct dmu_io *io, *next;
	struct dmu_miss *miss;
	blk_status_t status;
	LIST_HEAD(ios);
	int answered;

	if (!done && (!cmd->error || cmd->error > MAX_ERRNO))
		return -EINVAL;
	status = done ? BLK_STS_OK : errno_to_blk_status(-(int)cmd->error);
	answered = dmu_flush_answer(key, cmd->id, done, status);
	if (answered)
		return min(answered, 0);
	spin_lock_irq(&key->lock);
	miss = dmu_miss_find(key, cmd->id);
	/* Others wait for the map. */
	if (miss && done && !miss->ask) {
		spin_unlock_irq(&key->lock);
		return -EINVAL;
	}
	miss = dmu_miss_take(key, cmd->id, &ios);
	spin_unlock_irq(&key->lock);
	list_for_each_entry_safe(io, next, &ios, node) {
		list_del_init(&io->node);
		if (done)
			end_done(io);
		else
			dmu_io_end(io, status);
	}
	end_miss(miss);
	return 0;
}
