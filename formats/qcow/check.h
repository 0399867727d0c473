// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::qcow {

// Format::check of qcow. Shares nothing with open() and the allocator but the layout:
// reads header, L1 and L2 tables itself and counts who uses which cluster.
// What is repaired: leaked clusters at the end of the file are cut off; entries that name
// nothing in the file or nothing on the disk are cleared; a cluster that is used twice is
// copied. The counts of the report are then those that remain.
Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options);

// How an entry of a table can be put right.
struct Fix {
    std::uint64_t at = 0;         // its byte in the file
    std::uint64_t copy_from = 0;  // 0: it is cleared; else it gets a copy of this cluster
};

// repair.cc; used_end: where the last cluster ends that something points at, with all fixes.
Status apply_fixes(BlockFile& file, std::uint64_t cluster_bytes, const std::vector<Fix>& fixes);
Status cut_tail(BlockFile& file, std::uint64_t used_end);

}  // namespace dmu::qcow
