// SPDX-License-Identifier: GPL-2.0-or-later
// Writes a streamOptimized extent from its first grain to its end, once:
//
//   header (directory in the footer), descriptor
//   grains, each: marker (sector u64, length u32), the zlib stream; at whole sectors
//   grain tables, each behind a marker; the grain directory behind one
//   marker, footer (the header with the directory's place)
//   end-of-stream marker
//
// A marker of metadata takes a sector: sectors that follow u64, 0 u32, type u32.
#pragma once

#include <map>
#include <vector>

#include "formats/core/block_file.h"
#include "formats/core/units.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

class StreamWriter {
public:
    // header: as at the file's start. The file outlives the writer.
    StreamWriter(BlockFile& file, const SparseHeader& header);

    // A whole grain, or the last one, which may be short. Code::invalid: it was written.
    Status write_grain(std::uint64_t at, std::span<const std::byte> from);
    // Everything behind the grains; durable.
    Status finish();

private:
    Error error(Code code, const std::string& what) const;
    Status write_marked(std::uint32_t type, std::span<const std::byte> metadata);

    BlockFile& file_;
    const SparseHeader header_;
    std::uint64_t next_;  // bytes
    std::map<std::uint64_t, std::vector<std::uint32_t>> tables_;
};

}  // namespace dmu::vmdk
