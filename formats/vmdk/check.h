// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "formats/core/image.h"

namespace dmu::vmdk {

// Format::check of vmdk. Shares nothing with open() and the allocator but the layout:
// reads directories and tables itself and counts who uses which sector.
Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options);

}  // namespace dmu::vmdk
