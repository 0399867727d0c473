// SPDX-License-Identifier: GPL-2.0-or-later
// The files that names inside an image reach, under the path policy. Chain has one for
// each layer; tools have one for an image that they create or check.
#pragma once

#include "formats/core/chain.h"
#include "formats/core/neighbours.h"

namespace dmu {

class ImageNeighbours final : public Neighbours {
public:
    // image_path: of the image that the names are in. writable: false: no file is opened for
    // writing or made.
    ImageNeighbours(std::string image_path, PathPolicy policy, bool writable, unsigned layer = 0)
        : image_path_(std::move(image_path)), policy_(std::move(policy)), writable_(writable), layer_(layer) {}

    // Asked first, see Chain::Opener; nullptr: nobody.
    void set_opener(Chain::Opener opener, void* context) {
        opener_ = opener;
        context_ = context;
    }

    Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) override;
    Result<std::unique_ptr<BlockFile>> create(const std::string& name) override;
    void skip() override { next_++; }

private:
    Result<std::unique_ptr<BlockFile>> ask_opener(const std::string& path, OpenMode mode, bool create);

    const std::string image_path_;
    const PathPolicy policy_;
    const bool writable_;
    const unsigned layer_;
    unsigned next_ = 1;  // of files(); 0 is the image itself
    Chain::Opener opener_ = nullptr;
    void* context_ = nullptr;
};

}  // namespace dmu
