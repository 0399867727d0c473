// SPDX-License-Identifier: GPL-2.0-or-later
// Writes that a volatile cache would hold until the next flush, and in which order they
// may then reach the disk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/core/result.h"
#include "tools/debug/request.h"

namespace dmu::debug {

struct HeldOrder {
    enum class How { random, reverse, same, given } how = How::random;
    std::vector<std::uint64_t> given = {};  // numbers of requests, first those; what is not named follows in order

    std::string text() const;
};

// "random", "reverse", "same", or numbers: "7 5 6".
Result<HeldOrder> parse_order(const std::string& text);

// The requests, which are in order of arrival, in the order in which they are to be written.
// One never overtakes another that it overlaps: no cache gives an older block back.
std::vector<Request*> put_in_order(const std::vector<Request*>& held, const HeldOrder& order, std::uint64_t& seed);

// Next of a repeatable sequence of numbers.
std::uint64_t next_random(std::uint64_t& state);

}  // namespace dmu::debug
