// SPDX-License-Identifier: GPL-2.0-or-later
// Images for the subcommands: named, opened under the configuration's policy, locked as a
// mapper locks them before anything of them is read.
#pragma once

#include <memory>
#include <string>

#include "formats/core/image_neighbours.h"
#include "tools/lib/image_commands.h"

namespace dmu::img {

// What names inside images may reach: as for attached disks.
Result<PathPolicy> tool_policy();

enum class Locking {
    all,  // the top image as it is opened, all below against writers
    top,  // only the top image: the caller writes below it
};

// The chain of "FORMAT:PATH". Code::busy: attached, or locked by another program.
Result<std::unique_ptr<Chain>> open_chain(const ImageSpec& spec, bool writable, Locking locking = Locking::all);
Result<std::unique_ptr<Chain>> open_chain(const std::string& text, bool writable, Locking locking = Locking::all);

// An image without its backing file. With info_only nothing is locked.
struct Alone {
    std::unique_ptr<ImageNeighbours> neighbours;
    std::unique_ptr<Image> image;
};
enum class Depth { whole, info_only };
Result<Alone> open_alone(const NamedImage& named, bool writable, Depth depth);

// Also does what opening it put off: nobody comes back for it.
Status close_image(Image& image);

}  // namespace dmu::img
