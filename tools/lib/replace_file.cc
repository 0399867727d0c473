// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tools/lib/config_rewrite.h"

namespace dmu {
namespace {

namespace fs = std::filesystem;

// Removed when it goes out of scope, unless it was renamed away.
class TemporaryFile {
public:
    explicit TemporaryFile(const fs::path& beside) : path_(beside.string() + ".XXXXXX"), fd_(mkstemp(path_.data())) {}
    ~TemporaryFile() {
        if (fd_ < 0) return;
        close(fd_);
        if (!renamed_) unlink(path_.c_str());
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    int descriptor() const { return fd_; }
    const std::string& path() const { return path_; }

    Status write_all(const std::string& text) const {
        std::size_t done = 0;
        while (done < text.size()) {
            const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return system_error("cannot write " + path_);
            done += static_cast<std::size_t>(n);
        }
        if (fsync(fd_) != 0) return system_error("cannot sync " + path_);
        return ok();
    }

    Status rename_to(const fs::path& target) {
        if (rename(path_.c_str(), target.c_str()) != 0)
            return system_error("cannot rename " + path_ + " to " + target.string());
        renamed_ = true;
        return ok();
    }

private:
    std::string path_;
    int fd_;
    bool renamed_ = false;
};

void sync_directory(const fs::path& directory) {
    const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

Status write_like(const fs::path& target, const std::string& text, const struct stat& like) {
    TemporaryFile file(target);
    if (file.descriptor() < 0) return system_error("cannot create a file beside " + target.string());
    // The owner first: a change of owner clears mode bits.
    if (fchown(file.descriptor(), like.st_uid, like.st_gid) != 0 && errno != EPERM)
        return system_error("cannot set the owner of " + file.path());
    if (fchmod(file.descriptor(), like.st_mode & 07777) != 0)
        return system_error("cannot set the mode of " + file.path());
    if (auto status = file.write_all(text); !status) return status;
    return file.rename_to(target);
}

}  // namespace

Status replace_file(const std::string& path, const std::string& text, const std::string& backup_suffix) {
    std::error_code error;
    const fs::path target = fs::canonical(path, error);
    if (error) return system_error("cannot find " + path, error.value());
    struct stat like;
    if (stat(target.c_str(), &like) != 0) return system_error("cannot examine " + path);
    if (!backup_suffix.empty()) {
        const fs::path backup = target.string() + backup_suffix;
        fs::remove(backup, error);
        if (link(target.c_str(), backup.c_str()) != 0) {
            fs::copy_file(target, backup, error);
            if (error) return system_error("cannot keep the old file as " + backup.string(), error.value());
        }
    }
    if (auto status = write_like(target, text, like); !status) return status;
    sync_directory(target.parent_path());
    return ok();
}

}  // namespace dmu
