// SPDX-License-Identifier: GPL-2.0-or-later
// Compressed clusters: raw deflate with a window of 4 KiB, no header, no checksum.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace dmu::qcow {

// False: from is not the deflated form of exactly as much as into takes.
bool inflate_cluster(std::span<const std::byte> from, std::span<std::byte> into);

// Empty: it would not become smaller.
std::vector<std::byte> deflate_cluster(std::span<const std::byte> from);

}  // namespace dmu::qcow
