// SPDX-License-Identifier: GPL-2.0-or-later
// The options and the output of xen-dmu-list, which "xen-dmu list" shares.
#pragma once

#include <CLI/CLI.hpp>

namespace dmu {

struct ListOptions {
    bool json = false;
    bool long_form = false;
};

void add_list_options(CLI::App& app, ListOptions& options);
// The listing on stdout, what is stale on stderr (with --json: in it). Exit status.
int run_list(const ListOptions& options);

}  // namespace dmu
