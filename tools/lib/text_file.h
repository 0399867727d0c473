// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "formats/core/result.h"

namespace dmu {

// A whole configuration file; at most 16 MiB. Blocks.
Result<std::string> read_text_file(const std::string& path);

}  // namespace dmu
