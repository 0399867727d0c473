// SPDX-License-Identifier: GPL-2.0-or-later
// What makes a process a mapper: descriptors, memory, pid file, supervision.
#pragma once

#include <functional>
#include <string>

#include "formats/core/result.h"

namespace dmu {

// Ends of a mapper that starting it again would not change.
inline constexpr int exit_hopeless = 3;
// Of one that made way for the program as it is now on disk. systemd starts it after any
// status but 0 and exit_hopeless.
inline constexpr int exit_restart = 4;

// Forks away from the caller: own session, nothing inherited, cwd /. Only the daemon returns.
Status daemonise();

// The guest's I/O may wait for this process: it must not wait for memory, nor be killed
// for it. Before any thread is started. What the machine does not allow is logged.
void harden_process();
// Locks what is mapped now and later.
void lock_memory();

// From now on: there are keys in the memory.
void forbid_core_dumps();

// Held by the one mapper of an instance until it ends.
class PidFile {
public:
    PidFile() = default;
    ~PidFile();
    PidFile(const PidFile&) = delete;
    PidFile& operator=(const PidFile&) = delete;

    // Waits a moment for a predecessor that is ending. Code::busy: one is running.
    Status take(const std::string& path);
    void remove();

private:
    std::string path_;
    int file_ = -1;
};

// Tells systemd, where it asked for it, that the mapper answers.
void notify_ready();

// Runs worker in a child, again when it dies other than by exit(0) or exit_hopeless;
// forwards SIGTERM, SIGINT and SIGHUP. The status to exit with. Where it is the child:
// worker's. After exit_restart renew is called, which becomes the new program; should it
// return, the old one goes on.
int supervise(
    const std::function<int()>& worker, const std::function<void()>& renew = [] {});

}  // namespace dmu
