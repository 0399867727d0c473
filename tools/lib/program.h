// SPDX-License-Identifier: GPL-2.0-or-later
// What every program of the tools has in common.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>

#include "formats/core/result.h"

namespace dmu {

inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 64;  // EX_USAGE: not to be taken for a finding

// "xen-dmu: message" on stderr.
inline int fail(const std::string& program, const Error& error) {
    std::cerr << program << ": " << error.message << std::endl;
    return exit_failed;
}

// Parses and runs work(); an exit status. Libraries that throw end here.
template <typename Work>
int run_program(CLI::App& app, int argc, char** argv, Work work) {
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : exit_usage;
    }
    try {
        const int status = work();
        std::cout.flush();
        return status == 0 && !std::cout ? fail(app.get_name(), {Code::io, "cannot write to standard output"}) : status;
    } catch (const std::exception& error) {
        return fail(app.get_name(), {Code::io, std::string("internal fault: ") + error.what()});
    }
}

}  // namespace dmu
