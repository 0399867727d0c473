// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/check.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace dmu::debug {

namespace {

constexpr std::size_t most_output = 64 << 10;

// How many places {} has been found in.
int fill_in(std::vector<std::string>& words, const std::string& image) {
    int places = 0;
    for (auto& word : words)
        for (std::size_t at = 0; (at = word.find("{}", at)) != std::string::npos; at += image.size(), places++)
            word.replace(at, 2, image);
    return places;
}

Result<pid_t> spawn(std::vector<std::string>& words, int output) {
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, output, 1);
    ::posix_spawn_file_actions_adddup2(&actions, output, 2);
    pid_t child = -1;
    const int error = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return Error{Code::invalid, system_error("cannot run '" + words[0] + "'", error).message};
    return child;
}

std::string drain(int input) {
    std::string text;
    std::array<char, 4096> buffer;
    for (ssize_t got; (got = ::read(input, buffer.data(), buffer.size())) != 0;) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) break;
        text.append(buffer.data(), static_cast<std::size_t>(got));
        if (text.size() > 2 * most_output) text.erase(0, text.size() - most_output);
    }
    if (text.size() > most_output) text.erase(0, text.size() - most_output);
    return text;
}

}  // namespace

Result<Judged> judge(const std::vector<std::string>& command, const std::string& image) {
    auto words = command;
    if (words.empty() || fill_in(words, image) == 0)
        return Error{Code::invalid,
                     "the command that checks needs {} where the image's name is to be, as in: -- "
                     "e2fsck -fn {}"};
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return system_error("cannot make a pipe");
    const auto child = spawn(words, ends[1]);
    ::close(ends[1]);
    Judged judged;
    if (child) judged.output = drain(ends[0]);
    ::close(ends[0]);
    if (!child) return child.error();
    int status = 0;
    while (::waitpid(*child, &status, 0) < 0)
        if (errno != EINTR) return system_error("cannot wait for '" + words[0] + "'");
    judged.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return judged;
}

}  // namespace dmu::debug
