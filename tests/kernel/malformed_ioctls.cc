// SPDX-License-Identifier: GPL-2.0-or-later
// Ioctls that are refused, and buffers that are none.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "tests/kernel/malformed.h"

namespace {

long add(uint32_t number, int fd, uint32_t flags) {
    dmu_destination wire{};
    wire.number = number;
    wire.fd = fd;
    wire.flags = flags;
    const long result = ioctl(dmu_fd(channel), DMU_DEST_ADD, &wire);
    const int error = errno;
    if (fd > 2 && fd != dmu_fd(channel)) close(fd);
    errno = error;
    return result;
}

void refuse_destinations(const std::string& device, const std::string& file, const std::string& directory) {
    const auto opened = [&](const std::string& path, int mode) {
        const int fd = open(path.c_str(), mode | O_CLOEXEC);
        if (fd < 0) die(path, errno);
        return fd;
    };
    int pipes[2];
    must("pipe", pipe(pipes));
    close(pipes[1]);
    refused("DEST_ADD, no descriptor", EBADF, [&] { return add(8, -1, 0); });
    refused("DEST_ADD, a number past the last", EINVAL, [&] { return add(4096, opened(file, O_RDWR), 0); });
    refused("DEST_ADD, an unknown flag", EINVAL, [&] { return add(8, opened(file, O_RDWR), DMU_DEST_BLOCK); });
    refused("DEST_ADD, a number that is taken", EEXIST, [&] { return add(disk, opened(file, O_RDWR), 0); });
    refused("DEST_ADD, a directory", EINVAL, [&] { return add(8, opened(directory, O_RDONLY), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, a pipe", EINVAL, [&] { return add(8, pipes[0], DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, a character device", EINVAL, [&] { return add(8, opened("/dev/zero", O_RDWR), 0); });
    refused("DEST_ADD, the channel", EINVAL, [&] { return add(8, dmu_fd(channel), 0); });
    refused("DEST_ADD, only a path", EBADF, [&] { return add(8, opened(file, O_PATH), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, opened for reading", EBADF, [&] { return add(8, opened(file, O_RDONLY), 0); });
    refused("DEST_ADD, opened for writing", EBADF, [&] { return add(8, opened(file, O_WRONLY), DMU_DEST_READ_ONLY); });
    refused("DEST_ADD, the device itself", EINVAL, [&] { return add(8, opened(device, O_RDWR), 0); });
    refused("DEST_ADD, the device itself, only held", EINVAL,
            [&] { return add(8, opened(device, O_RDONLY), DMU_DEST_HOLD); });
    dmu_destination wire{};
    wire.number = 8;
    refused("DEST_GET, an unknown number", ENOENT, [&] { return ioctl(dmu_fd(channel), DMU_DEST_GET, &wire); });
    refused("DEST_FD, an unknown number", ENOENT, [&] { return ioctl(dmu_fd(channel), DMU_DEST_FD, &wire); });
    for (uint32_t number : {8u, ~0u})
        refused("DEST_REMOVE, number " + std::to_string(number), ENOENT,
                [&] { return ioctl(dmu_fd(channel), DMU_DEST_REMOVE, &number); });
    uint32_t number = disk;
    refused("DEST_REMOVE, one that is mapped", EBUSY, [&] { return ioctl(dmu_fd(channel), DMU_DEST_REMOVE, &number); });
}

void refuse_others(const std::string& key) {
    const int dmu = open("/dev/dmu", O_RDWR | O_CLOEXEC);
    if (dmu < 0) die("/dev/dmu", errno);
    struct dmu_attach attach = {};
    snprintf(attach.key, sizeof(attach.key), "%s", key.c_str());
    refused("ATTACH, twice", EBUSY, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.flags = 1u << 31;
    refused("ATTACH, an unknown flag", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.flags = 0;
    memset(attach.key, 'x', sizeof(attach.key));
    refused("ATTACH, a key without an end", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.key[5] = 0;
    refused("ATTACH, a key that is not there", ENOENT, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    attach.key[0] = 0;
    refused("ATTACH, no key", EINVAL, [&] { return ioctl(dmu, DMU_ATTACH, &attach); });
    refused("ATTACH, no argument", EFAULT, [&] { return ioctl(dmu, DMU_ATTACH, nullptr); });
    refused("HELLO, no argument", EFAULT, [&] { return ioctl(dmu, DMU_HELLO, nullptr); });
    refused("an unknown ioctl", ENOTTY, [&] { return ioctl(dmu, DMU_STATE, nullptr); });
    refused("an unknown ioctl of a channel", ENOTTY, [&] { return ioctl(dmu_fd(channel), DMU_HELLO, &attach); });
    for (auto request : {DMU_DEST_ADD, DMU_DEST_GET, DMU_DEST_FD, DMU_DEST_REMOVE, DMU_STATE, DMU_SET})
        refused("ioctl " + std::to_string(request & 0xff) + ", no argument", EFAULT,
                [&] { return ioctl(dmu_fd(channel), request, nullptr); });
    dmu_set set{};
    set.what = 1u << 30;
    refused("SET, something unknown", EINVAL, [&] { return ioctl(dmu_fd(channel), DMU_SET, &set); });
    const dmu_command command = map_command();
    dmu_state found;
    must("seteuid", seteuid(65534));
    const long written = send(command);
    const int write_error = errno;
    const long asked = ioctl(dmu_fd(channel), DMU_STATE, &found);
    const int ask_error = errno;
    must("seteuid", seteuid(0));
    verdict(written < 0 && write_error == EPERM, "a command of somebody else", strerror(write_error));
    verdict(asked < 0 && ask_error == EPERM, "an ioctl of somebody else", strerror(ask_error));
    close(dmu);
}

// What was not told is told to the next read, and what nobody was told the number of is not open.
void refuse_buffers() {
    refused("a read to where nothing can be", EFAULT,
            [] { return read(dmu_fd(channel), unreadable(), sizeof(dmu_event)); });
    const int free_before = dup(0);
    close(free_before);
    const auto page =
        static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    const auto wire = reinterpret_cast<dmu_destination*>(page);
    wire->number = disk;
    must("mprotect", mprotect(page, 4096, PROT_READ));
    refused("DEST_FD, an argument that is read-only", EFAULT,
            [&] { return ioctl(dmu_fd(channel), DMU_DEST_FD, wire); });
    munmap(page, 4096);
    const int free_after = dup(0);
    close(free_after);
    verdict(free_after == free_before, "it leaves no descriptor open", std::to_string(free_before));
}

}  // namespace

void refuse_ioctls(const std::string& key, const std::string& device, const std::string& file,
                   const std::string& directory) {
    refuse_destinations(device, file, directory);
    refuse_others(key);
    refuse_buffers();
}
