// SPDX-License-Identifier: GPL-2.0-or-later
// The scheme: who uses a permission holds a shared lock on byte 100 + its bit, who does
// not allow others a permission holds one on byte 200 + its bit. First everybody takes his
// own, then looks whether others hold what contradicts. Two at once may both refuse, never
// both succeed.
#include "formats/core/locks.h"

#include <fcntl.h>

#include <vector>

namespace dmu {
namespace {

constexpr off_t used_base = 100;
constexpr off_t unshared_base = 200;
constexpr unsigned permission_read = 0;  // consistent read
constexpr unsigned permission_write = 1;
constexpr unsigned permission_resize = 3;

struct flock range(short type, off_t start, off_t length) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = start;
    lock.l_len = length;
    return lock;
}

Status take(int descriptor, off_t byte, const std::string& path) {
    struct flock lock = range(F_RDLCK, byte, 1);
    if (fcntl(descriptor, F_OFD_SETLK, &lock) == 0) return ok();
    if (errno == EAGAIN || errno == EACCES) {
        return Error{Code::busy, path + " is in use (locked) by another program or domain"};
    }
    return system_error("locking " + path + " (does its file system have locks?)");
}

Status check_free(int descriptor, off_t byte, const std::string& path, const char* what) {
    struct flock lock = range(F_WRLCK, byte, 1);
    if (fcntl(descriptor, F_OFD_GETLK, &lock) != 0) return system_error("asking for the locks of " + path);
    if (lock.l_type == F_UNLCK) return ok();
    return Error{Code::busy, path + " is in use (locked) by another program or domain: " + what};
}

}  // namespace

Status lock_image(int descriptor, LockMode mode, const std::string& path) {
    std::vector<unsigned> used = {permission_read};
    if (mode == LockMode::exclusive) used = {permission_read, permission_write, permission_resize};
    const unsigned unshared[] = {permission_write, permission_resize};
    Status locked = ok();
    for (unsigned bit : used) {
        if (locked) locked = take(descriptor, used_base + bit, path);
    }
    for (unsigned bit : unshared) {
        if (locked) locked = take(descriptor, unshared_base + bit, path);
    }
    for (unsigned bit : used) {
        if (locked)
            locked =
                check_free(descriptor, unshared_base + bit, path, "attached there, or being read as a backing file");
    }
    for (unsigned bit : unshared) {
        if (locked) locked = check_free(descriptor, used_base + bit, path, "it is being written");
    }
    if (!locked) unlock_image(descriptor);
    return locked;
}

void unlock_image(int descriptor) {
    struct flock lock = range(F_UNLCK, used_base, unshared_base + 64 - used_base);
    (void)fcntl(descriptor, F_OFD_SETLK, &lock);
}

}  // namespace dmu
