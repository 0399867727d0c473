// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>

#include "xen-backend/mapper/mutex.h"

namespace dmu {
namespace {

struct Log {
    Mutex mutex;
    std::string path DMU_GUARDED_BY(mutex);
    int file DMU_GUARDED_BY(mutex) = STDERR_FILENO;
};

Log& the_log() {
    static Log* log = new Log;  // never destroyed: threads may log until the process ends
    return *log;
}

std::string timestamp() {
    char text[32];
    time_t now = time(nullptr);
    struct tm parts;
    localtime_r(&now, &parts);
    strftime(text, sizeof text, "%F %T ", &parts);
    return text;
}

int open_log(const std::string& path) {
    return open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

}  // namespace

void log_line(LogLevel level, const std::string& text) {
    Log& log = the_log();
    static const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
    MutexLock lock(log.mutex);
    bool plain = log.file == STDERR_FILENO;
    std::string line = plain ? (journal ? "<" + std::to_string(static_cast<int>(level)) + ">" : "") : timestamp();
    for (char c : text) line += c == '\n' ? ' ' : c;
    line += '\n';
    ssize_t written = write(log.file, line.data(), line.size());
    (void)written;
}

bool log_to_file(const std::string& path) {
    Log& log = the_log();
    int file = path.empty() ? STDERR_FILENO : open_log(path);
    if (file < 0) return false;
    MutexLock lock(log.mutex);
    if (log.file != STDERR_FILENO) close(log.file);
    log.file = file;
    log.path = path;
    return true;
}

void log_reopen() {
    Log& log = the_log();
    MutexLock lock(log.mutex);
    if (log.path.empty()) return;
    int file = open_log(log.path);
    if (file < 0) return;
    close(log.file);
    log.file = file;
}

}  // namespace dmu
