/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "legs.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define BITS (8 * PAGE) /* of the bitmap */
#define AREA (2 * PAGE) /* superblock and bitmap */

static const char magic[8] = "dmu-mir";

bool bit(const unsigned char* bits, uint64_t region) {
    return bits[region / 8] >> region % 8 & 1;
}

void set_bit(unsigned char* bits, uint64_t region, bool value) {
    unsigned char mask = (unsigned char)(1u << region % 8);

    bits[region / 8] = value ? bits[region / 8] | mask : bits[region / 8] & (unsigned char)~mask;
}

/* ------------------------------------------------- superblock and bitmap --- */

static int write_area(struct mirror* m, const struct leg* leg) {
    int error;

    m->super->checksum = checksum(m->super, offsetof(struct super, checksum));
    error = write_at(leg->fd, m->bits, PAGE, leg->area + PAGE);
    if (!error) error = write_at(leg->fd, m->super, PAGE, leg->area);
    return error ? error : sync_file(leg->fd);
}

static bool is_ours(const struct super* super) {
    return !memcmp(super->magic, magic, sizeof(magic)) &&
           super->checksum == checksum(super, offsetof(struct super, checksum));
}

void leave(struct mirror* m, int leg, int error) {
    fprintf(stderr, "mirror: %s: %s; going on without it\n", m->legs[leg].path, strerror(abs(error)));
    if (!m->super->stale[leg]) {
        m->super->stale[leg] = 1;
        m->super->left_at = m->super->events++;
    }
    m->legs[leg].state = LEAVING;
    m->changed = m->left = true;
    /* What was cleared in here may not be durable over there. */
    for (uint64_t i = 0; i < PAGE; i++) m->bits[i] |= m->disk_bits[i];
    m->cleaning = m->copying = NONE;
}

/* The leg that could not be written, or -1. */
static int try_save(struct mirror* m, int* error) {
    bool cleared = false;

    for (uint64_t i = 0; i < PAGE; i++) cleared |= m->disk_bits[i] & ~m->bits[i];
    /* Two legs are the same where a bit is cleared, and go on being so. */
    for (int leg = 0; leg < 2 && cleared; leg++)
        if (here(m, leg) && (*error = sync_file(m->legs[leg].fd))) return leg;
    for (int i = 0; i < 2; i++) {
        int leg = i ? !m->lead : m->lead;

        if (in_sync(m, leg) && (*error = write_area(m, &m->legs[leg]))) return leg;
    }
    return -1;
}

int save(struct mirror* m) {
    int error = 0, leg;

    while ((leg = try_save(m, &error)) >= 0) {
        if (!may_leave(m, leg)) return error;
        leave(m, leg, error);
    }
    memcpy(m->disk_bits, m->bits, PAGE);
    m->changed = false;
    return 0;
}

/* ---------------------------------------------------- who is one, and how --- */

int first_leg(const struct mirror* m, uint64_t region) {
    if (!in_sync(m, 0) || !in_sync(m, 1)) return in_sync(m, 1);
    return m->differ[region] ? 0 : (int)(region % 2);
}

int open_leg(struct mirror* m, int number, struct super* super) {
    struct leg* leg = &m->legs[number];
    uint64_t sectors = 0;
    int error;

    memset(super, 0, PAGE);
    leg->fd = try_destination(m->channel, (uint32_t)number, leg->path, O_RDWR, &sectors);
    if (leg->fd < 0) return leg->fd;
    leg->area = sectors * SECTOR / PAGE * PAGE - AREA;
    error = sectors < REGION + AREA / SECTOR ? -ENOSPC : read_at(leg->fd, super, PAGE, leg->area);
    if (error) {
        close(leg->fd);
        return error;
    }
    if (!is_ours(super)) memset(super, 0, PAGE);
    leg->state = HERE;
    return 0;
}

void forget_gone(struct mirror* m) {
    for (int leg = 0; leg < 2; leg++) {
        if (here(m, leg)) continue;
        (void)dmu_destination_remove(m->channel, (uint32_t)leg);
        if (m->legs[leg].state == LEAVING) close(m->legs[leg].fd);
        m->legs[leg].state = GONE;
    }
}

static void all_differ(struct mirror* m) {
    memset(m->differ, 1, m->regions);
    for (uint64_t region = 0; region < m->regions; region++) set_bit(m->bits, region, true);
    m->changed = true;
}

const char* join(struct mirror* m, int leg, const struct super* super) {
    bool member = super->uuid[0] == m->super->uuid[0] && super->uuid[1] == m->super->uuid[1];

    if (!member && !m->replace) return "it is not a leg of this mirror; --replace makes it one";
    if (m->legs[leg].area < m->super->sectors * SECTOR) return "it is too small";
    if (member && super->stale[!leg])
        return "both legs have gone on alone; overwrite the end of one with zeros, and --replace it";
    if (member && super->events != m->super->events && !m->super->stale[leg]) {
        m->super->stale[leg] = 1;
        m->super->left_at = super->events;
        m->super->events++;
        m->changed = true;
    }
    if (!member || (m->super->stale[leg] && super->events != m->super->left_at)) {
        if (!m->super->stale[leg]) m->super->events++;
        m->super->stale[leg] = 1;
        m->super->left_at = NONE;
        all_differ(m);
    }
    for (uint64_t region = 0; region < m->regions; region++) m->differ[region] = bit(m->bits, region);
    return NULL;
}

void look_for_gone(struct mirror* m) {
    struct super* super = alloc_pages(PAGE);

    for (int leg = 0; leg < 2; leg++) {
        const char* why;
        int error;

        if (m->legs[leg].state != GONE) continue;
        error = open_leg(m, leg, super);
        why = error ? strerror(-error) : join(m, leg, super);
        if (!why) continue;
        fprintf(stderr, "mirror: %s: %s\n", m->legs[leg].path, why);
        if (!error) m->legs[leg].state = LEAVING;
    }
    free(super);
}

static void fit(struct mirror* m) {
    m->regions = m->super->sectors / m->super->region;
    m->differ = alloc_pages(m->regions);
    m->open = alloc_pages(m->regions);
    m->queue = alloc_pages(m->regions * sizeof(*m->queue));
    m->cleaning = m->copying = NONE;
}

void create(struct mirror* m) {
    struct super* super = m->super;
    uint64_t sectors = smaller(m->legs[0].area, m->legs[1].area) / SECTOR;
    int error;

    if (!here(m, 0) || !here(m, 1)) die("a mirror is made of two legs", ENODEV);
    memset(super, 0, PAGE);
    memcpy(super->magic, magic, sizeof(magic));
    if (getrandom(super->uuid, sizeof(super->uuid), 0) != sizeof(super->uuid)) die("random numbers", errno);
    for (super->region = REGION; sectors / super->region > BITS;) super->region *= 2;
    super->sectors = sectors / super->region * super->region;
    super->stale[1] = 1;
    fit(m);
    all_differ(m);
    error = write_area(m, &m->legs[1]);
    super->events = 1;
    if (!error) error = save(m);
    if (error) die("make the mirror", error);
}

void assemble(struct mirror* m, struct super* supers[2], bool degraded) {
    int newest = supers[1]->events > supers[0]->events, other = !newest;
    const char* why;

    if (!here(m, newest) || !is_ours(supers[newest])) die("there is no mirror on them; --create makes one", ENODATA);
    memcpy(m->super, supers[newest], PAGE);
    if (m->super->stale[newest]) die("this leg never had everything", EUCLEAN);
    fit(m);
    m->lead = newest;
    if (read_at(m->legs[newest].fd, m->bits, PAGE, m->legs[newest].area + PAGE)) die(m->legs[newest].path, EIO);
    memcpy(m->disk_bits, m->bits, PAGE);
    if (!here(m, other)) {
        if (!m->super->stale[other] && !degraded) die("the other leg may have newer data; --degraded", ENODEV);
        if (!m->super->stale[other]) m->super->left_at = m->super->events++;
        m->super->stale[other] = 1;
        m->changed = true;
    } else if ((why = join(m, other, supers[other]))) {
        fprintf(stderr, "mirror: %s: %s\n", m->legs[other].path, why);
        exit(1);
    }
    if (m->changed && save(m)) die("write the superblock", EIO);
}
