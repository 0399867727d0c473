/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

void die(const char* what, int error) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(abs(error)));
    exit(1);
}

void usage(const char* arguments) {
    fprintf(stderr, "usage: %s %s\n", program_invocation_short_name, arguments);
    exit(2);
}

uint64_t number(const char* text, uint64_t least) {
    char* end;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno || end == text || *end || *text == '-' || value < least) {
        fprintf(stderr, "%s: '%s' is not a whole number of at least %llu\n", program_invocation_short_name, text,
                (unsigned long long)least);
        exit(2);
    }
    return value;
}

struct dmu_channel* attach(const char* key) {
    struct dmu_channel* channel = NULL;
    int error = dmu_attach(key, DMU_ATTACH_CREATE, &channel);

    if (error == -ENOENT) die("/dev/dmu: the module dm-userspace is not loaded", error);
    if (error) die(key, error);
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    if (mlockall(MCL_CURRENT | MCL_FUTURE)) die("lock memory", errno);
    return channel;
}

static int open_direct(const char* path, int mode) {
    int fd = open(path, mode | O_CLOEXEC | O_DIRECT);

    if (fd < 0 && errno == EINVAL) fd = open(path, mode | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int open_file(const char* path, int mode, uint64_t* sectors) {
    int fd = open_direct(path, mode);
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

    if (fd < 0 || end < 0) die(path, fd < 0 ? fd : errno);
    *sectors = (uint64_t)end / SECTOR;
    return fd;
}

int try_destination(struct dmu_channel* channel, uint32_t number, const char* path, int mode, uint64_t* sectors) {
    struct dmu_destination answer;
    int fd, error;

    if (!dmu_destination_get(channel, number, &answer)) {
        fd = dmu_destination_fd(channel, number);
    } else {
        fd = open_direct(path, mode);
        if (fd < 0) return fd;
        error = dmu_destination_add(channel, number, fd, mode == O_RDONLY ? DMU_DEST_READ_ONLY : 0, 0, &answer);
        if (error) {
            close(fd);
            return error;
        }
    }
    *sectors = answer.sectors;
    return fd;
}

int destination(struct dmu_channel* channel, uint32_t number, const char* path, int mode, uint64_t* sectors) {
    int fd = try_destination(channel, number, path, mode, sectors);

    if (fd < 0) die(path, fd);
    return fd;
}

uint64_t fresh_ids(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) << 8;
}

void announce(struct dmu_channel* channel, uint64_t sectors, const char* options) {
    printf("0 %llu userspace %s %s\n", (unsigned long long)sectors, dmu_key(channel), options);
    fflush(stdout);
}

static struct dmu_channel* to_stop;

static void on_signal(int signal) {
    (void)signal;
    dmu_stop(to_stop);
}

void serve(struct dmu_channel* channel, const struct dmu_handlers* handlers, void* context) {
    struct sigaction action = {.sa_handler = on_signal};
    int error;

    to_stop = channel;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    error = dmu_run(channel, handlers, context);
    if (error) die(dmu_key(channel), error);
}

int last_changes(struct dmu_channel* channel,
                 int (*changed)(struct dmu_channel* channel, const struct dmu_event* event, void* context),
                 void* context) {
    struct dmu_event events[64];
    int count, error = 0;

    while (!error && (count = dmu_next_events(channel, events, 64))) {
        if (count < 0) return count;
        for (int i = 0; i < count && !error; i++)
            if (events[i].type == DMU_EV_CHANGED) error = changed(channel, &events[i], context);
    }
    return error;
}

int read_at(int fd, void* buffer, uint64_t size, uint64_t offset) {
    for (uint64_t done = 0; done < size;) {
        ssize_t now = pread(fd, (char*)buffer + done, size - done, (off_t)(offset + done));

        if (now == 0) return -ENODATA;
        if (now < 0 && errno != EINTR) return -errno;
        if (now > 0) done += (uint64_t)now;
    }
    return 0;
}

int write_at(int fd, const void* buffer, uint64_t size, uint64_t offset) {
    for (uint64_t done = 0; done < size;) {
        ssize_t now = pwrite(fd, (const char*)buffer + done, size - done, (off_t)(offset + done));

        if (now < 0 && errno != EINTR) return -errno;
        if (now > 0) done += (uint64_t)now;
    }
    return 0;
}

int sync_file(int fd) {
    return fdatasync(fd) ? -errno : 0;
}

void* alloc_pages(uint64_t size) {
    void* pages = NULL;

    if (posix_memalign(&pages, PAGE, round_up_to(size, PAGE))) die("memory", ENOMEM);
    return memset(pages, 0, round_up_to(size, PAGE));
}

void* grow(void* array, uint64_t count, uint64_t* room, size_t size) {
    if (count < *room) return array;
    *room = *room ? 2 * *room : 256;
    array = realloc(array, *room * size);
    if (!array) die("memory", ENOMEM);
    return array;
}

uint64_t checksum(const void* data, uint64_t size) {
    uint64_t hash = 0xcbf29ce484222325ull;

    for (uint64_t i = 0; i < size; i++) hash = (hash ^ ((const unsigned char*)data)[i]) * 0x100000001b3ull;
    return hash;
}
