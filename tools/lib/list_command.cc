// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/list_command.h"

#include <iostream>

#include "tools/lib/listing.h"

namespace dmu {

void add_list_options(CLI::App& app, ListOptions& options) {
    app.add_flag("--json", options.json, "one JSON object: disks, stale, notes");
    app.add_flag("-l,--long", options.long_form, "everything that the mappers tell, a block per disk");
}

int run_list(const ListOptions& options) {
    const RealPorts ports;
    const Listing listing = collect_listing(*ports);
    if (options.json) {
        // What is no UTF-8 (a path) is replaced, not refused.
        std::cout << listing_json(listing).dump(2, ' ', false, control::Json::error_handler_t::replace) << "\n";
        return 0;
    }
    std::cout << (options.long_form ? listing_long(listing) : listing_table(listing)) << std::flush;
    std::cerr << stale_text(listing);
    return 0;
}

}  // namespace dmu
