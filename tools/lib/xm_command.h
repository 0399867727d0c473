// SPDX-License-Identifier: GPL-2.0-or-later
// What a command line of the old xm becomes for xl. Pure but for reading the
// configuration file.
#pragma once

#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

using Words = std::vector<std::string>;

// words: the command ("create") and what follows it, both here and in the result.
// Commands that have nothing to do with disks come back as they are. Code::invalid:
// wrong usage, or a configuration or disk that is not understood.
Result<Words> xl_command(const Words& words);

// The file that "xm create NAME" means: NAME, or /etc/xen/NAME where only that exists.
std::string find_config(const std::string& name);

}  // namespace dmu
