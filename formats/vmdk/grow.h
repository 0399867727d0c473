// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/block_file.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

// Makes an uncompressed hosted extent that nobody has open larger: grain tables for what
// is new at the end of the file, and the directories where they do not fit any more; then
// the header, in one sector. capacity: sectors. Durable when done, unchanged on an error.
Status grow_hosted(BlockFile& file, const SparseHeader& header, std::uint64_t capacity);

}  // namespace dmu::vmdk
