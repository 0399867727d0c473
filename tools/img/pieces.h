// SPDX-License-Identifier: GPL-2.0-or-later
// What lies where in a disk, for people and programs.
#pragma once

#include <string>
#include <vector>

#include "formats/core/chain.h"

namespace dmu::img {

// All of the disk, or what range covers of it.
Result<std::vector<Mapping>> all_mappings(Chain& chain, GuestRange range);

// "Offset Length Mapped to File" lines; zeros are left out.
std::string map_text(const Chain& chain, const std::vector<Mapping>& mappings);

// A lane for each layer of the chain, the disk's bytes from left to right.
std::string map_svg(const Chain& chain, const std::vector<Mapping>& mappings);

}  // namespace dmu::img
