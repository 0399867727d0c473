// SPDX-License-Identifier: GPL-2.0-or-later
// How dmu-img prints things.
#pragma once

#include <string>
#include <vector>

#include "formats/core/image.h"
#include "xen-backend/control/control.h"

namespace dmu::img {

// "1 GiB (1073741824 bytes)"
std::string size_text(std::uint64_t bytes);
// A line each; what a path ("extents/0/format") is in stands once above it.
std::string details_text(const std::vector<ImageInfo::Detail>& details);
std::string snapshot_table(const std::vector<Snapshot>& snapshots);
// Bytes that are no UTF-8 (names of files may hold any) are replaced.
void print_json(const control::Json& json);
// An offset or a size: as parse_size() takes it, or "0x...".
Result<std::uint64_t> parse_number(const std::string& text);

}  // namespace dmu::img
