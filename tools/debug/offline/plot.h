// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <ostream>

#include "tools/debug/offline/listing.h"

namespace dmu::debug {

// A picture of a run: time from left to right, sectors upwards, requests coloured by kind,
// flushes as lines across. by_number: the requests' numbers in the place of the time.
void plot_svg(std::ostream& out, const LogReader& log, const Filter& filter, bool by_number);

}  // namespace dmu::debug
