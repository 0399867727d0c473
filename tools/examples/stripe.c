/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stripe: RAID 0, chunk by chunk over several devices, laid out as dm-stripe
 * does it.
 *
 *     stripe KEY CHUNK DEVICE START DEVICE START [DEVICE START]...
 *
 * Chunk c lies on device c % n, in its row c / n. Neighbouring chunks are on
 * different devices, so that each is an extent of its own: they are mapped by
 * the hundred.
 */
#include <errno.h>
#include <fcntl.h>

#include "common.h"

#define MOST 64
#define WINDOW 1024 /* chunks to an answer */

struct stripe {
    uint64_t sectors, chunk;
    unsigned count;
    uint64_t physical[MOST];
};

static int miss(struct dmu_channel* channel, const struct dmu_event* event, void* context) {
    const struct stripe* stripe = context;
    uint64_t chunk = event->start / stripe->chunk / WINDOW * WINDOW;
    uint64_t last = (event->start + event->length - 1) / stripe->chunk;
    struct dmu_command map;
    int error = 0;

    last = smaller(stripe->sectors / stripe->chunk - 1, last > chunk + WINDOW - 1 ? last : chunk + WINDOW - 1);
    for (; chunk <= last && !error; chunk++) {
        unsigned device = (unsigned)(chunk % stripe->count);

        dmu_cmd_map_linear(&map, chunk == last ? event->id : 0, chunk * stripe->chunk, stripe->chunk, device,
                           stripe->physical[device] + chunk / stripe->count * stripe->chunk, DMU_MAP_WRITABLE);
        dmu_cmd_policies(&map, DMU_POLICY_PASS, DMU_POLICY_PASS);
        error = dmu_queue(channel, &map);
    }
    return error;
}

int main(int argc, char** argv) {
    struct dmu_handlers handlers = {.size = sizeof(handlers), .miss = miss};
    struct stripe stripe = {.count = (unsigned)(argc - 3) / 2};
    struct dmu_channel* channel;
    uint64_t width = UINT64_MAX, size;

    if (argc < 7 || argc % 2 == 0 || stripe.count > MOST)
        usage("KEY CHUNK-SECTORS DEVICE START DEVICE START [DEVICE START]...");
    stripe.chunk = number(argv[2], 8);
    channel = attach(argv[1]);
    for (unsigned i = 0; i < stripe.count; i++) {
        stripe.physical[i] = number(argv[4 + 2 * i], 0);
        destination(channel, i, argv[3 + 2 * i], O_RDWR, &size);
        if (size < stripe.physical[i] + stripe.chunk) die(argv[3 + 2 * i], ERANGE);
        width = smaller(width, size - stripe.physical[i]);
    }
    stripe.sectors = width / stripe.chunk * stripe.chunk * stripe.count;
    announce(channel, stripe.sectors, "3 discard 8 write_zeroes");
    serve(channel, &handlers, &stripe);
    return 0;
}
