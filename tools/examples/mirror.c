/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mirror: RAID 1 over two devices or files.
 *
 *     mirror [--create] [--degraded] [--replace] [--open REGIONS] KEY LEG LEG
 *
 * At the end of each leg are a superblock and a bitmap with a bit for each
 * region: set where the legs may differ. A region is mapped for writing once
 * its bit is on disk; the kernel then writes to both legs and asks nobody. When
 * there are more than --open of these the oldest is taken out of the map, and when
 * what was in flight has ended its bit is cleared.
 *
 * A leg that fails is left behind: the superblock of the other says so, on
 * disk, before the request that failed is done again without it. SIGHUP looks
 * for a leg that is missing. Whatever the reason why legs may differ (a crash, a
 * leg that was away, a new one), what is copied are the regions whose bits are
 * set, each while it is out of the map and nothing in flight.
 *
 * Legs with different event counts are never taken for the same: the one with
 * fewer is stale. If one is missing that may have the newer data, only
 * --degraded starts without it; if both have gone on alone, nothing does.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "legs.h"

#define WINDOW 32 /* regions that an answer tells of */
#define ARGUMENTS "[--create] [--degraded] [--replace] [--open REGIONS] KEY LEG LEG"

/* What an INVALIDATED is the answer to. */
enum { ANY, JOIN, LEAVE, COPY, CLEAN, STOP };

static int invalidate(struct mirror* m, uint64_t id, uint64_t region, uint64_t count) {
    struct dmu_command command;

    dmu_cmd_invalidate(&command, m->ids + id, region * m->super->region, count * m->super->region);
    return dmu_queue(m->channel, &command);
}

/* What was decided is on disk; then a leg that has left is taken out of the map. */
static int settle(struct mirror* m) {
    int error = save(m);

    if (error || !m->left) return error;
    m->left = false;
    return invalidate(m, LEAVE, 0, m->regions);
}

/* -------------------------------------------------------------------- map --- */

static int map_region(struct mirror* m, uint64_t region, uint64_t id) {
    int first = first_leg(m, region);
    uint64_t start = region * m->super->region;
    struct dmu_command map;

    dmu_cmd_map_linear(&map, id, start, m->super->region, (uint32_t)first, start, DMU_MAP_TELL);
    if (m->open[region]) {
        map.flags |= DMU_MAP_WRITABLE;
        if (here(m, !first)) dmu_cmd_mirror(&map, (uint32_t)!first, start);
    }
    return dmu_queue(m->channel, &map);
}

/* The regions of a miss and their neighbours; the last one ends the miss. */
static int map_regions(struct mirror* m, uint64_t first, uint64_t last, uint64_t id) {
    uint64_t from = first / WINDOW * WINDOW, to = smaller(from + WINDOW, m->regions);
    int error = 0;

    for (uint64_t region = from; region < to && !error; region++)
        if ((region < first || region > last) && region != m->copying) error = map_region(m, region, 0);
    for (uint64_t region = first; region <= last && !error; region++)
        error = map_region(m, region, region == last ? id : 0);
    return error;
}

/* Bits first, on disk; then the regions may be written to. */
static int open_regions(struct mirror* m, uint64_t first, uint64_t last) {
    bool save_first = m->changed;
    int error = 0;

    for (uint64_t region = first; region <= last; region++) {
        set_bit(m->bits, region, true);
        save_first |= !bit(m->disk_bits, region);
        if (region == m->cleaning) m->cleaning = NONE;
    }
    if (save_first) error = settle(m);
    for (uint64_t region = first; region <= last && !error; region++) {
        if (m->open[region]) continue;
        m->open[region] = 1;
        m->queue[m->queued++] = region;
        error = invalidate(m, ANY, region, 1); /* it may be mapped for reading */
    }
    return error;
}

/* One at a time, oldest first. */
static int clean(struct mirror* m) {
    uint64_t region = m->queue[0];

    if (m->queued <= m->most_open || m->drains || !in_sync(m, 0) || !in_sync(m, 1)) return 0;
    memmove(m->queue, m->queue + 1, --m->queued * sizeof(*m->queue));
    m->open[region] = 0;
    m->cleaning = region;
    m->drains = true;
    return invalidate(m, CLEAN, region, 1);
}

static int hold(struct mirror* m, const struct dmu_event* event) {
    m->held = grow(m->held, m->held_count, &m->held_room, sizeof(*m->held));
    m->held[m->held_count] = *event;
    /* What came back has been seen to. */
    m->held[m->held_count++].flags &= ~DMU_MISS_RETURNED;
    return 0;
}

static int answer(struct mirror* m, const struct dmu_event* event) {
    uint64_t first = event->start / m->super->region;
    uint64_t last = (event->start + event->length - 1) / m->super->region;
    int error = 0;

    if (m->stopping) return 0; /* for the next mapper */
    if (m->copying >= first && m->copying <= last) return hold(m, event);
    if (event->op != DMU_OP_READ) error = open_regions(m, first, last);
    if (!error) error = map_regions(m, first, last, event->id);
    return error ? error : clean(m);
}

/* ------------------------------------------------------------------- copy --- */

/* The stale leg has everything now; the other is the first to say so. */
static int join_whole(struct mirror* m, int leg) {
    int error = sync_file(m->legs[leg].fd);

    if (error) {
        leave(m, leg, error);
    } else {
        m->lead = !leg;
        m->super->stale[leg] = 0;
        m->super->events++;
        m->changed = true;
    }
    error = settle(m);
    if (!error && here(m, leg)) fprintf(stderr, "mirror: %s has everything\n", m->legs[leg].path);
    /* Reads may go to both. */
    return error ? error : invalidate(m, ANY, 0, m->regions);
}

static int copy_next(struct mirror* m) {
    const unsigned char* next = memchr(m->differ, 1, m->regions);

    if (m->copying != NONE || m->stopping || !here(m, 0) || !here(m, 1)) return 0;
    if (next) {
        m->copying = (uint64_t)(next - m->differ);
        return invalidate(m, COPY, m->copying, 1);
    }
    if (in_sync(m, 0) && in_sync(m, 1)) return 0;
    return join_whole(m, in_sync(m, 0));
}

static int copy_region(struct mirror* m, uint64_t region, int from, int* failed) {
    static char* buffer;
    uint64_t size = m->super->region * SECTOR, piece = REGION * SECTOR;
    int error = 0;

    if (!buffer) buffer = alloc_pages(piece);
    for (uint64_t at = region * size; at < (region + 1) * size && !error; at += piece) {
        *failed = from;
        if ((error = read_at(m->legs[from].fd, buffer, piece, at))) break;
        *failed = !from;
        error = write_at(m->legs[!from].fd, buffer, piece, at);
    }
    return error;
}

static int release_held(struct mirror* m) {
    struct dmu_event* held = m->held;
    uint64_t count = m->held_count;
    int error = 0;

    m->held = NULL;
    m->held_count = m->held_room = 0;
    for (uint64_t i = 0; i < count; i++) {
        int now = answer(m, &held[i]);
        struct dmu_command fail;

        if (!now) continue;
        dmu_cmd_fail(&fail, held[i].id, (uint32_t)-now);
        error = dmu_queue(m->channel, &fail);
    }
    free(held);
    return error;
}

/* The region is out of the map, and nothing in flight there. */
static int copy_now(struct mirror* m) {
    uint64_t region = m->copying;
    int failed, error;

    if (region == NONE) return release_held(m); /* a leg was lost meanwhile */
    error = copy_region(m, region, first_leg(m, region), &failed);
    if (error && !may_leave(m, failed)) {
        fprintf(stderr, "mirror: %s: region %llu: %s; what is left is not copied\n", m->legs[failed].path,
                (unsigned long long)region, strerror(-error));
        m->copying = NONE;
        return release_held(m);
    }
    if (error) {
        leave(m, failed, error);
        error = settle(m);
        return error ? error : release_held(m);
    }
    m->differ[region] = 0;
    if (!m->open[region]) set_bit(m->bits, region, false);
    m->copying = NONE;
    error = release_held(m);
    return error ? error : copy_next(m);
}

/* ---------------------------------------------------------- legs come and go --- */

static int rejoin(struct mirror* m) {
    int error;

    look_for_gone(m);
    error = m->changed ? settle(m) : 0;
    return error ? error : invalidate(m, JOIN, 0, m->regions);
}

/* ----------------------------------------------------------------- events --- */

/* It has been tried, and failed: on one of two legs, it is tried again without that. */
static int returned(struct mirror* m, const struct dmu_event* event) {
    int error = 0;

    for (int i = 0; i < 2 && !error; i++) {
        int leg = i ? !event->destination : (int)event->destination;

        if (!(event->flags & (i ? DMU_MISS_SECOND_FAILED : DMU_MISS_FIRST_FAILED)) || !here(m, leg)) continue;
        if (!may_leave(m, leg)) return -(int)event->error;
        leave(m, leg, (int)event->error);
        error = settle(m);
    }
    return error ? error : answer(m, event);
}

static int on_miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct mirror* m = context;

    (void)channel;
    return event->flags & DMU_MISS_RETURNED ? returned(m, event) : answer(m, event);
}

/* A flush that a leg could not do: what is whole without it has to have done it. */
static int flush_failed(struct mirror* m, int leg, int error) {
    if (may_leave(m, leg))
        leave(m, leg, error);
    else if (here(m, leg))
        return error;
    return settle(m); /* which syncs them */
}

static int on_flush(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct dmu_command command;
    int error = event->error ? flush_failed(context, (int)event->destination, -(int)event->error) : 0;

    if (error)
        dmu_cmd_fail(&command, event->id, (uint32_t)-error);
    else
        dmu_cmd_done(&command, event->id);
    error = dmu_queue(channel, &command);
    return error ? error : 1;
}

static int cleaned(struct mirror* m) {
    if (m->cleaning != NONE && in_sync(m, 0) && in_sync(m, 1) && !m->differ[m->cleaning])
        set_bit(m->bits, m->cleaning, false);
    m->cleaning = NONE;
    m->drains = false;
    return clean(m);
}

/* Nothing is mapped, nothing in flight: the legs are the same, but for what was not copied. */
static int stopped(struct mirror* m) {
    int error;

    for (uint64_t region = 0; region < m->regions && in_sync(m, 0) && in_sync(m, 1); region++)
        if (!m->differ[region]) set_bit(m->bits, region, false);
    error = settle(m);
    dmu_stop(m->channel);
    return error;
}

static int on_other(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct mirror* m = context;

    (void)channel;
    if (event->type == DMU_EV_ATTACHED) return invalidate(m, JOIN, 0, m->regions);
    if (event->type != DMU_EV_INVALIDATED) return 0;
    switch (event->id - m->ids) {
        case JOIN:
            forget_gone(m);
            return copy_next(m);
        case LEAVE:
            forget_gone(m);
            return 0;
        case COPY:
            return copy_now(m);
        case CLEAN:
            return cleaned(m);
        case STOP:
            return stopped(m);
        default:
            return 0;
    }
}

/* ------------------------------------------------------------------- start --- */

static volatile sig_atomic_t look_again;
static struct dmu_channel* to_stop;

static void on_hangup(int signal) {
    (void)signal;
    look_again = 1;
    dmu_stop(to_stop);
}

static void run(struct mirror* m) {
    struct dmu_handlers handlers = {.size = sizeof(handlers), .miss = on_miss, .flush = on_flush, .other = on_other};
    struct sigaction action = {.sa_handler = on_hangup};
    int error = 0;

    to_stop = m->channel;
    sigaction(SIGHUP, &action, NULL);
    announce(m->channel, m->super->sectors, "3 grain 8 ask_flush");
    do {
        look_again = 0;
        serve(m->channel, &handlers, m);
        if (look_again) error = rejoin(m);
    } while (look_again && !error);
    m->stopping = true;
    if (!error) error = invalidate(m, STOP, 0, m->regions);
    if (error) die(dmu_key(m->channel), error);
    serve(m->channel, &handlers, m);
}

int main(int argc, char** argv) {
    static const struct option options[] = {{"create", no_argument, NULL, 'c'},
                                            {"degraded", no_argument, NULL, 'd'},
                                            {"replace", no_argument, NULL, 'r'},
                                            {"open", required_argument, NULL, 'o'},
                                            {0}};
    struct super* supers[2] = {alloc_pages(PAGE), alloc_pages(PAGE)};
    struct mirror m = {.ids = fresh_ids(),
                       .most_open = 128,
                       .super = alloc_pages(PAGE),
                       .bits = alloc_pages(PAGE),
                       .disk_bits = alloc_pages(PAGE)};
    bool make = false, degraded = false;
    uint64_t features = 0;
    int option, error;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        make |= option == 'c';
        degraded |= option == 'd';
        m.replace |= option == 'r';
        if (option == 'o') m.most_open = number(optarg, 2);
        if (option == '?') usage(ARGUMENTS);
    }
    if (argc - optind != 3) usage(ARGUMENTS);
    m.channel = attach(argv[optind]);
    if (dmu_query(NULL, &features) || ~features & (DMU_FEATURE_MIRROR | DMU_FEATURE_RETURN | DMU_FEATURE_ASK_FLUSH))
        die("the module is too old for a mirror", EPROTONOSUPPORT);
    for (int leg = 0; leg < 2; leg++) {
        m.legs[leg].path = argv[optind + 1 + leg];
        error = open_leg(&m, leg, supers[leg]);
        if (error) fprintf(stderr, "mirror: %s: %s\n", m.legs[leg].path, strerror(-error));
    }
    if (make)
        create(&m);
    else
        assemble(&m, supers, degraded);
    run(&m);
    return 0;
}
