// SPDX-License-Identifier: GPL-2.0-or-later
// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string>

#include "formats/core/result.h"

namespace dmu {

// "4096", "512K", "10G", "1.5T" (binary units; k, m, g, t, p too, "B" or "iB" may follow): bytes.
// Code::invalid: not such a thing, not a whole number of bytes, or 2^63 and more.
Result<std::uint64_t> parse_size(const std::string& text);

// "10G", "1.5G", "512", at most 5 characters wide up to exabytes.
std::string short_size(std::uint64_t bytes);
// "123", "12.3k", "4.5M": counts, in steps of 1000.
std::string short_count(std::uint64_t count);

}  // namespace dmu
