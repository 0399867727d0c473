// SPDX-License-Identifier: GPL-2.0-or-later
// From one disk to another, as much of it as holds anything.
#pragma once

#include <functional>

#include "formats/core/stand_in.h"

namespace dmu::img {

inline constexpr std::uint64_t piece_bytes = 1 << 20;  // read or written at once
inline constexpr std::uint64_t look_bytes = 1 << 30;   // looked up at once

// done and of: bytes. Called now and then.
using Progress = std::function<void(std::uint64_t done, std::uint64_t of)>;

bool is_zero(std::span<const std::byte> bytes);

// Bytes from at on that are known to read as zeros without reading them, at most limit.
Result<std::uint64_t> zeros_ahead(Chain& chain, std::uint64_t at, std::uint64_t limit);

// Zeros, by discarding where the format can.
Status write_zeros(StandIn& target, const ImageInfo& info, GuestRange range);

enum class Target {
    blank,  // reads as zeros already: zeros are left out
    used,
};
// The whole of from; the target is as large at least. Flushes, does not close.
Status copy_disk(Chain& from, Chain& to, Target target, const Progress& progress);
// The same, compressed; the target is blank.
Status copy_compressed(Chain& from, Chain& to, const Progress& progress);

}  // namespace dmu::img
