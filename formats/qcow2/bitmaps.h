// SPDX-License-Identifier: GPL-2.0-or-later
// Dirty bitmaps that others keep in the image. They are not updated here: the first write
// marks them "in use", so that nobody takes a stale one for right.
//
// The directory, an entry each, padded to 8 bytes:
//   byte  0  u64  offset of the bitmap's table
//         8  u32  its entries
//        12  u32  flags: 0 in use, 1 auto, 2 extra data compatible
//        16  u8   type, u8 granularity_bits, u16 length of the name
//        20  u32  length of the extra data
//        24       extra data, name
// A bitmap's table: u64 each, 0, 1 (all set), or the offset of a cluster of bits.
#pragma once

#include "formats/core/block_file.h"
#include "formats/core/image.h"
#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

struct BitmapEntry {
    std::uint64_t at = 0;  // byte in the directory
    std::uint64_t table_offset = 0;
    std::uint32_t table_entries = 0;
    std::uint32_t flags = 0;
    std::string name;
    unsigned granularity_bits = 0;
    bool in_use() const { return (flags & 1) != 0; }
};

// Empty where the image has none that mean something.
Result<std::vector<BitmapEntry>> read_bitmaps(BlockFile& file, const Header& header);

// Whether there is one that is not marked yet.
Result<bool> bitmaps_need_mark(BlockFile& file, const Header& header);
// What they are, for people, added to the details.
Status describe_bitmaps(BlockFile& file, const Header& header, std::vector<ImageInfo::Detail>& details);
// Not synced.
Status mark_bitmaps_in_use(BlockFile& file, const Header& header);

}  // namespace dmu::qcow2
