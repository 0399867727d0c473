// SPDX-License-Identifier: GPL-2.0-or-later
// "vmdk": VMware's virtual disks, every kind of them. The layouts are in descriptor.h and
// sparse_header.h; docs/vmdk.md has them on a page.
#pragma once

#include "formats/core/image.h"

namespace dmu {

// No options to open. To create: subformat, zeroed_grain, adapter_type, hwversion,
// extent_size (docs/vmdk.md). Extents in files of their own are reached by
// OpenOptions::neighbours only.
//
// Open for reading only: streamOptimized, seSparse, whatever has changed-block tracking.
// qemu leaves out extents that are ZERO or RDONLY, so that what follows moves; here they
// are part of the disk.
extern const Format vmdk_format;

}  // namespace dmu
