// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::qcow {

// Format::create of qcow; the file must be empty.
Status create_image(BlockFile& file, const CreateOptions& options);

}  // namespace dmu::qcow
