// SPDX-License-Identifier: GPL-2.0-or-later
// The files that names inside an image reach: data files, extents. A format never
// opens a path by itself; whoever implements this says what may be reached.
#pragma once

#include <memory>
#include <string>

#include "block_file.h"
#include "result.h"

namespace dmu {

class Neighbours {
public:
    virtual ~Neighbours() = default;

    // name: as written in the image. Code::denied for what lies elsewhere than allowed,
    // Code::not_found where there is no such file.
    virtual Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) = 0;
    // A fresh, empty file, its directory entry durable; Code::busy where the name is taken.
    virtual Result<std::unique_ptr<BlockFile>> create(const std::string& name) = 0;
    // One is not there, and yet has its place in Image::files(): the next one is opened for
    // the place after it.
    virtual void skip() {}
};

}  // namespace dmu
