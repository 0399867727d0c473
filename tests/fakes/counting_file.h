// SPDX-License-Identifier: GPL-2.0-or-later
// A BlockFile that counts what is read of it: the measure of what an image costs its reader.
#pragma once

#include <algorithm>

#include "tests/fakes/wrapped_file.h"

namespace dmu {

struct Counts {
    std::uint64_t reads = 0, bytes_read = 0, largest_read = 0;
};

class CountingFile final : public WrappedFile {
public:
    CountingFile(std::unique_ptr<BlockFile> file, Counts& counts) : WrappedFile(std::move(file)), counts_(counts) {}

    Status read(std::uint64_t offset, std::span<std::byte> into) override {
        counts_.reads++;
        counts_.bytes_read += into.size();
        counts_.largest_read = std::max<std::uint64_t>(counts_.largest_read, into.size());
        return WrappedFile::read(offset, into);
    }

private:
    Counts& counts_;
};

}  // namespace dmu
