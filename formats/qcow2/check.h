// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::qcow2 {

// Format::check of qcow2. Shares nothing with open() and the allocator but the layout.
// Repair writes refcounts and "copied" flags; what points to where nothing can be stays.
Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options);

// Fresh refcounts for an image that its writer left dirty, and the mark taken away.
// Code::corrupt where other things are wrong too.
Status rebuild_refcounts(BlockFile& file);

}  // namespace dmu::qcow2
