// SPDX-License-Identifier: GPL-2.0-or-later
// "qcow2": QEMU's copy-on-write format, versions 2 and 3. The layout is in header.h,
// entry.h and snapshots.h.
#pragma once

#include "formats/core/image.h"

namespace dmu {

// Option of open: key-file, for an encrypted image. Of create: compat, preallocation,
// refcount_bits, lazy_refcounts, extended_l2, data_file, data_file_raw, compression_type,
// encryption, key-file, iter_time.
//
// The grain is the cluster, with extended L2 entries too: a first write fills a cluster,
// so that any reserved cluster can take it. A cluster of which another writer allocated
// single subclusters is copied as a whole when it is written to.
extern const Format qcow2_format;

}  // namespace dmu
