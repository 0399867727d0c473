// SPDX-License-Identifier: GPL-2.0-or-later
#include "dm_task.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>

namespace dmu {
namespace {

constexpr int log_warning = 4;     // the library's own levels; lower is worse
constexpr int log_level_mask = 7;  // the rest are flags
constexpr auto udev_patience = std::chrono::seconds(15);

// The library's words since the task began.
thread_local std::string complaints;

void gather(int level, const char*, int, int, const char* format, ...) {
    if ((level & log_level_mask) > log_warning) return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it is, the analyzer is wrong
    std::vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (complaints.size() > 2000) return;
    if (!complaints.empty()) complaints += "; ";
    complaints += line;
}

Code code_of(int number) {
    switch (number) {
        case ENXIO:
        case ENODEV:
        case ENOENT:
            return Code::not_found;
        case EBUSY:
        case EEXIST:
            return Code::busy;
        case EPERM:
        case EACCES:
            return Code::denied;
        case EINVAL:
            return Code::invalid;
        case ENOSPC:
            return Code::no_space;
        default:
            return Code::io;
    }
}

// The library looks for the driver once, and complains once.
std::string& first_complaints() {
    static std::string said;
    return said;
}

// The library makes the control node where it is missing: that it is there says nothing.
bool driver_there() {
    const std::string control = std::string(dm_dir()) + "/control";
    const int fd = open(control.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT && errno != ENODEV && errno != ENXIO;
    close(fd);
    return true;
}

Error failure(const DmRequest& request, int number, const std::string& said) {
    Error error = number != 0 ? system_error(request.what, number) : Error{Code::io, request.what};
    error.code = code_of(number);
    if (!said.empty()) error.message += " (libdevmapper: " + said + ")";
    if (geteuid() != 0) {
        error.message += "; this needs root";
        error.code = Code::denied;
    } else if (!driver_there()) {
        if (said.empty() && !first_complaints().empty()) error.message += " (libdevmapper: " + first_complaints() + ")";
        error.message += "; device-mapper is not in the kernel, load it with: modprobe dm-mod";
        error.code = Code::not_found;
    }
    return error;
}

// A udevd that is there but does not answer must not hold us for ever.
void wait_for_udev(std::uint32_t cookie) {
    const auto limit = std::chrono::steady_clock::now() + udev_patience;
    int ready = cookie == 0;
    while (!ready && std::chrono::steady_clock::now() < limit) {
        if (!dm_udev_wait_immediate(cookie, &ready)) break;
        if (!ready) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (!ready) {
        dm_udev_complete(cookie);
        dm_udev_wait(cookie);
    }
    dm_task_update_nodes();
}

bool set_up(dm_task* task, const DmRequest& request, std::uint32_t& cookie) {
    // The guests' disks are not for dom0's LVM, blkid and /dev/disk/by-*.
    constexpr std::uint16_t flags =
        DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;
    if (!request.name.empty() && !dm_task_set_name(task, request.name.c_str())) return false;
    if (!request.uuid.empty() && !dm_task_set_uuid(task, request.uuid.c_str())) return false;
    if (request.prepare && !request.prepare(task)) return false;
    return !request.cookie || dm_task_set_cookie(task, &cookie, flags);
}

}  // namespace

void prepare_library() {
    static std::once_flag once;
    std::call_once(once, [] {
        dm_log_with_errno_init(gather);
        complaints.clear();
        dm_udev_set_sync_support(dm_cookie_supported() && access("/run/udev/control", F_OK) == 0);
        first_complaints() = complaints;
    });
}

Status run_task(const DmRequest& request) {
    complaints.clear();
    const std::unique_ptr<dm_task, void (*)(dm_task*)> task(dm_task_create(request.type), dm_task_destroy);
    if (!task) return failure(request, errno, complaints);
    std::uint32_t cookie = 0;
    if (!set_up(task.get(), request, cookie)) {
        Error error = failure(request, 0, complaints);
        if (error.code == Code::io) error.code = Code::invalid;
        if (cookie != 0) wait_for_udev(cookie);
        return error;
    }
    const bool done = dm_task_run(task.get());
    const int number = done ? 0 : dm_task_get_errno(task.get());
    if (request.cookie) wait_for_udev(cookie);
    if (!done) return failure(request, number, complaints);
    if (request.take) request.take(task.get());
    return ok();
}

}  // namespace dmu
