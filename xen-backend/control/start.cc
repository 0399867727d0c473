// SPDX-License-Identifier: GPL-2.0-or-later
// Starting a mapper. Called from a hotplug script, so the new process must not inherit
// anything: block-common.sh's lock descriptors, stdout, the session.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "xen-backend/control/client.h"
#include "xen-backend/control/control.h"

namespace dmu::control {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* mapper_program = DMU_LIBEXECDIR "/xen-dmu-mapper";

std::string mapper_path() {
    const char* path = std::getenv("XEN_DMU_MAPPER");
    return path && *path ? path : mapper_program;
}

bool systemd_runs() {
    struct stat info;
    // A run directory of somebody's own is a test: its mapper is none of systemd's units.
    return !std::getenv("XEN_DMU_RUNDIR") && stat("/run/systemd/system", &info) == 0;
}

// Runs a program with nothing inherited and waits for it; its exit status, 127: not run.
Result<int> run(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t child = fork();
    if (child < 0) return system_error("starting " + words.front());
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        for (int number = 0; number < 3; ++number) dup2(null, number);
        close_range(3, ~0u, 0);
        execvp(arguments[0], arguments.data());
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return system_error("waiting for " + words.front());
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

std::string failure_text(const std::string& instance) {
    std::ifstream file(failure_path(instance));
    std::stringstream text;
    text << file.rdbuf();
    std::string words = text.str();
    while (!words.empty() && words.back() == '\n') words.pop_back();
    return words;
}

Status check_before_start() {
    if (access(mapper_path().c_str(), X_OK) != 0) {
        return Error{Code::not_found,
                     "the mapper program " + mapper_path() + " is missing: install dm-userspace whole"};
    }
    if (!std::getenv("XEN_DMU_RUNDIR") && access("/dev/dmu", F_OK) != 0) {
        return Error{
            Code::not_found,
            "the kernel module dm-userspace is not loaded (/dev/dmu is missing): load it: modprobe dm-userspace"};
    }
    return ok();
}

Status start(const std::string& instance) {
    unlink(failure_path(instance).c_str());
    std::vector<std::string> words = {mapper_path(), "--instance", instance, "--supervise"};
    if (systemd_runs()) words = {"systemctl", "start", "xen-dmu-mapper@" + instance + ".service"};
    auto status = run(words);
    if (!status) return status.error();
    if (*status == 0) return ok();
    std::string said = failure_text(instance);
    if (said.empty()) said = words.front() + " ended with status " + std::to_string(*status);
    if (systemd_runs()) said += " (more: journalctl -u xen-dmu-mapper@" + instance + ")";
    return Error{Code::io, "the mapper of " + instance + " did not start: " + said};
}

}  // namespace

Status ensure_mapper(const std::string& instance, unsigned timeout_s) {
    if (Status named = check_instance(instance); !named) return named;
    if (connect_is_possible(instance)) return ok();
    if (Status possible = check_before_start(); !possible) return possible;
    if (Status started = start(instance); !started) return started;
    auto deadline = Clock::now() + std::chrono::seconds(timeout_s);
    for (;;) {
        if (connect_is_possible(instance)) return ok();
        std::string said = failure_text(instance);
        if (!said.empty()) return Error{Code::io, "the mapper of " + instance + " did not start: " + said};
        if (Clock::now() >= deadline) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return Error{Code::io, "the mapper of " + instance + " was started but does not answer on " +
                               socket_path(instance) + "; see " +
                               (systemd_runs() ? "the journal" : log_path(instance))};
}

}  // namespace dmu::control
