/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * null: a device that is another device or file as it is. The template: a
 * whole mapper with nothing in it that it could do without.
 *
 *     null KEY FILE &
 *     dmsetup create mine --table "0 SECTORS userspace KEY 0"
 * (the table line is what it prints when it is ready).
 *
 * The first request that meets something unknown is a miss. It is answered
 * with one extent as long as the device, and nobody is asked again. Killed and
 * started anew with the same KEY it goes on where it was: what waits, waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <dmu/dmu.h>

static int miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct dmu_state state;
    struct dmu_command map;
    int error = dmu_get_state(channel, &state);

    (void)context;
    if (error) return error; /* the loop fails the miss with it */
    dmu_cmd_map_linear(&map, event->id, 0, state.sectors, 0, 0, DMU_MAP_WRITABLE);
    return dmu_queue(channel, &map);
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {.size = sizeof(handlers), .miss = miss};
    struct dmu_destination file;
    struct dmu_channel* channel = NULL;
    int fd = argc == 3 ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
    int error;

    if (argc != 3) {
        fprintf(stderr, "usage: %s KEY FILE\n", argv[0]);
        return 2;
    }
    error = fd < 0 ? -errno : dmu_attach(argv[1], DMU_ATTACH_CREATE, &channel);
    if (!error) error = dmu_destination_add(channel, 0, fd, 0, 0, NULL);
    if (error == -EEXIST) error = 0; /* a predecessor's: the kernel kept it */
    if (!error) error = dmu_destination_get(channel, 0, &file);
    if (!error) {
        printf("0 %llu userspace %s 0\n", (unsigned long long)file.sectors, argv[1]);
        fflush(stdout);
        error = dmu_run(channel, &handlers, NULL);
    }
    if (error) fprintf(stderr, "%s: %s, %s: %s\n", argv[0], argv[1], argv[2], strerror(-error));
    dmu_close(channel);
    return error ? 1 : 0;
}
