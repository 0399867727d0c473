// SPDX-License-Identifier: GPL-2.0-or-later
// What is wrong with a disk now, for log and listing. Any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "xen-backend/mapper/mutex.h"

namespace dmu {

class Alarms {
public:
    explicit Alarms(std::string disk) : disk_(std::move(disk)) {}

    // kind: "full", "corrupt", "commit", ...; logged when it begins and when its text changes.
    void raise(const std::string& kind, const std::string& text);
    void clear(const std::string& kind);
    bool is_raised(const std::string& kind) const;
    // "kind: text", sorted by kind.
    std::vector<std::string> list() const;

private:
    const std::string disk_;
    mutable Mutex mutex_;
    std::map<std::string, std::string> active_ DMU_GUARDED_BY(mutex_);
};

}  // namespace dmu
