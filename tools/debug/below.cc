// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/below.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace dmu::debug {
namespace {

constexpr std::size_t page = 4096;

// Direct I/O wants aligned memory.
class Aligned {
public:
    explicit Aligned(std::size_t size) : data_(std::aligned_alloc(page, (size + page - 1) / page * page)) {}
    ~Aligned() { std::free(data_); }
    Aligned(const Aligned&) = delete;
    Aligned& operator=(const Aligned&) = delete;
    std::byte* data() { return static_cast<std::byte*>(data_); }

private:
    void* data_;
};

// A limit of a disk's queue; a partition has its disk's.
std::uint64_t queue_limit(dev_t device, const char* name) {
    const std::string base = "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
    for (const char* queue : {"/queue/", "/../queue/"}) {
        std::ifstream file(base + queue + name);
        if (std::uint64_t value = 0; file >> value) return value;
    }
    return 0;
}

}  // namespace

BlockDevice::~BlockDevice() {
    close(fd_);
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::open(const std::string& path) {
    struct stat st {};
    if (stat(path.c_str(), &st) != 0) return system_error("opening " + path);
    if (!S_ISBLK(st.st_mode))
        return Error{Code::invalid, path + " is not a block device; an image is named by its format: raw:" + path};
    const int fd = ::open(path.c_str(), O_RDWR | O_DIRECT | O_EXCL | O_CLOEXEC);
    if (fd < 0) {
        Error error = system_error("opening " + path);
        if (error.code == Code::busy)
            error.message += "; it is mounted or a part of another device: unmount it, and mount what is made over it";
        return error;
    }
    return adopt(path, fd);
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::adopt(const std::string& path, int fd) {
    std::unique_ptr<BlockDevice> device(new BlockDevice(path, fd));
    if (auto status = device->find_shape(); !status) return status.error();
    return device;
}

Status BlockDevice::find_shape() {
    std::uint64_t bytes = 0;
    int logical = 0, read_only = 0;
    unsigned physical = 0;
    struct stat st {};
    if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0 || ioctl(fd_, BLKSSZGET, &logical) != 0 ||
        ioctl(fd_, BLKPBSZGET, &physical) != 0 || ioctl(fd_, BLKROGET, &read_only) != 0 || fstat(fd_, &st) != 0)
        return system_error("asking " + path_ + " for its size");
    shape_.sectors = bytes / sector_bytes;
    shape_.logical = static_cast<unsigned>(logical);
    shape_.physical = physical;
    shape_.read_only = read_only != 0;
    if (queue_limit(st.st_rdev, "discard_max_bytes") != 0)
        shape_.discard = queue_limit(st.st_rdev, "discard_granularity");
    shape_.write_zeroes = queue_limit(st.st_rdev, "write_zeroes_max_bytes") != 0;
    if (shape_.sectors == 0) return Error{Code::invalid, path_ + " is empty"};
    return ok();
}

Error BlockDevice::failed(const std::string& what, std::uint64_t sector) const {
    return system_error(what + " sector " + std::to_string(sector) + " of " + path_);
}

Status BlockDevice::read(std::uint64_t sector, std::span<std::byte> into) {
    Aligned buffer(into.size());
    for (std::size_t at = 0; at < into.size();) {
        const auto got =
            pread(fd_, buffer.data() + at, into.size() - at, static_cast<off_t>(sector * sector_bytes + at));
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = EIO;
        if (got <= 0) return failed("reading", sector);
        at += static_cast<std::size_t>(got);
    }
    std::memcpy(into.data(), buffer.data(), into.size());
    return ok();
}

Status BlockDevice::write(std::uint64_t sector, std::span<const std::byte> data, bool durable) {
    Aligned buffer(data.size());
    std::memcpy(buffer.data(), data.data(), data.size());
    for (std::size_t at = 0; at < data.size();) {
        const iovec part{buffer.data() + at, data.size() - at};
        const auto done =
            pwritev2(fd_, &part, 1, static_cast<off_t>(sector * sector_bytes + at), durable ? RWF_DSYNC : 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return failed("writing", sector);
        at += static_cast<std::size_t>(done);
    }
    return ok();
}

Status BlockDevice::sync() {
    return fdatasync(fd_) == 0 ? ok() : system_error("syncing " + path_);
}

}  // namespace dmu::debug
