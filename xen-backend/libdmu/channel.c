/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /dev/dmu and a channel's descriptor: open, attach, read, write, ioctl. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"

#define DEVICE "/dev/dmu"

static int system_ioctl(int fd, unsigned long request, void* argument) {
    return ioctl(fd, request, argument);
}

static const struct dmu_system real_system = {.read = read, .write = write, .ioctl = system_ioctl};

const char* dmu_version(void) {
    return DMU_PACKAGE_VERSION;
}

static int open_device(struct dmu_hello* hello) {
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

    if (fd < 0) /* A node without a driver behind it is no module either. */
        return errno == ENXIO || errno == ENODEV ? -ENOENT : -errno;
    memset(hello, 0, sizeof(*hello));
    hello->version = DMU_VERSION;
    if (ioctl(fd, DMU_HELLO, hello) < 0) {
        int error = -errno;

        close(fd);
        return error;
    }
    if (hello->version == 0 || hello->version > DMU_VERSION) {
        close(fd);
        return -EPROTONOSUPPORT;
    }
    return fd;
}

int dmu_query(uint32_t* version, uint64_t* features) {
    struct dmu_hello hello;
    int fd = open_device(&hello);

    if (fd < 0) return fd;
    close(fd);
    if (version) *version = hello.version;
    if (features) *features = hello.features;
    return 0;
}

/* ------------------------------------------------------------- channel --- */

static int set_descriptor_flags(int fd) {
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return -errno;
    return 0;
}

int dmu_adopt(int fd, const char* key, const struct dmu_system* system, struct dmu_channel** channel) {
    struct dmu_channel* made = calloc(1, sizeof(*made));
    int error = made ? 0 : -ENOMEM;

    if (made) {
        made->fd = fd;
        made->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        error = made->stop_fd < 0 ? -errno : set_descriptor_flags(fd);
    }
    if (error) {
        if (made && made->stop_fd >= 0) close(made->stop_fd);
        free(made);
        close(fd);
        return error;
    }
    made->system = system ? *system : real_system;
    strncpy(made->key, key, sizeof(made->key) - 1);
    pthread_mutex_init(&made->lock, NULL);
    *channel = made;
    return 0;
}

int dmu_attach(const char* key, uint32_t flags, struct dmu_channel** channel) {
    struct dmu_attach attach = {.flags = flags};
    struct dmu_hello hello;
    size_t length = strlen(key);
    int device, fd, error;

    if (length == 0) return -EINVAL;
    if (length >= sizeof(attach.key)) return -ENAMETOOLONG;
    memcpy(attach.key, key, length);
    device = open_device(&hello);
    if (device < 0) return device;
    fd = ioctl(device, DMU_ATTACH, &attach);
    error = fd < 0 ? -errno : 0;
    close(device);
    return error ? error : dmu_adopt(fd, key, NULL, channel);
}

void dmu_close(struct dmu_channel* channel) {
    if (!channel) return;
    close(channel->fd);
    close(channel->stop_fd);
    pthread_mutex_destroy(&channel->lock);
    free(channel->queue);
    free(channel);
}

const char* dmu_key(const struct dmu_channel* channel) {
    return channel->key;
}

int dmu_fd(const struct dmu_channel* channel) {
    return channel->fd;
}

/* ---------------------------------------------------------- both ways --- */

static bool hung_up(const struct dmu_channel* channel) {
    struct pollfd poller = {.fd = channel->fd, .events = POLLIN};

    return poll(&poller, 1, 0) == 1 && (poller.revents & (POLLHUP | POLLERR | POLLNVAL));
}

int dmu_next_events(struct dmu_channel* channel, struct dmu_event* events, size_t count) {
    ssize_t got;

    if (count == 0) return 0;
    if (count > INT32_MAX / sizeof(*events)) count = INT32_MAX / sizeof(*events);
    do got = channel->system.read(channel->fd, events, count * sizeof(*events));
    while (got < 0 && errno == EINTR);
    if (got < 0) return errno == EAGAIN ? 0 : -errno;
    if (got == 0) return hung_up(channel) ? -EPIPE : 0;
    /* Whole messages are promised; half of one can't be given back. */
    return got % sizeof(*events) ? -EPROTO : (int)(got / sizeof(*events));
}

static int wait_writable(struct dmu_channel* channel) {
    struct pollfd poller = {.fd = channel->fd, .events = POLLOUT};

    while (poll(&poller, 1, -1) < 0)
        if (errno != EINTR) return -errno;
    return poller.revents & (POLLERR | POLLNVAL) ? -EPIPE : 0;
}

/* Under the lock. A short write is gone on with: the next one tells why. */
static int write_all(struct dmu_channel* channel, const struct dmu_command* commands, size_t count, size_t* sent) {
    const char* bytes = (const char*)commands;
    size_t size = count * sizeof(*commands), done = 0;
    int error = 0;

    while (done < size && !error) {
        ssize_t put = channel->system.write(channel->fd, bytes + done, size - done);

        if (put > 0)
            done += (size_t)put;
        else if (put == 0)
            error = -EIO;
        else if (errno == EAGAIN)
            error = wait_writable(channel);
        else if (errno != EINTR)
            error = -errno;
    }
    *sent = done / sizeof(*commands);
    return error;
}

/* Under the lock. */
static int write_queue(struct dmu_channel* channel, struct dmu_command* refused) {
    size_t sent, gone;
    int error;

    if (channel->queued == 0) return 0;
    error = write_all(channel, channel->queue, channel->queued, &sent);
    if (error && refused) *refused = channel->queue[sent];
    gone = error ? sent + 1 : sent;
    memmove(channel->queue, channel->queue + gone, (channel->queued - gone) * sizeof(channel->queue[0]));
    channel->queued -= gone;
    return error;
}

int dmu_send(struct dmu_channel* channel, const struct dmu_command* commands, size_t count, size_t* sent) {
    size_t applied = 0;
    int error;

    pthread_mutex_lock(&channel->lock);
    error = write_all(channel, commands, count, &applied);
    pthread_mutex_unlock(&channel->lock);
    if (sent) *sent = applied;
    return error;
}

/* Under the lock. */
static int grow_queue(struct dmu_channel* channel) {
    size_t size = channel->queue_size ? 2 * channel->queue_size : 64;
    struct dmu_command* queue = realloc(channel->queue, size * sizeof(*queue));

    if (!queue) return -ENOMEM;
    channel->queue = queue;
    channel->queue_size = size;
    return 0;
}

int dmu_queue(struct dmu_channel* channel, const struct dmu_command* command) {
    struct dmu_command* slot;
    int error = 0;

    pthread_mutex_lock(&channel->lock);
    if (channel->queued == channel->queue_size) error = grow_queue(channel);
    if (!error) {
        slot = &channel->queue[channel->queued++];
        *slot = *command;
        if (slot->type == DMU_CMD_MAP && slot->sequence == 0) slot->sequence = channel->applied;
    }
    pthread_mutex_unlock(&channel->lock);
    return error;
}

int dmu_send_queued(struct dmu_channel* channel, struct dmu_command* refused) {
    int error;

    pthread_mutex_lock(&channel->lock);
    error = write_queue(channel, refused);
    pthread_mutex_unlock(&channel->lock);
    return error;
}

/* -------------------------------------------------------------- ioctls --- */

static int control(struct dmu_channel* channel, unsigned long request, void* argument) {
    int result;

    do result = channel->system.ioctl(channel->fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int dmu_destination_add(struct dmu_channel* channel, uint32_t number, int fd, uint32_t flags, uint64_t cookie,
                        struct dmu_destination* answer) {
    struct dmu_destination destination = {.number = number, .fd = fd, .flags = flags, .cookie = cookie};
    int error = control(channel, DMU_DEST_ADD, &destination);

    if (!error && answer) *answer = destination;
    return error;
}

int dmu_destination_get(struct dmu_channel* channel, uint32_t number, struct dmu_destination* answer) {
    memset(answer, 0, sizeof(*answer));
    answer->number = number;
    answer->fd = -1;
    return control(channel, DMU_DEST_GET, answer);
}

int dmu_destination_fd(struct dmu_channel* channel, uint32_t number) {
    struct dmu_destination destination = {.number = number, .fd = -1};
    int error = control(channel, DMU_DEST_FD, &destination);

    if (error) return error;
    if (destination.fd < 0) return -EBADF;
    fcntl(destination.fd, F_SETFD, FD_CLOEXEC);
    return destination.fd;
}

int dmu_destination_remove(struct dmu_channel* channel, uint32_t number) {
    return control(channel, DMU_DEST_REMOVE, &number);
}

int dmu_get_state(struct dmu_channel* channel, struct dmu_state* state) {
    memset(state, 0, sizeof(*state));
    return control(channel, DMU_STATE, state);
}

int dmu_set_wait(struct dmu_channel* channel, uint32_t seconds) {
    struct dmu_set set = {.what = DMU_SET_WAIT, .wait_seconds = seconds};

    return control(channel, DMU_SET, &set);
}

int dmu_set_fail(struct dmu_channel* channel, int fail) {
    struct dmu_set set = {.what = DMU_SET_FAIL, .fail = fail != 0};

    return control(channel, DMU_SET, &set);
}
