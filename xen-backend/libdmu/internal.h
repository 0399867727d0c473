/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Not installed, not exported: what libdmu's own files and its tests share. */
#ifndef DMU_INTERNAL_H
#define DMU_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "dmu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The seam at the operating system: as the system calls, -1 and errno. */
struct dmu_system {
    ssize_t (*read)(int fd, void* buffer, size_t size);
    ssize_t (*write)(int fd, const void* buffer, size_t size);
    int (*ioctl)(int fd, unsigned long request, void* argument);
};

struct dmu_channel {
    int fd;
    int stop_fd; /* eventfd, level: readable when dmu_run() is to end */
    char key[DMU_KEY_MAX];
    struct dmu_system system;

    pthread_mutex_t lock; /* of what follows, and of writing to fd */
    struct dmu_command* queue;
    size_t queued;
    size_t queue_size;
    uint64_t applied; /* sequence of the last CHANGED handed out */
};

/*
 * Makes a channel of any descriptor (a socket pair, a pipe's end), which
 * it then owns, also on an error. system NULL: the real calls.
 */
int dmu_adopt(int fd, const char* key, const struct dmu_system* system, struct dmu_channel** channel);

#ifdef __cplusplus
}
#endif

#endif /* DMU_INTERNAL_H */
