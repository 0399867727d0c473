// SPDX-License-Identifier: GPL-2.0-or-later
// Collecting what is stale.
#pragma once

#include <string>
#include <vector>

#include "tools/lib/listing.h"

namespace dmu {

struct GcStep {
    std::string words;  // what was done, or would be
    Status status;
};

// A successor is started for disks that have lost their mapper; disks whose backend is
// gone are removed; states without device and mapper, and devices without state that
// nobody has open, are deleted. dry_run: only says so. Blocks.
std::vector<GcStep> collect_garbage(const Ports& ports, bool dry_run);

}  // namespace dmu
