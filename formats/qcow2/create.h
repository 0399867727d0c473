// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::qcow2 {

// Format::create of qcow2; the file must be empty, or a block device.
Status create_image(BlockFile& file, const CreateOptions& options);

}  // namespace dmu::qcow2
