// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "xen-backend/control/control.h"

namespace dmu::control {
namespace {

constexpr const char* socket_prefix = "mapper-";
constexpr const char* socket_suffix = ".sock";
constexpr std::size_t instance_limit = 100;

const char* run_directory_override() {
    const char* path = std::getenv("XEN_DMU_RUNDIR");
    return path && *path ? path : nullptr;
}

std::string in_run_directory(const std::string& instance, const char* suffix) {
    return run_directory() + "/" + socket_prefix + instance + suffix;
}

}  // namespace

Status check_instance(const std::string& instance) {
    auto fine = [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-' || c == ':'; };
    bool named = instance.starts_with("dom-") || instance.starts_with("name-");
    if (named && instance.back() != '-' && instance.size() <= instance_limit &&
        std::all_of(instance.begin(), instance.end(), fine)) {
        return ok();
    }
    return Error{Code::invalid, "'" + instance + "' does not name a mapper: dom-<domid> or name-<NAME> is wanted, " +
                                    "of letters, digits and . _ - :, at most " + std::to_string(instance_limit) +
                                    " bytes"};
}

std::string run_directory() {
    const char* path = run_directory_override();
    return path ? path : DMU_RUNDIR;
}

std::string socket_path(const std::string& instance) {
    return in_run_directory(instance, socket_suffix);
}
std::string pid_path(const std::string& instance) {
    return in_run_directory(instance, ".pid");
}
std::string failure_path(const std::string& instance) {
    return in_run_directory(instance, ".failure");
}

std::string log_path(const std::string& instance) {
    struct stat info;
    if (!run_directory_override() && stat("/var/log/xen", &info) == 0 && S_ISDIR(info.st_mode)) {
        return "/var/log/xen/xen-dmu-" + instance + ".log";
    }
    return in_run_directory(instance, ".log");
}

std::vector<std::string> instances() {
    std::vector<std::string> found;
    std::error_code none;
    const std::string prefix = socket_prefix, suffix = socket_suffix;
    for (const auto& entry : std::filesystem::directory_iterator(run_directory(), none)) {
        std::string name = entry.path().filename().string();
        if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) || !name.ends_with(suffix)) {
            continue;
        }
        std::string instance = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
        if (check_instance(instance)) found.push_back(instance);
    }
    std::sort(found.begin(), found.end());
    return found;
}

pid_t mapper_pid(const std::string& instance) {
    int file = open(pid_path(instance).c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    // The mapper keeps a lock on it: what nobody locks is a dead one's.
    bool dead = flock(file, LOCK_SH | LOCK_NB) == 0;
    char text[32] = {};
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return dead || length <= 0 ? 0 : static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

}  // namespace dmu::control
