// SPDX-License-Identifier: GPL-2.0-or-later
// What the kernel's log said of device-mapper since a moment: a refused table has its
// cause there and nowhere else.
#pragma once

#include <string>

namespace dmu {

class KernelLog {
public:
    // The moment. Where the log can't be read there is just nothing to tell.
    KernelLog();
    ~KernelLog();
    KernelLog(const KernelLog&) = delete;
    KernelLog& operator=(const KernelLog&) = delete;

    // Lines of device-mapper and dm-userspace since, joined by "; "; at most about 1000 bytes.
    std::string since() const;

private:
    int descriptor_;
};

// The text of a record of /dev/kmsg if it is of device-mapper; empty otherwise.
std::string device_mapper_line(const std::string& record);

}  // namespace dmu
