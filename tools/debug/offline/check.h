// SPDX-License-Identifier: GPL-2.0-or-later
// The judge of an image: any command, with {} in the place of the image's name.
#pragma once

#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::debug {

struct Judged {
    int status = 0;      // of the command; 128 + signal where one has ended it
    std::string output;  // both streams, at most the last 64 KiB
    bool good() const { return status == 0; }
};

// Code::invalid: no {} in it, or it cannot be run.
Result<Judged> judge(const std::vector<std::string>& command, const std::string& image);

}  // namespace dmu::debug
