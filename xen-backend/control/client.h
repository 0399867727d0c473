// SPDX-License-Identifier: GPL-2.0-or-later
// Inside of the control library.
#pragma once

#include <string>

#include "formats/core/result.h"

namespace dmu::control {

// A connected socket, non-blocking, the caller's to close. Code::not_found: nobody listens.
Result<int> connect_mapper(const std::string& instance);
bool connect_is_possible(const std::string& instance);

}  // namespace dmu::control
