/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests in the kernel (*_kunit.c) stand on: a key with the test as
 * its mapper, files in memory as destinations, and requests. Nothing is
 * pretended; only the table and the channel's file are missing.
 */
#ifndef DMU_KUNIT_RIG_H
#define DMU_KUNIT_RIG_H

#include <kunit/test.h>

#include "dmu.h"
#include "kunit_random.h"

#define RIG_SECTORS	4096	/* of the device */
#define RIG_DESTS	2
#define RIG_DEST_SECTORS 16384

/* Keeps a destination's writer from its work. */
struct rig_stall {
	struct kthread_work work;
	struct completion over;
	bool on;
};

struct rig {
	struct kunit *test;
	struct dmu_key *key;
	struct dmu_dest *dest[RIG_DESTS];
	struct rig_stall stall[RIG_DESTS];
	struct list_head requests;
};

struct rig_request {
	struct list_head list;
	struct dmu_io io;
	struct bio *bio;
	u8 *data;
	struct completion ended;
	blk_status_t status;
};

/*
 * A suite's suite_init, suite_exit, init and exit. The rig is test->priv; its
 * mapper is attached, and has read what it was told at first.
 */
int rig_begin(struct kunit_suite *suite);
void rig_end(struct kunit_suite *suite);
int rig_init(struct kunit *test);
void rig_exit(struct kunit *test);

/* Waits until all that can go on has, but for stalled writers. */
void rig_settle(struct rig *rig);
void rig_stall(struct rig *rig, unsigned int dest);
void rig_go(struct rig *rig, unsigned int dest);

/* The data of a write are so many bytes of this value. */
struct rig_request *rig_submit(struct rig *rig, blk_opf_t op, u64 start, u64 sectors, u8 byte);
bool rig_waits(struct rig *rig, struct rig_request *request);
/* How it ended; an error of the test if it has not. */
blk_status_t rig_status(struct rig *rig, struct rig_request *request);
/* Frees one that has ended; otherwise that is done in the end. */
void rig_forget(struct rig_request *request);
/* The device, and a destination, hold this byte everywhere in the range. */
bool rig_reads(struct rig *rig, u64 start, u64 sectors, u8 byte);
bool rig_is_all(const u8 *data, u64 sectors, u8 byte);
bool rig_holds(struct rig *rig, unsigned int dest, u64 physical, u64 sectors, u8 byte);
void rig_write_dest(struct rig *rig, unsigned int dest, u64 physical, u64 sectors, u8 byte);

static inline struct rig_request *rig_write(struct rig *rig, u64 start, u64 sectors, u8 byte)
{
	return rig_submit(rig, REQ_OP_WRITE, start, sectors, byte);
}

static inline struct rig_request *rig_flush(struct rig *rig)
{
	return rig_submit(rig, REQ_OP_WRITE | REQ_PREFLUSH, 0, 0, 0);
}

/* The mapper's part: what dmu_command_apply() said. */
int rig_apply(struct rig *rig, const struct dmu_command *command);
#define RIG_APPLY(rig, ...) rig_apply(rig, &(struct dmu_command){ __VA_ARGS__ })
int rig_commit(struct rig *rig, u64 sequence);
/* ZERO that takes its places from the pool, or from the mapper. */
void rig_map_zero(struct rig *rig, u64 start, u64 length, u32 pool);
void rig_pool(struct rig *rig, u32 pool, u64 low);
void rig_lease(struct rig *rig, u32 pool, u32 dest, u64 physical, u64 length, u32 flags);
/* A change for the log that no request made: ground becomes LINEAR on the first destination. false: no room. */
bool rig_change(struct rig *rig, u64 start, u64 length, u64 physical);
struct dmu_state rig_state(struct rig *rig);

/*
 * The next event is this one, in every field; a FLUSH's start is 1 if it says
 * when the request came.
 */
void rig_expect(struct rig *rig, int line, const struct dmu_event *want);
#define EXPECT_EVENT(rig, ...) rig_expect(rig, __LINE__, &(struct dmu_event){ __VA_ARGS__ })
#define EXPECT_NO_EVENT(rig) EXPECT_EVENT(rig, .type = 0)
#define EXPECT_FAILED(rig, request, why) \
	KUNIT_EXPECT_EQ((rig)->test, (__force int)rig_status(rig, request), (__force int)(why))
#define EXPECT_ENDED(rig, request) EXPECT_FAILED(rig, request, BLK_STS_OK)
#define EXPECT_WAITS(rig, request) KUNIT_EXPECT_TRUE((rig)->test, rig_waits(rig, request))

/* Changes as the mapper reads of them. */
#define EXPECT_LINEAR(rig, number, at, sectors, on, place)						\
	EXPECT_EVENT(rig, .type = DMU_EV_CHANGED, .sequence = (number), .start = (at), .length = (sectors),	\
		     .kind = DMU_KIND_LINEAR, .destination = (on), .physical = (place))

#endif /* DMU_KUNIT_RIG_H */
