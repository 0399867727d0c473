// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::vmdk {

// Format::create of vmdk; the file must be empty, its name decides the extents' names.
Status create_image(BlockFile& file, const CreateOptions& options);

}  // namespace dmu::vmdk
