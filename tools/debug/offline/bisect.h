// SPDX-License-Identifier: GPL-2.0-or-later
// The first point of a log at which a check fails.
#pragma once

#include <functional>
#include <optional>

#include "tools/debug/offline/check.h"
#include "tools/debug/offline/crash_states.h"
#include "tools/debug/offline/listing.h"

namespace dmu::debug {

struct BisectOptions {
    std::string base;
    std::vector<std::string> command;
    std::string scratch;        // the image that is checked; overwritten each time
    Filter points;              // after which records; default: all that changed the device
    bool linear = false;        // every point from the first on, instead of halving
    std::uint64_t crashes = 0;  // 0: the device as it was; else so many results of a crash there
    std::uint64_t seed = 1;
    std::uint64_t torn = 0;  // sectors; see random_state()
};

struct BadPoint {
    std::uint64_t number = 0, good_before = 0;
    std::string state;  // of a crash: which writes are there
    Judged judged;
};

struct BisectResult {
    std::optional<BadPoint> bad;  // none: the check passed at all points that were tried
    std::uint64_t points = 0, checks = 0;
};

// Halving takes it that all is well up to a point and never again; Code::invalid: the check
// fails on the base already. scratch holds the bad image afterwards.
Result<BisectResult> bisect(const LogReader& log, const BisectOptions& options,
                            const std::function<void(const std::string&)>& say);

}  // namespace dmu::debug
