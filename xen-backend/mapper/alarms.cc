// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/alarms.h"

#include "xen-backend/mapper/log.h"

namespace dmu {

void Alarms::raise(const std::string& kind, const std::string& text) {
    MutexLock lock(mutex_);
    std::string& now = active_[kind];
    if (now == text) return;
    now = text;
    log_error("ALARM " + disk_ + ": " + kind + ": " + text);
}

void Alarms::clear(const std::string& kind) {
    MutexLock lock(mutex_);
    if (active_.erase(kind)) log_notice("over: " + disk_ + ": " + kind);
}

bool Alarms::is_raised(const std::string& kind) const {
    MutexLock lock(mutex_);
    return active_.count(kind) != 0;
}

std::vector<std::string> Alarms::list() const {
    MutexLock lock(mutex_);
    std::vector<std::string> all;
    for (const auto& [kind, text] : active_) all.push_back(kind + ": " + text);
    return all;
}

}  // namespace dmu
