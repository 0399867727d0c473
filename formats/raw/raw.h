// SPDX-License-Identifier: GPL-2.0-or-later
// "raw": a file or block device that holds the disk byte for byte. The template for a
// new format: everything required, nothing else.
#pragma once

#include "formats/core/image.h"

namespace dmu {

// The disk is the file, rounded down to whole sectors. No options. A sparse file is
// written in place: the host's file system allocates.
extern const Format raw_format;

}  // namespace dmu
