// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of dmu-malformed share: a channel, and what it must refuse.
#ifndef DMU_TESTS_KERNEL_MALFORMED_H
#define DMU_TESTS_KERNEL_MALFORMED_H

#include <functional>
#include <string>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

constexpr uint64_t sectors = 65536, grain = 128;
// What is mapped where; the rest of the device is LINEAR.
constexpr uint64_t zero_start = 32768, hole_start = 49152, hole_stop = 57344;
constexpr uint32_t held = 0, disk = 1, read_only = 2, huge = 3;
constexpr uint32_t pool = 1, other_pool = 2;

extern dmu_channel* channel;

[[noreturn]] void die(const std::string& what, int error);
void must(const std::string& what, int result);
void verdict(bool good, const std::string& name, const std::string& detail);

// Without what reads of the device itself count.
dmu_state state();
bool no_event();
// "call" is refused with this errno, and nothing is different afterwards.
void refused(const std::string& name, int error, const std::function<long()>& call);

// write(2) of one command; apply() ends the program where it fails.
long send(const dmu_command& command);
void apply(const char* name, const dmu_command& command);

// A command with nothing wrong, and an address where nothing is.
dmu_command map_command();
void* unreadable();

using Change = void (*)(dmu_command&);
struct Case {
    const char* name;
    int error;
    Change change;
};
// Each case is this command with one thing wrong.
void refuse_all(const std::string& name, const dmu_command& good, const std::vector<Case>& cases);

void refuse_commands();
void take_good_ones();
void refuse_ioctls(const std::string& key, const std::string& device, const std::string& file,
                   const std::string& directory);

#endif  // DMU_TESTS_KERNEL_MALFORMED_H
