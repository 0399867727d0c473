// SPDX-License-Identifier: GPL-2.0-or-later
// Fresh sparse extents in empty files, durable when done. Sizes are in sectors.
#pragma once

#include <string>

#include "formats/core/block_file.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

// With all grain tables, twice, as VMware makes it; descriptor: embedded, unless empty.
Status make_hosted(BlockFile& file, std::uint64_t capacity, std::uint64_t grain, bool zeroed,
                   const std::string& descriptor);
// Bytes of such a file before its first grain.
std::uint64_t hosted_overhead(std::uint64_t capacity, std::uint64_t grain);
// Whether it has no header, and no more bytes than make_hosted() leaves before there is one.
Result<bool> is_blank_extent(BlockFile& file, std::uint64_t most);
// Grain tables come when they are needed.
Status make_cowd(BlockFile& file, std::uint64_t capacity, std::uint64_t grain);
// Without grains, for StreamWriter.
Status make_stream(BlockFile& file, std::uint64_t capacity, std::uint64_t grain, const std::string& descriptor);

inline constexpr std::uint64_t descriptor_sectors = 20;

}  // namespace dmu::vmdk
