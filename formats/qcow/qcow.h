// SPDX-License-Identifier: GPL-2.0-or-later
// "qcow": QEMU's first copy-on-write format, version 1. The layout is in header.h.
#pragma once

#include "formats/core/image.h"

namespace dmu {

// Option: key-file, for an encrypted image. Writable only in a regular file: new clusters
// go to the end of the file. Xen's extended header is read only.
//
// Made with the options key-file (the image is encrypted) and l2-bits (6 to 13: a table
// has 2^l2-bits entries).
//
// Copy-on-write is done for every cluster size; qemu loses a backing file's bytes where
// it writes part of a cluster of more than 512 bytes, so create() takes 512 with a
// backing file unless told otherwise, as qemu does.
extern const Format qcow_format;

}  // namespace dmu
