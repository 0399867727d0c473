// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper's log: lines to stderr with the journal's priority marks, or with the time to
// a file. Any thread. A line that can't be written is dropped: the log never stops a disk.
#pragma once

#include <string>

namespace dmu {

enum class LogLevel { error = 3, warning = 4, notice = 5, info = 6 };

void log_line(LogLevel level, const std::string& text);
// From now on to this file (appended); "" is stderr. False: it could not be opened, nothing changed.
bool log_to_file(const std::string& path);
// Opens the file anew, for logrotate.
void log_reopen();

inline void log_error(const std::string& text) {
    log_line(LogLevel::error, text);
}
inline void log_warning(const std::string& text) {
    log_line(LogLevel::warning, text);
}
inline void log_notice(const std::string& text) {
    log_line(LogLevel::notice, text);
}
inline void log_info(const std::string& text) {
    log_line(LogLevel::info, text);
}

}  // namespace dmu
