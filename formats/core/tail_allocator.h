// SPDX-License-Identifier: GPL-2.0-or-later
// Space at the end of a file, for formats that have no map of what is free.
//
// What an instance gives out begins at the end of the file as it found it. A
// successor therefore never gives out what its predecessor did: space is reserved
// with the file's size extended over it before it is given out.
#pragma once

#include <cstdint>

#include "formats/core/block_file.h"
#include "formats/core/result.h"

namespace dmu {

class TailAllocator {
public:
    // unit: bytes, what is given out is a multiple of it and aligned to it. The file's
    // size is a multiple of it (grow() it before) and outlives the allocator.
    TailAllocator(BlockFile& file, std::uint32_t unit, std::uint64_t end)
        : file_(file), unit_(unit), next_(end), end_(end) {}

    // Makes sure of bytes (a multiple of the unit) for take(). Reserves ahead in steps
    // that grow, and that shrink where the file system is nearly full.
    // Code::no_space: nothing changed.
    Status ensure(std::uint64_t bytes);
    // Only after ensure() of as much.
    std::uint64_t take(std::uint64_t bytes);

    // What lies from start up to next() was taken and never used.
    void put_back(std::uint64_t start) { next_ = start; }

    // Everything below has been given out, or was there before.
    std::uint64_t next() const { return next_; }
    bool reads_as_zero() const { return reads_as_zero_; }

    // Cuts off what ensure() reserved and nobody took.
    Status give_back();

private:
    BlockFile& file_;
    const std::uint64_t unit_;
    std::uint64_t next_;
    std::uint64_t end_;
    std::uint64_t step_ = smallest_step;
    bool reads_as_zero_ = true;

    static constexpr std::uint64_t smallest_step = 1 << 20;
    static constexpr std::uint64_t largest_step = 64 << 20;
};

}  // namespace dmu
