// SPDX-License-Identifier: GPL-2.0-or-later
// A compressed cluster: raw deflate in a window of 4 KiB, or zstd frames.
#pragma once

#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

// from may reach past the compressed data (it is stored in sectors). into: a whole
// cluster, of which nothing may stay unwritten. An error says what is wrong, of no file.
Status decompress(Compression how, std::span<const std::byte> from, std::span<std::byte> into);

// Empty: it does not become smaller than limit bytes.
std::vector<std::byte> compress(Compression how, std::span<const std::byte> from, std::size_t limit);

}  // namespace dmu::qcow2
