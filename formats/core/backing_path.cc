// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/backing_path.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

namespace dmu {

namespace {

class Descriptor {
public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    int get() const { return number_; }
    mode_t type() const {
        struct stat status {};
        return ::fstat(number_, &status) == 0 ? status.st_mode & S_IFMT : 0;
    }

private:
    int number_;
};

struct Root {
    std::string directory;
    bool devices = false;      // block devices may be opened
    bool follow_last = false;  // a symbolic link at the end that stays below is followed
};

// The path from directory to path; empty: path does not lie below it.
std::string below(const std::string& directory, const std::string& path) {
    const std::string prefix = directory.ends_with('/') ? directory : directory + "/";
    return path.starts_with(prefix) ? path.substr(prefix.size()) : "";
}

std::string normal(const std::string& path) {
    std::error_code failed;
    const auto whole = std::filesystem::absolute(path, failed);
    auto text = (failed ? std::filesystem::path(path) : whole).lexically_normal().string();
    while (text.size() > 1 && text.ends_with('/')) text.pop_back();
    return text;
}

std::string directory_of(const std::string& path) {
    return std::filesystem::path(normal(path)).parent_path().string();
}

// O_PATH: looking at what it is has no effect on it, whatever it is.
Result<Descriptor> find_below(const Root& root, const std::string& relative, bool follow_last) {
    const Descriptor directory(::open(root.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() < 0) return system_error("open the directory '" + root.directory + "'");
    struct open_how how {};
    how.flags = O_PATH | O_CLOEXEC | (follow_last ? 0 : O_NOFOLLOW);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    Descriptor found(static_cast<int>(::syscall(SYS_openat2, directory.get(), relative.c_str(), &how, sizeof how)));
    if (found.get() >= 0) return found;
    const std::string what = "open '" + root.directory + "/" + relative + "'";
    if (errno == EXDEV)
        return Error{Code::denied, what + ": a symbolic link in it leads out of '" + root.directory + "'"};
    return system_error(what);
}

Result<std::unique_ptr<BlockFile>> reopen(const Descriptor& found, const std::string& path, OpenMode mode) {
    const std::string link = "/proc/self/fd/" + std::to_string(found.get());
    const int number = ::open(link.c_str(), (mode.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY);
    if (number < 0) return system_error("open '" + path + "'");
    return adopt_file(number, path, mode);
}

Result<std::unique_ptr<BlockFile>> open_in(const Root& root, const std::string& path, OpenMode mode) {
    const auto relative = below(root.directory, path);
    auto found = find_below(root, relative, root.follow_last);
    if (!found) return found.error();
    auto type = found->type();
    if (type == S_IFLNK && root.devices) {
        auto target = find_below(root, relative, true);
        if (target && target->type() == S_IFBLK) {
            *found = std::move(*target);
            type = S_IFBLK;
        }
    }
    if (type == S_IFREG || (type == S_IFBLK && root.devices)) return reopen(*found, path, mode);
    if (type == S_IFLNK) return Error{Code::denied, "'" + path + "' is a symbolic link; name the file itself"};
    if (type == S_IFBLK)
        return Error{Code::denied,
                     "'" + path + "' is a block device; allow its directory in 'roots' of " DMU_CONFIG_FILE};
    return Error{Code::denied, "'" + path + "' is not a regular file"};
}

// The first root that path lies below and that lets it be opened.
Result<std::unique_ptr<BlockFile>> open_allowed(const std::vector<Root>& roots, const std::string& path, OpenMode mode,
                                                const char* setting) {
    Error last{Code::denied, ""};
    for (const auto& root : roots) {
        if (below(root.directory, path).empty()) continue;
        auto file = open_in(root, path, mode);
        if (file || file.error().code != Code::denied) return file;
        last = file.error();
    }
    if (!last.message.empty()) return last;
    std::string allowed;
    for (const auto& root : roots) allowed += (allowed.empty() ? "'" : ", '") + root.directory + "'";
    return Error{Code::denied, "'" + path + "' is outside of what is allowed (" + allowed +
                                   "); add its directory to '" + setting +
                                   "' in " DMU_CONFIG_FILE " if it may be used"};
}

}  // namespace

Result<std::unique_ptr<BlockFile>> open_image_path(const std::string& path, OpenMode mode, const PathPolicy& policy) {
    if (policy.image_roots.empty()) return open_file(path, mode);
    std::vector<Root> roots;
    for (const auto& directory : policy.image_roots) roots.push_back({normal(directory), true, true});
    return open_allowed(roots, normal(path), mode, "image-roots");
}

Result<std::string> resolve_backing_name(const std::string& name, const std::string& image_path, NameUse use) {
    const std::string what = "image '" + image_path + "' names '" + name + "' as " +
                             (use == NameUse::backing_file ? "its backing file: " : "a file of its data: ");
    if (name.empty() || name.find('\0') != std::string::npos) return Error{Code::denied, what + "not a path"};
    // As qemu reads it: a colon before any slash makes it a protocol.
    if (const auto special = name.find_first_of(":/"); special != std::string::npos && name[special] == ':')
        return Error{Code::denied, what + "only plain paths are allowed inside images, no '" +
                                       name.substr(0, special + 1) + "' (a file of that name: './" + name + "')"};
    if (name.starts_with('/')) return normal(name);
    return normal(directory_of(image_path) + "/" + name);
}

Result<std::unique_ptr<BlockFile>> open_backing_path(const std::string& path, const std::string& image_path,
                                                     const PathPolicy& policy, OpenMode mode, NameUse use) {
    std::vector<Root> roots{{directory_of(image_path)}};
    for (const auto& directory : policy.roots) roots.push_back({normal(directory), true, false});
    auto file = open_allowed(roots, path, mode, "roots");
    if (!file)
        return file.error().in((use == NameUse::backing_file ? "backing file of '" : "file of '") + image_path + "'");
    return file;
}

Result<std::unique_ptr<BlockFile>> create_data_file(const std::string& path, const std::string& image_path,
                                                    OpenMode mode) {
    const Root root{directory_of(image_path)};
    const auto relative = below(root.directory, path);
    if (relative.empty())
        return Error{Code::denied, "create '" + path + "', a file of '" + image_path +
                                       "': new files are made in the image's own directory only"};
    const auto parent = std::filesystem::path(relative).parent_path().string();
    const auto directory = find_below(root, parent.empty() ? "." : parent, true);
    if (!directory) return directory.error();
    const auto last = std::filesystem::path(relative).filename().string();
    // What O_PATH found can't be synced.
    const Descriptor opened(::openat(directory->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (opened.get() < 0) return system_error("open the directory of '" + path + "'");
    const int made = ::openat(opened.get(), last.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (made < 0 && errno == EEXIST) return Error{Code::busy, "'" + path + "' exists already; it is not overwritten"};
    if (made < 0) return system_error("create '" + path + "'");
    if (::fsync(opened.get()) != 0) {
        auto failed = system_error("make the name '" + path + "' durable");
        ::close(made);
        ::unlinkat(opened.get(), last.c_str(), 0);
        return failed;
    }
    return adopt_file(made, path, mode);
}

}  // namespace dmu
