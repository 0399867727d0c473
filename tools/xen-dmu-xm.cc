// SPDX-License-Identifier: GPL-2.0-or-later
// The old front end over xl: understands disks "dmu:FORMAT:PATH,VDEV,MODE", leaves
// all else to xl. Command lines are xl's, so nothing is parsed here but the command.
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "tools/lib/block_list.h"
#include "tools/lib/program.h"
#include "tools/lib/xm_command.h"

namespace {

using namespace dmu;

constexpr char program[] = "xm";

constexpr char usage[] =
    R"(usage: xm [xl's options] COMMAND ...
  create FILE [NAME=VALUE]...                          disks dmu:FORMAT:PATH,VDEV,MODE are translated
  block-attach DOMAIN dmu:FORMAT:PATH VDEV r|w [BACKEND-DOMAIN]
  block-detach DOMAIN VDEV [-f]
  block-list DOMAIN...                                 shows what the disks really are
Every other command is xl's ("xl help"). XL names another xl.
)";

// $XL, or xl; never this program again (scripts export XL=xm).
std::string xl_program() {
    const char* named = std::getenv("XL");
    const std::string xl = named ? named : "";
    const std::string name = xl.substr(xl.rfind('/') + 1);
    return name.empty() || name == "xm" || name == "xen-dmu-xm" ? "xl" : xl;
}

int run_xl(const Words& words) {
    std::string xl = xl_program();
    std::vector<char*> argv{xl.data()};
    Words copies = words;
    for (auto& word : copies) argv.push_back(word.data());
    argv.push_back(nullptr);
    execvp(xl.c_str(), argv.data());
    return fail(program, system_error("cannot run " + xl + " (Xen's toolstack, package xen-utils)"));
}

// xl's options before the command: "-v -t create".
std::size_t command_index(const Words& words) {
    std::size_t i = 0;
    while (i < words.size() && words[i].starts_with("-")) ++i;
    return i;
}

int list_blocks(const Words& words, const Words& command) {
    if (command.size() < 2 || command[1].starts_with("-")) return run_xl(words);
    auto xenstore = open_xenstore();
    if (!xenstore) return fail(program, xenstore.error());
    const auto text = block_list(**xenstore, Words(command.begin() + 1, command.end()));
    if (!text) return fail(program, text.error());
    std::cout << *text << std::flush;
    return std::cout ? 0 : exit_failed;
}

int run(const Words& words) {
    const std::size_t at = command_index(words);
    if (words.empty() || words[0] == "--help" || words[0] == "-h" || (at < words.size() && words[at] == "help")) {
        std::cout << usage << std::flush;
        return words.empty() ? exit_usage : 0;
    }
    const auto begin = words.begin() + static_cast<std::ptrdiff_t>(at);
    const Words command(begin, words.end());
    if (!command.empty() && command[0] == "block-list") return list_blocks(words, command);
    const auto translated = xl_command(command);
    if (!translated) return fail(program, translated.error());
    Words all(words.begin(), begin);
    all.insert(all.end(), translated->begin(), translated->end());
    return run_xl(all);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(Words(argv + 1, argv + argc));
    } catch (const std::exception& error) {
        return fail(program, {Code::io, std::string("internal fault: ") + error.what()});
    }
}
