// SPDX-License-Identifier: GPL-2.0-or-later
// The disk specification "FORMAT[;key=value...]:PATH" and what stands before it in a
// toolstack's words.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "result.h"

namespace dmu {

struct ImageSpec {
    std::string format;
    std::vector<std::pair<std::string, std::string>> options;
    std::string path;  // all after the first ':', whatever it holds; never empty

    std::string text() const;
};

// Accepts "qcow:/vm/disk.qcow" and "dmu:qcow:/vm/disk.qcow".
Result<ImageSpec> parse_spec(const std::string& text);

}  // namespace dmu
