/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libdmu: the C face of the device-mapper target "userspace", for programs that
 * answer where the blocks of a device lie. The words (extent, place, change,
 * miss, destination) and the fields of struct dmu_event and struct dmu_command
 * are explained in dm-userspace.h beside this file.
 *
 * Units: start, length, physical and sectors count sectors of 512 bytes.
 * Errors: a negative errno; 0 or a count otherwise. Nothing is printed.
 * Threads: a channel may be used from several threads where a function says so;
 * else by one at a time. Different channels are independent.
 * Blocking: only dmu_run() waits for events, dmu_destination_remove() for I/O under way.
 *
 * A whole program (one file or block device as a device, nothing but MAP):
 *
 *     #include <dmu/dmu.h>
 *     static int miss(struct dmu_channel *ch, const struct dmu_event *ev, void *arg)
 *     {
 *             struct dmu_command map;
 *             dmu_cmd_map_linear(&map, ev->id, ev->start, ev->length, 0, ev->start, DMU_MAP_WRITABLE);
 *             return dmu_queue(ch, &map);
 *     }
 *     int main(int argc, char **argv)
 *     {
 *             struct dmu_handlers handlers = { .size = sizeof(handlers), .miss = miss };
 *             struct dmu_channel *ch;
 *             int fd = open(argv[1], O_RDWR);
 *             if (dmu_attach("example", DMU_ATTACH_CREATE, &ch) || dmu_destination_add(ch, 0, fd, 0, 0, NULL))
 *                     return 1;
 *             return dmu_run(ch, &handlers, NULL) ? 1 : 0;
 *     }
 *
 * and then: dmsetup create example --table "0 SECTORS userspace example 0"
 */
#ifndef DMU_H
#define DMU_H

#include <stddef.h>
#include <stdint.h>

#include "dm-userspace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DMU_API __attribute__((visibility("default")))

struct dmu_channel;

/* "0.1.0": of the library that is loaded. Static; never freed. */
DMU_API const char* dmu_version(void);

/*
 * What the loaded module offers: *version is the wire's version to be used,
 * *features a set of DMU_FEATURE_*. Either may be NULL. Any thread.
 * -ENOENT: no /dev/dmu, the module is not loaded. -EACCES, -EPERM: not root.
 */
DMU_API int dmu_query(uint32_t* version, uint64_t* features);

/* -------------------------------------------------------------- channel --- */

/*
 * Attaches to the target with this key (at most DMU_KEY_MAX - 1 bytes). flags:
 * DMU_ATTACH_CREATE. On success *channel is the caller's, to be ended by
 * dmu_close(). Any thread.
 * -ENAMETOOLONG or -EINVAL: bad key. -EBUSY: another mapper is attached.
 * -ENOENT: no /dev/dmu, or no such key (and not DMU_ATTACH_CREATE): dmu_query()
 * tells which. -EPROTONOSUPPORT: the module speaks another version.
 */
DMU_API int dmu_attach(const char* key, uint32_t flags, struct dmu_channel** channel);

/*
 * Detaches. What waits for a mapper goes on waiting for the next one. Commands
 * still queued are dropped. No other thread may be using the channel. NULL is fine.
 */
DMU_API void dmu_close(struct dmu_channel* channel);

/* The key it was attached by. The channel's own memory. Any thread. */
DMU_API const char* dmu_key(const struct dmu_channel* channel);

/* For poll(): readable when there is an event. Stays the channel's; non-blocking, close-on-exec. Any thread. */
DMU_API int dmu_fd(const struct dmu_channel* channel);

/*
 * Reads up to count events, as many as there are. Never blocks. Returns how
 * many, 0: none now. One thread at a time. -EPIPE: the other end is gone.
 */
DMU_API int dmu_next_events(struct dmu_channel* channel, struct dmu_event* events, size_t count);

/*
 * Gives count commands to the kernel, in order, in as few writes as it takes.
 * *sent (may be NULL) is how many were applied: on an error the index of the
 * refused one. Any thread; the commands of one call stay together. What is
 * queued is another matter: it goes later.
 * -EINVAL, -ERANGE, -ENOENT, -EOPNOTSUPP, -ENOMEM as dm-userspace.h says.
 */
DMU_API int dmu_send(struct dmu_channel* channel, const struct dmu_command* commands, size_t count, size_t* sent);

/*
 * Queues a copy of one command, to be written with others by dmu_send_queued(),
 * which dmu_run() calls before it sleeps. A MAP with sequence 0 gets the
 * sequence of the last CHANGED that dmu_run() has handed out. Never writes;
 * -ENOMEM. Any thread, but it wakes nobody: threads other than the loop's call
 * dmu_send_queued() after it, or use dmu_send().
 */
DMU_API int dmu_queue(struct dmu_channel* channel, const struct dmu_command* command);

/*
 * Writes what is queued. On an error *refused (may be NULL) is the refused
 * command, which has left the queue with those before it; those after it are
 * still queued: call again to go on. Any thread.
 */
DMU_API int dmu_send_queued(struct dmu_channel* channel, struct dmu_command* refused);

/* --------------------------------------------------------- destinations --- */

/*
 * Names an open regular file or block device as a destination. The kernel keeps
 * its own reference; fd stays the caller's. flags: DMU_DEST_*. *answer (may be
 * NULL) tells flags, alignment in bytes, and sectors. Any thread.
 * -EEXIST: the number is taken. -EBADF, -EINVAL: see dm-userspace.h.
 */
DMU_API int dmu_destination_add(struct dmu_channel* channel, uint32_t number, int fd, uint32_t flags, uint64_t cookie,
                                struct dmu_destination* answer);
/* What is known of a destination; answer->fd is -1. -ENOENT: no such number. Any thread. */
DMU_API int dmu_destination_get(struct dmu_channel* channel, uint32_t number, struct dmu_destination* answer);
/*
 * A new descriptor (close-on-exec; the caller's to close) of the very open file that the
 * destination is: how a successor comes by its predecessor's files and their locks. Any thread.
 */
DMU_API int dmu_destination_fd(struct dmu_channel* channel, uint32_t number);
/* Waits until I/O to it has ended. -EBUSY: still mapped, leased, or being filled. Any thread. */
DMU_API int dmu_destination_remove(struct dmu_channel* channel, uint32_t number);

/* ---------------------------------------------------------------- state --- */

/* The state as it is now. 0 or a negative errno, -EPERM: the credentials are not those that attached. Any thread. */
DMU_API int dmu_get_state(struct dmu_channel* channel, struct dmu_state* state);
/* How many seconds I/O waits for a successor once this mapper is gone; DMU_WAIT_FOREVER. -EPERM. Any thread. */
DMU_API int dmu_set_wait(struct dmu_channel* channel, uint32_t seconds);
/* Not 0: ends what waits for the mapper in EIO, now and from now on; 0: stops that. -EPERM. Any thread. */
DMU_API int dmu_set_fail(struct dmu_channel* channel, int fail);

/* ------------------------------------------------------------- commands --- */

/*
 * Each fills the whole command; they know of nothing else, so any thread may. id: the miss that it answers, or 0. The
 * fields that dm-userspace.h names beyond the arguments (sequence, discard, zeroes, pool, mirror) are set afterwards,
 * by hand or by the helpers below.
 */
/* flags: DMU_MAP_*; RETURN and TELL have requests come back, see dm-userspace.h. */
DMU_API void dmu_cmd_map_linear(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length,
                                uint32_t destination, uint64_t physical, uint32_t flags);
DMU_API void dmu_cmd_map_zero(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length);
/* Reads come from physical on destination, writes need a place. */
DMU_API void dmu_cmd_map_cow(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length,
                             uint32_t destination, uint64_t physical);
DMU_API void dmu_cmd_map_ask(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length);
DMU_API void dmu_cmd_map_error(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length);
/* flags: DMU_READS_ZERO or 0. */
DMU_API void dmu_cmd_place(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length,
                           uint32_t destination, uint64_t physical, uint32_t flags);
/* error: an errno, positive. */
DMU_API void dmu_cmd_fail(struct dmu_command* command, uint64_t id, uint32_t error);
/* The miss, or the flush, ends well. */
DMU_API void dmu_cmd_done(struct dmu_command* command, uint64_t id);
DMU_API void dmu_cmd_committed(struct dmu_command* command, uint64_t sequence);
/* grain: the pieces that are taken; fill: the unit that is filled; low: where LEASE_LOW is sent. Sectors. */
DMU_API void dmu_cmd_pool(struct dmu_command* command, uint32_t pool, uint64_t grain, uint64_t fill, uint64_t low);
/* flags: DMU_READS_ZERO or 0. */
DMU_API void dmu_cmd_lease(struct dmu_command* command, uint32_t pool, uint32_t destination, uint64_t physical,
                           uint64_t length, uint32_t flags);
DMU_API void dmu_cmd_revoke(struct dmu_command* command, uint32_t pool);
/* length 0: only waits for what is in flight. INVALIDATED with the id follows. */
DMU_API void dmu_cmd_invalidate(struct dmu_command* command, uint64_t id, uint64_t start, uint64_t length);

/* On a MAP or PLACE: what discard and write-zeroes become, DMU_POLICY_*. */
DMU_API void dmu_cmd_policies(struct dmu_command* command, uint32_t discard, uint32_t zeroes);
/* On a LINEAR MAP: writes go there too. */
DMU_API void dmu_cmd_mirror(struct dmu_command* command, uint32_t destination2, uint64_t physical2);

/* ----------------------------------------------------------------- loop --- */

/*
 * Called on the thread of dmu_run(), one at a time, in the order of the stream.
 * They may block (the device's I/O waits meanwhile), but must not do I/O to the
 * device itself. Each may be NULL except miss.
 */
struct dmu_handlers {
    size_t size; /* sizeof(struct dmu_handlers) */

    /*
     * MISS: answered by a MAP, PLACE, FAIL or DONE with event->id, now or
     * later, from any thread. A negative errno: the loop fails the miss
     * with it and goes on. With DMU_MISS_RETURNED in event->flags it is a
     * request that RETURN or TELL brought back; event->error says how it went.
     */
    int (*miss)(struct dmu_channel* channel, const struct dmu_event* event, void* context);

    /* CHANGED: to be recorded. A negative errno ends dmu_run() with it. NULL: nothing is recorded. */
    int (*changed)(struct dmu_channel* channel, const struct dmu_event* event, void* context);

    /*
     * FLUSH: everything changed up to event->sequence is to be made
     * durable. 0: that was done, the loop sends COMMITTED (DONE where flags
     * have DMU_FLUSH_ASKED); 1: the handler will send it later; a negative
     * errno ends dmu_run() with it (the flush waits for the next mapper).
     * NULL: COMMITTED or DONE at once.
     */
    int (*flush)(struct dmu_channel* channel, const struct dmu_event* event, void* context);

    /* Every other event: ATTACHED, RESIZED, INVALIDATED, ... A negative errno ends dmu_run() with it. */
    int (*other)(struct dmu_channel* channel, const struct dmu_event* event, void* context);

    /*
     * A queued command was refused with a negative errno. 0: handled, go on; a
     * negative errno ends dmu_run() with it. NULL: a MAP or PLACE with
     * an id is answered by FAIL EIO in its stead, anything else ends
     * dmu_run() with the error.
     */
    int (*refused)(struct dmu_channel* channel, const struct dmu_command* command, int error, void* context);

    /* Before the loop sleeps, after the queue was written. A negative errno ends dmu_run() with it. */
    int (*idle)(struct dmu_channel* channel, void* context);
};

/*
 * Serves the channel until dmu_stop() (0), a handler or the channel fails
 * (negative errno). Blocks. What is queued is written before it returns. One
 * thread at a time; may be called again.
 */
DMU_API int dmu_run(struct dmu_channel* channel, const struct dmu_handlers* handlers, void* context);

/* Makes dmu_run() return soon, events unread; if none runs, the next returns at once. Any thread, signal handlers. */
DMU_API void dmu_stop(struct dmu_channel* channel);

#ifdef __cplusplus
}
#endif

#endif /* DMU_H */
