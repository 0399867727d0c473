// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/process.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "xen-backend/mapper/log.h"

namespace dmu {
namespace {

constexpr std::size_t thread_stack = 512 * 1024;  // bytes, all of them locked
constexpr unsigned predecessor_waits = 100;
constexpr unsigned predecessor_wait_us = 50'000;

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

}  // namespace

Status daemonise() {
    for (int turn = 0; turn < 2; ++turn) {
        pid_t child = fork();
        if (child < 0) return system_error("starting the daemon");
        if (child > 0) _exit(0);
        if (turn == 0) setsid();
    }
    umask(0077);
    if (chdir("/") != 0) return system_error("changing to /");
    int null = open("/dev/null", O_RDWR);
    if (null < 0) return system_error("opening /dev/null");
    for (int number = 0; number < 3; ++number) dup2(null, number);
    close_range(3, ~0u, 0);
    return ok();
}

void harden_process() {
    umask(0077);
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) {
        log_warning(system_error("PR_SET_IO_FLUSHER (needs Linux 5.6 and CAP_SYS_RESOURCE)").message);
    }
    std::ofstream score("/proc/self/oom_score_adj");
    score << "-1000" << std::flush;
    if (!score) log_warning("the OOM score could not be set to -1000");
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, thread_stack);
    pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
    mallopt(M_ARENA_MAX, 2);
}

void lock_memory() {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) log_warning(system_error("locking the memory").message);
}

void forbid_core_dumps() {
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) log_warning(system_error("PR_SET_DUMPABLE").message);
}

PidFile::~PidFile() {
    if (file_ >= 0) close(file_);
}

Status PidFile::take(const std::string& path) {
    for (unsigned turn = 0; turn < predecessor_waits; ++turn) {
        int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0) return system_error("opening the pid file " + path);
        struct stat mine, there;
        bool locked = flock(file, LOCK_EX | LOCK_NB) == 0;
        // The predecessor may have unlinked it since.
        bool same = fstat(file, &mine) == 0 && stat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino;
        if (locked && same) {
            std::string text = std::to_string(getpid()) + "\n";
            if (ftruncate(file, 0) != 0 || pwrite(file, text.data(), text.size(), 0) < 0) {
                Error error = system_error("writing the pid file " + path);
                close(file);
                return error;
            }
            file_ = file;
            path_ = path;
            return ok();
        }
        close(file);
        if (!locked) usleep(predecessor_wait_us);
    }
    return Error{Code::busy, "another mapper of this instance is running; its pid is in " + path};
}

void PidFile::remove() {
    if (file_ >= 0) unlink(path_.c_str());
}

void notify_ready() {
    const char* path = std::getenv("NOTIFY_SOCKET");
    if (!path || !*path) return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::size_t length = std::strlen(path);
    if (length >= sizeof address.sun_path) return;
    std::memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = '\0';  // the abstract name space
    int handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (handle < 0) return;
    static constexpr char text[] = "READY=1";
    auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    if (sendto(handle, text, sizeof text - 1, MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address), size) < 0) {
        log_warning(system_error("telling systemd").message);
    }
    close(handle);
}

}  // namespace dmu
