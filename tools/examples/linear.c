/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * linear: ranges of devices, one after the other, as dm-linear has them.
 *
 *     linear KEY DEVICE START SECTORS [DEVICE START SECTORS]...
 *
 * is what the kernel's own target is with a table line for each range. All of
 * it is mapped by the first answer.
 */
#include <errno.h>
#include <fcntl.h>

#include "common.h"

#define MOST 64

struct linear {
    unsigned count;
    struct range {
        uint64_t start, length, physical;
    } ranges[MOST];
};

static int miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    const struct linear* linear = context;
    struct dmu_command map;
    int error = 0;

    /* The last one ends the miss. */
    for (unsigned i = 0; i < linear->count && !error; i++) {
        const struct range* range = &linear->ranges[i];

        dmu_cmd_map_linear(&map, i + 1 == linear->count ? event->id : 0, range->start, range->length, i,
                           range->physical, DMU_MAP_WRITABLE);
        dmu_cmd_policies(&map, DMU_POLICY_PASS, DMU_POLICY_PASS);
        error = dmu_queue(channel, &map);
    }
    return error;
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {.size = sizeof(handlers), .miss = miss};
    struct linear linear = {.count = (unsigned)(argc - 2) / 3};
    struct dmu_channel* channel;
    uint64_t sectors = 0, size;

    if (argc < 5 || argc % 3 != 2 || linear.count > MOST) usage("KEY DEVICE START SECTORS [DEVICE START SECTORS]...");
    channel = attach(argv[1]);
    for (unsigned i = 0; i < linear.count; i++) {
        char** words = &argv[2 + 3 * i];
        struct range* range = &linear.ranges[i];

        *range = (struct range){.start = sectors, .length = number(words[2], 1), .physical = number(words[1], 0)};
        destination(channel, i, words[0], O_RDWR, &size);
        if (range->physical > size || range->length > size - range->physical) die(words[0], ERANGE);
        sectors += range->length;
    }
    announce(channel, sectors, "3 discard 8 write_zeroes");
    serve(channel, &handlers, &linear);
    return 0;
}
