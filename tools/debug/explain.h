// SPDX-License-Identifier: GPL-2.0-or-later
// What lies in a range of a device: partition table, the parts of ext2/3/4 and XFS, names
// of files. Best effort, and only what the device says now.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::debug {

struct Explanation {
    std::uint64_t sector = 0, sectors = 0;  // of 512 bytes, of the device
    std::string text;                       // "ext4 block bitmap of group 3"
};

// Looks at the device (or a raw image) through the page cache, and remembers what it
// found: make a new one when the file system was made anew. One thread at a time; blocks
// on reads of the device, so never on the thread that serves it.
class Explainer {
public:
    virtual ~Explainer() = default;

    // The parts of the range in ascending order, without gaps. data: what is (being) written
    // there, empty: what is on the device; it tells the kinds of a journal's blocks.
    virtual std::vector<Explanation> explain(std::uint64_t sector, std::uint64_t sectors,
                                             std::span<const std::byte> data = {}) = 0;
    // Looks at the device anew.
    virtual void refresh() = 0;

    // One line: neighbouring parts joined, at most so many of them, "..." if there are more.
    std::string line(std::uint64_t sector, std::uint64_t sectors, std::span<const std::byte> data = {},
                     std::size_t most = 3);
};

// Code::not_found, Code::denied: the device cannot be opened. Finding nothing on it is no error.
Result<std::unique_ptr<Explainer>> open_explainer(const std::string& path);

}  // namespace dmu::debug
