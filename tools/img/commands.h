// SPDX-License-Identifier: GPL-2.0-or-later
// The subcommands of dmu-img: each function adds its own.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/core/result.h"

namespace dmu::img {

inline constexpr char program[] = "dmu-img";
inline constexpr int exit_corrupt = 2, exit_leaks = 3;

class Commands {
public:
    explicit Commands(CLI::App& app) : app_(app) {}

    CLI::App* add(const std::string& name, const std::string& what) { return app_.add_subcommand(name, what); }
    // work: gives the exit status.
    template <typename Work>
    void on(CLI::App* command, Work work) {
        command->callback([this, work] { work_ = work; });
    }
    // What the command line asked for.
    int run() const { return work_(); }

private:
    CLI::App& app_;
    std::function<int()> work_;
};

void add_info(Commands& commands);
void add_create(Commands& commands);
void add_check(Commands& commands);
void add_map(Commands& commands);
void add_convert(Commands& commands);
void add_compare(Commands& commands);
void add_resize(Commands& commands);
void add_snapshot(Commands& commands);
void add_commit(Commands& commands);
void add_rebase(Commands& commands);
void add_io(Commands& commands);

// The message on stderr; the exit status: 2 where an image is corrupt, else 1.
int failed(const Error& error);
// 0, or as failed().
int ended(const Status& status);

using OptionList = std::vector<std::pair<std::string, std::string>>;
// "-o key=value[,key=value...]", repeated.
Result<OptionList> parse_options(const std::vector<std::string>& texts);

}  // namespace dmu::img
