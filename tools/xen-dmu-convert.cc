// SPDX-License-Identifier: GPL-2.0-or-later
// Rewrites the disks of xl and xm configurations to what stock xl takes.
#include <iostream>

#include "tools/lib/config_rewrite.h"
#include "tools/lib/program.h"
#include "tools/lib/text_file.h"

namespace {

using namespace dmu;

constexpr char program[] = "xen-dmu-convert";

struct Options {
    std::vector<std::string> files;
    bool diff = false;
    bool in_place = false;
    std::string backup;
};

Status convert(const std::string& path, const Options& options) {
    const auto before = read_text_file(path);
    if (!before) return before.error();
    const auto after = rewrite_config(*before, path);
    if (!after) return after.error();
    if (options.diff) std::cout << unified_diff(*before, after->text, path);
    if (!options.diff && !options.in_place) std::cout << after->text;
    if (!options.in_place || after->changed == 0) return ok();
    if (auto status = replace_file(path, after->text, options.backup); !status) return status;
    if (!options.diff)
        std::cerr << program << ": " << path << ": " << after->changed << (after->changed == 1 ? " disk" : " disks")
                  << " rewritten" << std::endl;
    return ok();
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Rewrites disks 'dmu:FORMAT:PATH,VDEV,MODE' of domain configurations so that stock xl takes them.",
                 program);
    app.set_version_flag("--version", DMU_PACKAGE_VERSION);
    Options options;
    app.add_option("FILE", options.files, "configurations")->required()->check(CLI::ExistingFile);
    app.add_flag("-d,--diff", options.diff, "print a unified diff instead of the result");
    auto* in_place = app.add_flag("-i,--in-place", options.in_place, "change the files");
    app.add_option("-b,--backup", options.backup, "with --in-place: keep the old file as FILE+SUFFIX")
        ->type_name("SUFFIX")
        ->needs(in_place);
    return run_program(app, argc, argv, [&] {
        int worst = 0;
        for (const auto& file : options.files)
            if (auto status = convert(file, options); !status) worst = fail(program, status.error());
        return worst;
    });
}
