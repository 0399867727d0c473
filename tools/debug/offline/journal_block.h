// SPDX-License-Identifier: GPL-2.0-or-later
// The blocks of ext4's journal (jbd2); big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dmu::debug {

struct JournalBlock {
    std::string text;                   // "commit of transaction 7"; "": one of the blocks that it holds
    std::vector<std::uint64_t> blocks;  // of a descriptor: what the blocks behind it are versions of; of a revocation
};

struct JournalFormat {
    // What the journal's super block says of the others; without one the oldest format.
    static JournalFormat of_super(std::span<const std::byte> block);
    // Of a whole block.
    JournalBlock examine(std::span<const std::byte> block) const;

    bool wide = false;             // block numbers of 64 bits
    bool sum_in_tag = false;       // checksums, version 2: two bytes more in each tag, and a tail
    bool wide_sum_in_tag = false;  // version 3: another tag, and a tail
};

}  // namespace dmu::debug
