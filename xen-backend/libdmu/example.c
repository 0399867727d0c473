/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A whole mapper: one file or block device, as it is. Then:
 *
 *     ./dmu_example /path/to/file &
 *     dmsetup create example --table "0 SECTORS userspace example 0"
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "dmu.h" /* installed: <dmu/dmu.h> */

static int miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    struct dmu_command map;

    (void)context;
    dmu_cmd_map_linear(&map, event->id, event->start, event->length, 0, event->start, DMU_MAP_WRITABLE);
    return dmu_queue(channel, &map);
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {.size = sizeof(handlers), .miss = miss};
    struct dmu_channel* channel = NULL;
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_DIRECT) : -1;
    int error;

    if (fd < 0) {
        fprintf(stderr, "usage: %s FILE (that can be written)\n", argv[0]);
        return 2;
    }
    error = dmu_attach("example", DMU_ATTACH_CREATE, &channel);
    if (!error) error = dmu_destination_add(channel, 0, fd, 0, 0, NULL);
    if (!error) error = dmu_run(channel, &handlers, NULL);
    if (error) fprintf(stderr, "%s: %s\n", argv[0], strerror(-error));
    dmu_close(channel);
    return error ? 1 : 0;
}
