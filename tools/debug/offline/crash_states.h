// SPDX-License-Identifier: GPL-2.0-or-later
// What a device may hold after a crash. A device keeps what was flushed, and what was
// written with FUA, once that was acknowledged; of all else any subset, and of writes that
// were under way at the same time either may be the last.
#pragma once

#include <random>

#include "tools/debug/offline/contents.h"

namespace dmu::debug {

// The moment just before request at + 1 came.
struct CrashPoint {
    std::uint64_t at = 0;
    std::vector<Applied> durable;    // in the order in which they reached the device
    std::vector<Applied> uncertain;  // likewise; those that had not ended then at the end
    // Uncertain writes that overlap another and were under way with it: both orders are legal.
    struct Pair {
        const Record* first;
        const Record* second;
    };
    std::vector<Pair> unordered;
};
// Code::invalid: the log has no such number.
Result<CrashPoint> crash_point(const LogReader& log, std::uint64_t at);

// What is on the device, in order.
using CrashState = std::vector<Applied>;

CrashState state_without(const CrashPoint& point);  // only what is sure
CrashState state_with_all(const CrashPoint& point);
// Of the uncertain ones only these numbers. Code::invalid: one of them is not uncertain.
Result<CrashState> state_with(const CrashPoint& point, const std::vector<std::uint64_t>& numbers);

// How many there are at most; saturates.
std::uint64_t count_states(const CrashPoint& point);
std::string count_text(const CrashPoint& point);  // "2^40"
// Each of them. Code::unsupported: more than limit.
Result<std::vector<CrashState>> all_states(const CrashPoint& point, std::uint64_t limit);
// A random one. torn: writes may also be there in part, cut at blocks of that many sectors; 0: they are whole.
CrashState random_state(const CrashPoint& point, std::mt19937_64& random, std::uint64_t torn);
// At most count of them: without, with all, then random ones; the same for the same seed.
std::vector<CrashState> sample_states(const CrashPoint& point, std::uint64_t count, std::uint64_t seed,
                                      std::uint64_t torn);

// "with 5, 9 (sectors 8+8 of it), without 7": of the uncertain ones.
std::string state_text(const CrashPoint& point, const CrashState& state);

}  // namespace dmu::debug
