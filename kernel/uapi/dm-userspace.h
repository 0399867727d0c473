/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The wire between the device-mapper target "userspace" and its mapper.
 *
 * /dev/dmu takes DMU_HELLO and DMU_ATTACH; DMU_ATTACH returns a channel, one
 * per target key. read() on a channel moves whole struct dmu_event, write()
 * whole struct dmu_command, as many as fit; poll() tells when there is an
 * event. Descriptors pass by ioctl only.
 *
 * Units: every start, length and physical is in sectors of 512 bytes.
 * "start" counts on the virtual device, "physical" on a destination.
 * Byte order and layout are the machine's; only __u32 and __u64 at natural
 * alignment, so that 32 and 64 bit programs agree.
 *
 * Order: the events of one channel are one stream. What a DMU_EV_CHANGED says
 * of a region was so before any event that follows it. Commands of one
 * channel are applied in the order written.
 */
#ifndef _UAPI_DM_USERSPACE_H
#define _UAPI_DM_USERSPACE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMU_VERSION		1
#define DMU_KEY_MAX		128	/* bytes, the ending NUL among them */
#define DMU_SECTOR_SIZE		512
#define DMU_NO_DESTINATION	0xffffffffu
#define DMU_NO_POOL		0

/* Features, in dmu_hello.features; the module offers a subset of these. */
#define DMU_FEATURE_LOG		(1ull << 0)	/* CHANGED, FLUSH, COMMITTED */
#define DMU_FEATURE_FILES	(1ull << 1)	/* regular files as destinations */
#define DMU_FEATURE_LEASES	(1ull << 2)	/* first writes taken from leases */
#define DMU_FEATURE_ONCE	(1ull << 3)	/* DMU_MAP_ONCE */
#define DMU_FEATURE_MIRROR	(1ull << 4)	/* DMU_MAP_MIRROR */
#define DMU_FEATURE_PROTECT	(1ull << 5)	/* DMU_PROTECT, write-protected attach */
#define DMU_FEATURE_DIRTY	(1ull << 6)	/* dirty bitmap */
#define DMU_FEATURE_RETURN	(1ull << 7)	/* DMU_MAP_RETURN, DMU_MAP_TELL, DMU_MAP_ASK, DONE for reads and writes, flags of misses from FUA on */
#define DMU_FEATURE_ASK_FLUSH	(1ull << 8)	/* the table option ask_flush */
#define DMU_FEATURE_FORGET	(1ull << 9)	/* the table option map_memory; map_limit and forgotten in dmu_state */

/* ------------------------------------------------------------- ioctls --- */

struct dmu_hello {
	__u32 version;		/* in: highest the caller knows; out: to be used */
	__u32 reserved;
	__u64 features;		/* out */
};

#define DMU_ATTACH_CREATE	(1u << 0)	/* make the key where there is none */

/*
 * Returns the channel's file descriptor. EBUSY: another mapper is attached.
 * ENOENT: no such key (and not DMU_ATTACH_CREATE). A key lives while a table
 * or a channel names it.
 *
 * The first events of a channel are the hand-over from its predecessor, in
 * this order: CHANGED of every change not yet acknowledged, PLACED of every
 * place in use by a first write under way, LEASED of every lease, then
 * ATTACHED, then pending MISS and FLUSH.
 */
struct dmu_attach {
	__u32 flags;
	__u32 reserved;
	char key[DMU_KEY_MAX];
};

#define DMU_DEST_READ_ONLY	(1u << 0)	/* never written */
#define DMU_DEST_BUFFERED	(1u << 1)	/* page cache instead of direct I/O; set in the answer when the file system has no direct I/O */
#define DMU_DEST_HOLD		(1u << 2)	/* only kept open (locks live on it), never mapped */
#define DMU_DEST_BLOCK		(1u << 3)	/* answer: a block device */

/*
 * A destination is named by a number of the mapper's choice below
 * DMU_DESTINATIONS; the kernel keeps its own reference to the open file.
 * EEXIST: the number is taken. EINVAL: neither regular file nor block device,
 * a swap file, or the device itself. EBADF: not opened for what is wanted.
 */
#define DMU_DESTINATIONS	4096

struct dmu_destination {
	__u32 number;
	__s32 fd;		/* ADD: in; FD: out, a new descriptor of the same open file */
	__u32 flags;		/* in and out */
	__u32 alignment;	/* out: bytes; what direct I/O on it must be aligned to */
	__u64 sectors;		/* out: its size now */
	__u64 cookie;		/* kept for the mapper, and handed to its successor */
};

#define DMU_WAIT_FOREVER	0xffffffffu

/* Everything a successor or a listing wants to know; also in the status line. */
struct dmu_state {
	__u64 sectors;		/* of the active table, 0 without one */
	__u64 sequence;		/* of the last change */
	__u64 committed;	/* last acknowledged */
	__u64 extents;		/* in the map */
	__u64 map_bytes;
	__u64 hits_read;
	__u64 hits_write;
	__u64 misses;
	__u64 first_writes;
	__u64 pending;		/* requests waiting for the mapper */
	__u64 flushes;
	__u64 errors;		/* requests that ended in an error */
	__u32 log_entries;	/* unacknowledged */
	__u32 log_limit;
	__u32 wait_seconds;	/* see DMU_SET */
	__u32 destinations;
	__u64 leased;		/* sectors of leases that nobody has taken */
	/*
	 * How long the latest misses, and flushes that waited for a COMMITTED,
	 * did wait: half, 90 % and 99 % of them no longer than so many
	 * microseconds; to within a quarter. 0: there was none, or the module
	 * is older than this.
	 */
	__u32 miss_us[3];
	__u32 commit_us[3];
	__u64 map_limit;	/* bytes that the map may have; 0: any */
	__u64 forgotten;	/* extents: to keep to that, or because memory was short */
	__u64 reserved[2];
};

#define DMU_SET_WAIT		(1u << 0)
#define DMU_SET_FAIL		(1u << 1)

struct dmu_set {
	__u32 what;
	__u32 wait_seconds;	/* how long I/O waits for a successor when the mapper is gone; DMU_WAIT_FOREVER */
	__u32 fail;		/* 1: end what waits for the mapper in EIO, now and from now on; 0: stop that */
	__u32 reserved;
};

#define DMU_IOC_MAGIC	0xdb
/* on /dev/dmu */
#define DMU_HELLO	_IOWR(DMU_IOC_MAGIC, 0, struct dmu_hello)
#define DMU_ATTACH	_IOW(DMU_IOC_MAGIC, 1, struct dmu_attach)
/* on a channel */
#define DMU_DEST_ADD	_IOWR(DMU_IOC_MAGIC, 8, struct dmu_destination)
#define DMU_DEST_GET	_IOWR(DMU_IOC_MAGIC, 9, struct dmu_destination)	/* without a descriptor: fd = -1 */
#define DMU_DEST_FD	_IOWR(DMU_IOC_MAGIC, 10, struct dmu_destination)
#define DMU_DEST_REMOVE	_IOW(DMU_IOC_MAGIC, 11, __u32)	/* EBUSY: still mapped or in flight */
#define DMU_STATE	_IOR(DMU_IOC_MAGIC, 12, struct dmu_state)
#define DMU_SET		_IOW(DMU_IOC_MAGIC, 13, struct dmu_set)

/* ---------------------------------------------------------- both ways --- */

/* Kinds of extent. */
enum {
	DMU_KIND_NONE	= 0,	/* not known; never in a MAP */
	DMU_KIND_LINEAR	= 1,	/* lies at physical on destination */
	DMU_KIND_ZERO	= 2,	/* reads as zeros; a write needs a place */
	DMU_KIND_COW	= 3,	/* reads from physical on destination; a write needs a place */
	DMU_KIND_ASK	= 4,	/* never cached: each request is a miss */
	DMU_KIND_ERROR	= 5,	/* reads and writes end in EIO */
	DMU_KIND_LOST	= 6,	/* only in CHANGED: space whose first write failed; never to be reused before a check */
};

/* What a miss is about. */
enum {
	DMU_OP_READ	= 0,
	DMU_OP_WRITE	= 1,
	DMU_OP_DISCARD	= 2,
	DMU_OP_ZERO	= 3,	/* write zeroes */
};

/* What discard and write-zeroes become on an extent. */
enum {
	DMU_POLICY_IGNORE = 0,	/* discard: done, nothing changes; write-zeroes: written as zeros */
	DMU_POLICY_PASS	= 1,	/* handed to the destination */
	DMU_POLICY_ZERO	= 2,	/* whole grains become ZERO, logged, nobody asked */
	DMU_POLICY_ASK	= 3,	/* a miss */
};

/* ------------------------------------------------------------- events --- */

enum {
	DMU_EV_MISS		= 1,	/* id start length op flags error: wants MAP or PLACE or FAIL (or DONE) with this id */
	DMU_EV_CHANGED		= 2,	/* sequence start length kind destination physical */
	DMU_EV_FLUSH		= 3,	/* id sequence start: wants COMMITTED of it, or FAIL; data of those changes is durable already. start: when it came, nanoseconds of CLOCK_MONOTONIC: what ended later it need not cover. One may come from the kernel itself, when the log fills up. With DMU_FLUSH_ASKED: wants DONE or FAIL */
	DMU_EV_LEASE_LOW	= 4,	/* pool, length = sectors left; once, until it is above the mark again */
	DMU_EV_REVOKED		= 5,	/* pool destination physical length flags: unused rest of a lease */
	DMU_EV_INVALIDATED	= 6,	/* id: done and drained; may be what a predecessor asked for */
	DMU_EV_PLACED		= 7,	/* hand-over: start length destination physical of a first write under way */
	DMU_EV_LEASED		= 8,	/* hand-over: pool destination physical length flags */
	DMU_EV_ATTACHED		= 9,	/* end of the hand-over; sequence = last change; length = sectors of the table */
	DMU_EV_RESIZED		= 10,	/* length = sectors of a newly active table */
};

#define DMU_MISS_SEQUENTIAL	(1u << 0)	/* the request before ended where this starts */
#define DMU_MISS_AGAIN		(1u << 1)	/* a predecessor was told of it already */
#define DMU_MISS_MAPPED		(1u << 2)	/* where it starts the map says ZERO or COW: a write that wants a place */
/*
 * The request has been where a MAP with RETURN or TELL sent it, and is back:
 * error is 0 or the errno of it, sequence the id that the MAP answered (0: the
 * map sent it). Wants DONE (it ends well), FAIL, or another MAP; one that is
 * not ONCE has it looked up again.
 */
#define DMU_MISS_RETURNED	(1u << 3)
#define DMU_MISS_FIRST_FAILED	(1u << 4)	/* returned: it failed on destination (which the event names in any case) */
#define DMU_MISS_SECOND_FAILED	(1u << 5)	/* returned: it failed on destination2, of a mirror */
/* What the request was sent with; of several in one miss, what all of them were sent with. */
#define DMU_MISS_FUA		(1u << 6)
#define DMU_MISS_META		(1u << 7)
#define DMU_MISS_SYNC		(1u << 8)

/*
 * On a FLUSH (which may have DMU_MISS_AGAIN too): the table says ask_flush, and
 * there is no change to commit, so that COMMITTED does not end it. With an
 * error: so ended the syncing of destination, the first of which it failed.
 */
#define DMU_FLUSH_ASKED		(1u << 9)

struct dmu_event {
	__u32 type;
	__u32 flags;
	__u64 id;
	__u64 start;
	__u64 length;
	__u64 sequence;
	__u64 physical;
	__u32 destination;
	__u32 kind;
	__u32 op;
	union {
		__u32 pool;
		__u32 error;	/* MISS: positive errno, or 0 */
	};
};

/* ----------------------------------------------------------- commands --- */

enum {
	/*
	 * Fills what the kernel does not know of the range, and never replaces
	 * an extent. id: the miss it answers, or 0. Uses start, length, kind,
	 * flags, destination, physical, pool, sequence (last change applied to
	 * the metadata this was read from), discard, zeroes; for MIRROR also
	 * destination2, physical2. A range on a destination is checked against
	 * its size. A MAP whose sequence is older than the last INVALIDATE, or
	 * with map_memory than the last COMMITTED, may be ignored: it could
	 * bring back what a change it does not know of has replaced; the miss
	 * then comes again. The miss ends, and what waited is looked up again;
	 * send the
	 * MAP of the asked region last when several answer one miss, only
	 * it with the id.
	 */
	DMU_CMD_MAP		= 1,
	/*
	 * Answers a write miss: a place for the whole grains [start, start +
	 * length) at physical on destination, not yet in durable metadata. The
	 * kernel fills what the request does not cover from what its map holds
	 * (ZERO or COW must be mapped there before), writes, logs CHANGED and
	 * publishes LINEAR with pool, discard and zeroes from this command. May
	 * cover less than the miss asked for, from its start: the rest misses
	 * again. A place not taken (the miss is gone, or the region has become
	 * LINEAR meanwhile) comes back as CHANGED of kind LOST.
	 */
	DMU_CMD_PLACE		= 2,
	DMU_CMD_FAIL		= 3,	/* id, error (positive errno): the miss, or the flush, ends in it */
	/*
	 * id: ends well. A discard or write-zeroes miss was carried out by the
	 * mapper. A request that was returned, or missed on an ASK extent: a
	 * read has the data that its I/O put there, zeros if there was none or
	 * it failed. A flush whose changes, if any, are committed.
	 */
	DMU_CMD_DONE		= 4,
	DMU_CMD_COMMITTED	= 5,	/* sequence: all changes up to it are durable in the metadata */
	/*
	 * Space of whole grains that first writes may take: where a write meets
	 * ZERO or COW extents that name the pool, it takes the next grains, is
	 * written there as with PLACE, and logged as CHANGED; discard and zeroes
	 * of the new extent are those of the one written to. What is taken and
	 * fails is logged as LOST. Leases are the key's: a successor finds them.
	 */
	DMU_CMD_LEASE		= 6,	/* pool destination physical length flags */
	DMU_CMD_REVOKE		= 7,	/* pool: REVOKED comes for each unused piece, at once */
	/*
	 * Forgets the range, then waits until I/O issued before has ended;
	 * INVALIDATED with the id follows. length 0: only waits. What RETURN or
	 * TELL brings back of that I/O is read before INVALIDATED.
	 */
	DMU_CMD_INVALIDATE	= 8,
	/*
	 * Makes a pool (1 to 4096), or changes its low mark: pool, length =
	 * grain, physical = fill unit, sequence = low mark, all in sectors. The
	 * grain is the table's, and so is the fill unit.
	 */
	DMU_CMD_POOL		= 9,
};

#define DMU_MAP_WRITABLE	(1u << 0)	/* LINEAR: may be written in place */
#define DMU_MAP_ONCE		(1u << 1)	/* for the request that missed only */
/*
 * LINEAR: writes go to physical2 on destination2 too, reads to the first only.
 * A write ends when both have, in an error if either failed.
 */
#define DMU_MAP_MIRROR		(1u << 2)
#define DMU_READS_ZERO		(1u << 3)	/* PLACE, LEASE: the space reads as zeros already */
/*
 * LINEAR with ONCE: when its I/O has ended the request does not, but comes back
 * as a MISS with a new id and DMU_MISS_RETURNED. One that is mapped in part
 * comes back in parts.
 */
#define DMU_MAP_RETURN		(1u << 4)
#define DMU_MAP_TELL		(1u << 5)	/* LINEAR, also cached: a request that fails there comes back in the same way */
#define DMU_MAP_ASK		(1u << 6)	/* cached LINEAR, no other flag: reads go there, each write is a miss of its own as on ASK */

struct dmu_command {
	__u32 type;
	__u32 flags;
	__u64 id;
	__u64 start;
	__u64 length;
	__u64 sequence;
	__u64 physical;
	__u64 physical2;
	__u32 destination;
	__u32 destination2;
	__u32 kind;
	__u32 error;
	__u32 pool;
	__u32 discard;		/* DMU_POLICY_* */
	__u32 zeroes;		/* DMU_POLICY_*, for write-zeroes */
	__u32 reserved;
};

/*
 * write() returns the bytes of the commands that were applied. A command that
 * is refused ends the write: the count before it is returned, or where it was
 * the first, -1 with errno EINVAL (malformed), ERANGE (outside the device or
 * the destination), ENOENT (no such destination or pool), EOPNOTSUPP (feature
 * not offered), ENOMEM, ENOSPC (more combinations of kind, destination, policy
 * and pool than the map can tell apart). Space on a destination from sector 2^48
 * on can't be named; reserved fields, and flags that a command does not have,
 * must be 0. A MAP or FAIL with an id that is gone is no error.
 */

#if defined(__cplusplus)
#define DMU_ASSERT_SIZE(type, size) static_assert(sizeof(struct type) == (size), #type)
#else
#define DMU_ASSERT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)
#endif
DMU_ASSERT_SIZE(dmu_hello, 16);
DMU_ASSERT_SIZE(dmu_attach, 136);
DMU_ASSERT_SIZE(dmu_destination, 32);
DMU_ASSERT_SIZE(dmu_state, 176);
DMU_ASSERT_SIZE(dmu_set, 16);
DMU_ASSERT_SIZE(dmu_event, 64);
DMU_ASSERT_SIZE(dmu_command, 88);

#endif /* _UAPI_DM_USERSPACE_H */
