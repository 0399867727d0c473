// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>

#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/process.h"

namespace dmu {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds first_delay{20};
constexpr Milliseconds longest_delay{5000};
// Who died sooner than this after its start will likely die again: then not at once.
constexpr std::chrono::seconds good_life{1};

sigset_t supervised_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals, number);
    return signals;
}

std::string describe(int status) {
    if (WIFSIGNALED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
    return "ended with status " + std::to_string(WEXITSTATUS(status));
}

// Waits for the worker's end, forwarding signals; whether an end was asked for.
int wait_for_worker(pid_t worker, const sigset_t& signals, bool& ending) {
    for (;;) {
        int status = 0;
        if (waitpid(worker, &status, WNOHANG) == worker) return status;
        int number = 0;
        if (sigwait(&signals, &number) != 0 || number == SIGCHLD) continue;
        ending = ending || number != SIGHUP;
        kill(worker, number);
    }
}

// Sleeps; true when an end was asked for meanwhile.
bool pause_before_restart(Milliseconds delay, const sigset_t& signals) {
    timespec limit{delay.count() / 1000, delay.count() % 1000 * 1'000'000};
    int number = sigtimedwait(&signals, nullptr, &limit);
    return number == SIGTERM || number == SIGINT;
}

}  // namespace

int supervise(const std::function<int()>& worker, const std::function<void()>& renew) {
    sigset_t signals = supervised_signals(), before;
    sigprocmask(SIG_BLOCK, &signals, &before);
    Milliseconds delay = first_delay;
    bool ending = false;
    for (;;) {
        auto started = Clock::now();
        pid_t child = fork();
        if (child == 0) {
            sigprocmask(SIG_SETMASK, &before, nullptr);
            return worker();
        }
        if (child < 0) {
            log_error(system_error("starting the worker").message);
        } else {
            int status = wait_for_worker(child, signals, ending);
            if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == exit_hopeless)) {
                return WEXITSTATUS(status);
            }
            if (WIFEXITED(status) && WEXITSTATUS(status) == exit_restart && !ending) {
                sigprocmask(SIG_SETMASK, &before, nullptr);
                renew();
                sigprocmask(SIG_BLOCK, &signals, nullptr);
                continue;
            }
            log_error("the worker " + describe(status) + (ending ? "" : "; starting a successor"));
        }
        if (ending) return 1;
        if (Clock::now() - started > good_life) delay = first_delay;
        if (pause_before_restart(delay, signals)) return 1;
        delay = std::min(delay * 2, longest_delay);
    }
}

}  // namespace dmu
