// SPDX-License-Identifier: GPL-2.0-or-later
// The live debugger: a device over another, until it is told to quit.
#pragma once

#include <functional>
#include <string>

#include "tools/debug/session.h"

namespace dmu::debug {

// Looks at what is on a device.
using ExplainDevice = std::function<Session::Explain(const std::string& path)>;

// The words of the command line, argv[0] being the program. The exit status.
int live_command(int argc, char** argv, const ExplainDevice& explain);

}  // namespace dmu::debug
