/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dmu_run(): events out, the queue in, sleep. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define BATCH 64

/* The caller's structure may be an older, shorter one. */
static int take_handlers(struct dmu_handlers* into, const struct dmu_handlers* from) {
    size_t size = from->size < sizeof(*into) ? from->size : sizeof(*into);

    memset(into, 0, sizeof(*into));
    memcpy(into, from, size);
    return into->miss ? 0 : -EINVAL;
}

static int on_miss(struct dmu_channel* channel, const struct dmu_handlers* handlers, const struct dmu_event* event,
                   void* context) {
    int error = handlers->miss(channel, event, context);
    struct dmu_command fail;

    if (error >= 0) return 0;
    dmu_cmd_fail(&fail, event->id, (uint32_t)-error);
    return dmu_queue(channel, &fail);
}

static int on_changed(struct dmu_channel* channel, const struct dmu_handlers* handlers, const struct dmu_event* event,
                      void* context) {
    int error = handlers->changed ? handlers->changed(channel, event, context) : 0;

    if (error < 0) return error;
    pthread_mutex_lock(&channel->lock);
    channel->applied = event->sequence;
    pthread_mutex_unlock(&channel->lock);
    return 0;
}

static int on_flush(struct dmu_channel* channel, const struct dmu_handlers* handlers, const struct dmu_event* event,
                    void* context) {
    int answer = handlers->flush ? handlers->flush(channel, event, context) : 0;
    struct dmu_command command;

    if (answer) return answer < 0 ? answer : 0;
    if (event->flags & DMU_FLUSH_ASKED)
        dmu_cmd_done(&command, event->id);
    else
        dmu_cmd_committed(&command, event->sequence);
    return dmu_queue(channel, &command);
}

static int dispatch(struct dmu_channel* channel, const struct dmu_handlers* handlers, const struct dmu_event* event,
                    void* context) {
    int answer = 0;

    switch (event->type) {
        case DMU_EV_MISS:
            return on_miss(channel, handlers, event, context);
        case DMU_EV_CHANGED:
            return on_changed(channel, handlers, event, context);
        case DMU_EV_FLUSH:
            return on_flush(channel, handlers, event, context);
        default:
            if (handlers->other) answer = handlers->other(channel, event, context);
            return answer < 0 ? answer : 0;
    }
}

static int on_refused(struct dmu_channel* channel, const struct dmu_handlers* handlers,
                      const struct dmu_command* command, int error, void* context) {
    struct dmu_command fail;
    int answer;

    if (handlers->refused) {
        answer = handlers->refused(channel, command, error, context);
        return answer < 0 ? answer : 0;
    }
    if (command->id == 0 || (command->type != DMU_CMD_MAP && command->type != DMU_CMD_PLACE)) return error;
    dmu_cmd_fail(&fail, command->id, EIO);
    return dmu_queue(channel, &fail);
}

static int write_queued(struct dmu_channel* channel, const struct dmu_handlers* handlers, void* context) {
    for (;;) {
        struct dmu_command refused;
        int error = dmu_send_queued(channel, &refused);

        if (!error) return 0;
        error = on_refused(channel, handlers, &refused, error, context);
        if (error) return error;
    }
}

/* 1: stopped. 0: look for events. */
static int sleep_until_ready(struct dmu_channel* channel) {
    struct pollfd pollers[2] = {{.fd = channel->fd, .events = POLLIN}, {.fd = channel->stop_fd, .events = POLLIN}};

    while (poll(pollers, 2, -1) < 0)
        if (errno != EINTR) return -errno;
    if (pollers[1].revents) {
        uint64_t count;

        return read(channel->stop_fd, &count, sizeof(count)) < 0 && errno != EAGAIN ? -errno : 1;
    }
    return pollers[0].revents & (POLLERR | POLLNVAL) ? -EPIPE : 0;
}

static int serve(struct dmu_channel* channel, const struct dmu_handlers* handlers, void* context) {
    struct dmu_event events[BATCH];
    int count = dmu_next_events(channel, events, BATCH);
    int i, error = count < 0 ? count : 0;

    for (i = 0; i < count && !error; i++) error = dispatch(channel, handlers, &events[i], context);
    return error;
}

int dmu_run(struct dmu_channel* channel, const struct dmu_handlers* given, void* context) {
    struct dmu_handlers handlers;
    int state = take_handlers(&handlers, given);

    while (state == 0) {
        state = write_queued(channel, &handlers, context);
        if (!state && handlers.idle) {
            int answer = handlers.idle(channel, context);

            state = answer < 0 ? answer : write_queued(channel, &handlers, context);
        }
        if (!state) state = sleep_until_ready(channel);
        if (!state) state = serve(channel, &handlers, context);
    }
    if (state > 0) return write_queued(channel, &handlers, context);
    /* The first error counts; what was answered before it is still said. */
    (void)dmu_send_queued(channel, NULL);
    return state;
}

void dmu_stop(struct dmu_channel* channel) {
    uint64_t one = 1;
    int saved = errno;

    /* A full counter is readable already. */
    if (write(channel->stop_fd, &one, sizeof(one)) < 0) errno = saved;
}
