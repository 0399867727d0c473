// SPDX-License-Identifier: GPL-2.0-or-later
// "qcow": QEMU's first copy-on-write format, version 1. The layout is in header.h.
#pragma once

#include "formats/core/image.h"

namespace dmu {

// No options. Refused when opened: encryption, Xen's extended header. Compressed clusters
// are answered as such and can't be read yet. Writable only in a regular file: new
// clusters go to the end of the file.
//
// Copy-on-write is done for every cluster size; qemu loses a backing file's bytes where
// it writes part of a cluster of more than 512 bytes, so create() takes 512 with a
// backing file unless told otherwise, as qemu does.
extern const Format qcow_format;

}  // namespace dmu
