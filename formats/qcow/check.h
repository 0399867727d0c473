// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::qcow {

// Format::check of qcow. Shares nothing with open() and the allocator but the layout:
// reads header, L1 and L2 tables itself and counts who uses which cluster.
Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options);

}  // namespace dmu::qcow
