// SPDX-License-Identifier: GPL-2.0-or-later
// Every active mapping of this host.
#include "tools/lib/list_command.h"
#include "tools/lib/program.h"

int main(int argc, char** argv) {
    CLI::App app("Lists the disks that dm-userspace serves.", "xen-dmu-list");
    app.set_version_flag("--version", DMU_PACKAGE_VERSION);
    dmu::ListOptions options;
    dmu::add_list_options(app, options);
    return dmu::run_program(app, argc, argv, [&] { return dmu::run_list(options); });
}
