// SPDX-License-Identifier: GPL-2.0-or-later
#include "kernel_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace dmu {

KernelLog::KernelLog() : descriptor_(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (descriptor_ >= 0) lseek(descriptor_, 0, SEEK_END);
}

KernelLog::~KernelLog() {
    if (descriptor_ >= 0) close(descriptor_);
}

std::string device_mapper_line(const std::string& record) {
    const auto begin = record.find(';');
    if (begin == std::string::npos) return {};
    const std::string text = record.substr(begin + 1, record.find('\n', begin) - begin - 1);
    const bool ours = text.find("device-mapper") != std::string::npos || text.find("dm-userspace") != std::string::npos;
    return ours ? text : std::string{};
}

std::string KernelLog::since() const {
    constexpr std::size_t enough = 1000;
    std::string all;
    char record[8192];
    while (descriptor_ >= 0 && all.size() < enough) {
        const ssize_t size = read(descriptor_, record, sizeof(record));
        if (size < 0 && (errno == EPIPE || errno == EINTR)) continue;  // EPIPE: some records were overwritten
        if (size <= 0) break;
        const std::string line = device_mapper_line(std::string(record, static_cast<std::size_t>(size)));
        if (!line.empty()) all += (all.empty() ? "" : "; ") + line;
    }
    return all;
}

}  // namespace dmu
