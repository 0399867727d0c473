// SPDX-License-Identifier: GPL-2.0-or-later
// Rewrites the disk entries of an xl configuration where they stand; comments,
// layout and everything else stay byte for byte. The result is proved with xl's own
// parser: it must hold the translated list of the original.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

// A string literal in a "disk" list of the text.
struct DiskLiteral {
    std::size_t begin = 0;  // offset of the opening quote
    std::size_t end = 0;    // one past the closing quote
    char quote = '"';
    std::string value;
};

// In the order of the text, of all assignments ("=" and "+=") to "disk".
std::vector<DiskLiteral> find_disk_literals(const std::string& text);

struct Rewrite {
    std::string text;
    std::size_t changed = 0;  // entries
};

// name is for messages.
Result<Rewrite> rewrite_config(const std::string& text, const std::string& name);

// A unified diff of two texts of equally many lines; empty where they are equal.
std::string unified_diff(const std::string& before, const std::string& after, const std::string& name);

// Writes text in place of path (a symbolic link's target), atomically, with the old
// owner and mode. backup_suffix not empty: the old file stays as path + suffix.
Status replace_file(const std::string& path, const std::string& text, const std::string& backup_suffix);

}  // namespace dmu
