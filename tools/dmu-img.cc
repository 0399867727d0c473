// SPDX-License-Identifier: GPL-2.0-or-later
// Images, offline. The subcommands are in tools/img.
#include "tools/img/commands.h"
#include "tools/lib/program.h"

int main(int argc, char** argv) {
    using namespace dmu;
    CLI::App app("Makes, examines, converts and changes disk images that are not attached.", img::program);
    app.set_version_flag("--version", DMU_PACKAGE_VERSION);
    app.require_subcommand(1);
    img::Commands commands(app);
    img::add_info(commands);
    img::add_create(commands);
    img::add_check(commands);
    img::add_map(commands);
    img::add_convert(commands);
    img::add_compare(commands);
    img::add_resize(commands);
    img::add_snapshot(commands);
    img::add_commit(commands);
    img::add_rebase(commands);
    img::add_io(commands);
    return run_program(app, argc, argv, [&] { return commands.run(); });
}
