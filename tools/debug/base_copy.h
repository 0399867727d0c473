// SPDX-License-Identifier: GPL-2.0-or-later
// What is on a device before its log begins.
#pragma once

#include <string>

#include "tools/debug/below.h"

namespace dmu::debug {

// A sparse copy; the file must not exist. Code::no_space.
Status copy_base(Below& device, std::uint64_t sectors, const std::string& path);

}  // namespace dmu::debug
