// SPDX-License-Identifier: GPL-2.0-or-later
// BlockFile over a descriptor.
//
// Metadata is byte-granular, direct I/O is not: ranges are widened to the alignment in
// a bounce buffer, and writes read what they widen into first. That must never touch
// bytes that somebody else (the kernel target) writes meanwhile; formats keep metadata
// and guest data in different aligned blocks, or call go_buffered().
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include "formats/core/block_file.h"
#include "formats/core/units.h"

namespace dmu {

namespace {

constexpr std::size_t bounce_limit = 1 << 20;
constexpr std::uint32_t alignment_limit = 4096;
constexpr std::uint64_t file_limit = std::numeric_limits<off_t>::max() - bounce_limit;

struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using Bounce = std::unique_ptr<std::byte, Free>;

Bounce make_bounce(std::size_t bytes) {
    return Bounce(static_cast<std::byte*>(std::aligned_alloc(alignment_limit, align_up(bytes, alignment_limit))));
}

// The thread's, which keeps it: good until the thread's next call; nullptr: there is no
// memory. glibc before 2.38 does not find the room that an aligned block left, and a heap
// that may not be swapped grew by one with each write.
std::byte* bounce_of_thread(std::size_t bytes) {
    thread_local Bounce kept;
    thread_local std::size_t kept_bytes = 0;
    if (bytes > kept_bytes) {
        kept.reset();
        kept = make_bounce(std::bit_ceil(bytes));
        kept_bytes = kept ? std::bit_ceil(bytes) : 0;
    }
    return kept.get();
}

class PosixFile final : public BlockFile {
public:
    PosixFile(int descriptor, std::string name, bool writable)
        : fd_(descriptor), name_(std::move(name)), writable_(writable) {}
    ~PosixFile() override { ::close(fd_); }
    PosixFile(const PosixFile&) = delete;
    PosixFile& operator=(const PosixFile&) = delete;

    // Once, before use: what kind of file, and whether it has direct I/O.
    Status prepare(bool direct);

    const std::string& name() const override { return name_; }
    Result<std::uint64_t> size() const override;
    Status read(std::uint64_t offset, std::span<std::byte> into) override;
    Status write(std::uint64_t offset, std::span<const std::byte> from) override;
    Status sync() override;
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override;
    Status truncate(std::uint64_t size) override;
    bool read_only() const override { return !writable_; }
    int descriptor() const override { return fd_; }
    std::uint32_t direct_alignment() const override { return alignment_; }
    bool fixed_size() const override { return device_; }
    std::uint64_t occupied_bytes() const override;
    Status go_buffered() override;

private:
    Error failed(const char* doing, std::uint64_t offset, int number = errno) const;
    Status check_bounds(const char* doing, std::uint64_t offset, std::uint64_t length) const;
    bool is_aligned(std::uint64_t offset, const void* memory, std::size_t length) const;
    Status read_plain(std::uint64_t offset, std::span<std::byte> into);
    Status write_plain(std::uint64_t offset, std::span<const std::byte> from);
    Status write_widened(std::uint64_t offset, std::span<const std::byte> from);
    Result<bool> write_zeros(std::uint64_t offset, std::uint64_t length);
    std::uint32_t find_alignment() const;
    bool has_data_checksums() const;

    const int fd_;
    const std::string name_;
    const bool writable_;
    bool device_ = false;
    std::atomic<std::uint32_t> alignment_ = 0;
    std::recursive_mutex widening_;  // one read-modify-write, or change of size, at a time
};

Error PosixFile::failed(const char* doing, std::uint64_t offset, int number) const {
    return system_error(std::string(doing) + " '" + name_ + "' at byte " + std::to_string(offset), number);
}

Status PosixFile::check_bounds(const char* doing, std::uint64_t offset, std::uint64_t length) const {
    if (length > file_limit || offset > file_limit - length) return failed(doing, offset, EFBIG);
    return ok();
}

bool PosixFile::is_aligned(std::uint64_t offset, const void* memory, std::size_t length) const {
    const std::uint32_t unit = alignment_;
    if (unit == 0) return true;
    return offset % unit == 0 && length % unit == 0 && reinterpret_cast<std::uintptr_t>(memory) % unit == 0;
}

// btrfs sums what it reads from the writer's memory, which a guest may change meanwhile.
bool PosixFile::has_data_checksums() const {
    constexpr long btrfs_magic = 0x9123683e;
    struct statfs system {};
    if (::fstatfs(fd_, &system) != 0 || static_cast<long>(system.f_type) != btrfs_magic) return false;
    int flags = 0;
    return ::ioctl(fd_, FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_NOCOW_FL) == 0;
}

// The smallest alignment at which a direct read is taken; 0: none is.
std::uint32_t PosixFile::find_alignment() const {
    if (device_) {
        int logical = 0;
        if (::ioctl(fd_, BLKSSZGET, &logical) == 0 && logical >= 512) return static_cast<std::uint32_t>(logical);
    }
#ifdef STATX_DIOALIGN
    struct statx status {};
    if (::statx(fd_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 && (status.stx_mask & STATX_DIOALIGN))
        return status.stx_dio_offset_align == 0
                   ? 0
                   : std::max({status.stx_dio_offset_align, status.stx_dio_mem_align, 512u});
#endif
    struct stat file {};
    // An empty file takes any alignment, and tells nothing.
    if (::fstat(fd_, &file) == 0 && file.st_size == 0) return alignment_limit;
    auto* const bounce = bounce_of_thread(alignment_limit);
    for (std::uint32_t unit = 512; unit <= alignment_limit; unit *= 2)
        if (bounce && ::pread(fd_, bounce, unit, 0) >= 0) return unit;
    return 0;
}

Status PosixFile::prepare(bool direct) {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) return system_error("look at '" + name_ + "'");
    device_ = S_ISBLK(status.st_mode);
    if (!device_ && !S_ISREG(status.st_mode))
        return Error{Code::invalid, "'" + name_ + "' is neither a regular file nor a block device"};
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0) return system_error("look at the flags of '" + name_ + "'");
    if (writable_ && (flags & O_ACCMODE) != O_RDWR)
        return Error{Code::denied, "'" + name_ + "' is not open for reading and writing"};
    const int wanted = flags & ~(O_NONBLOCK | O_DIRECT);
    if (direct && !has_data_checksums() && ::fcntl(fd_, F_SETFL, wanted | O_DIRECT) == 0) {
        const auto unit = find_alignment();
        alignment_ = unit <= alignment_limit ? unit : 0;
        if (alignment_ != 0) {
            // As long as the cache has pages of it, each direct write looks through them: the kernel target's too.
            (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
            return ok();
        }
    }
    if (::fcntl(fd_, F_SETFL, wanted) != 0) return system_error("set the flags of '" + name_ + "'");
    return ok();
}

Status PosixFile::go_buffered() {
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0 || ::fcntl(fd_, F_SETFL, flags & ~O_DIRECT) != 0)
        return system_error("turn direct I/O off on '" + name_ + "'");
    alignment_ = 0;
    return ok();
}

Result<std::uint64_t> PosixFile::size() const {
    if (device_) {
        std::uint64_t bytes = 0;
        if (::ioctl(fd_, BLKGETSIZE64, &bytes) != 0) return system_error("ask for the size of '" + name_ + "'");
        return bytes;
    }
    struct stat status {};
    if (::fstat(fd_, &status) != 0) return system_error("ask for the size of '" + name_ + "'");
    return static_cast<std::uint64_t>(status.st_size);
}

std::uint64_t PosixFile::occupied_bytes() const {
    struct stat status {};
    if (!device_ && ::fstat(fd_, &status) == 0) return static_cast<std::uint64_t>(status.st_blocks) * 512;
    const auto bytes = size();
    return bytes ? *bytes : 0;
}

// What is aligned already, or buffered. The end of the file reads as zeros.
Status PosixFile::read_plain(std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = ::pread(fd_, into.data(), into.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed("read", offset);
        const auto bytes = static_cast<std::size_t>(got);
        // Direct I/O ends within a block only at the end of the file.
        const bool at_end = bytes == 0 || (alignment_ != 0 && bytes % alignment_ != 0);
        if (at_end) {
            std::fill(into.begin() + got, into.end(), std::byte{0});
            return ok();
        }
        into = into.subspan(bytes);
        offset += bytes;
    }
    return ok();
}

Status PosixFile::read(std::uint64_t offset, std::span<std::byte> into) {
    auto bounds = check_bounds("read", offset, into.size());
    if (!bounds) return bounds;
    if (is_aligned(offset, into.data(), into.size())) return read_plain(offset, into);
    const std::uint32_t unit = std::max<std::uint32_t>(alignment_, 512);
    auto* const bounce = bounce_of_thread(std::min(bounce_limit, align_up(into.size(), unit) + unit));
    if (!bounce) return failed("read", offset, ENOMEM);
    while (!into.empty()) {
        const std::size_t head = offset % unit;
        const std::size_t bytes = std::min(into.size(), bounce_limit - head);
        auto done = read_plain(offset - head, {bounce, align_up(head + bytes, unit)});
        if (!done) return done;
        std::memcpy(into.data(), bounce + head, bytes);
        into = into.subspan(bytes);
        offset += bytes;
    }
    return ok();
}

Status PosixFile::write_plain(std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const ssize_t put = ::pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return failed("write", offset);
        if (put == 0) return failed("write", offset, EIO);
        from = from.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return ok();
}

Status PosixFile::write_widened(std::uint64_t offset, std::span<const std::byte> from) {
    const std::scoped_lock lock(widening_);
    const auto old_size = size();
    if (!old_size) return old_size.error();
    const std::uint64_t end = offset + from.size();
    const std::uint32_t unit = std::max<std::uint32_t>(alignment_, 512);
    auto* const bounce = bounce_of_thread(std::min(bounce_limit, align_up(from.size(), unit) + unit));
    if (!bounce) return failed("write", offset, ENOMEM);
    std::uint64_t written_end = 0;
    while (!from.empty()) {
        const std::size_t head = offset % unit;
        const std::size_t bytes = std::min(from.size(), bounce_limit - head);
        const std::span<std::byte> wide(bounce, align_up(head + bytes, unit));
        const std::uint64_t wide_start = offset - head;
        if (head != 0) {
            auto done = read_plain(wide_start, wide.first(unit));
            if (!done) return done;
        }
        if ((head + bytes) % unit != 0 && (head == 0 || wide.size() > unit)) {
            auto done = read_plain(wide_start + wide.size() - unit, wide.last(unit));
            if (!done) return done;
        }
        std::memcpy(wide.data() + head, from.data(), bytes);
        auto done = write_plain(wide_start, wide);
        if (!done) return done;
        written_end = wide_start + wide.size();
        from = from.subspan(bytes);
        offset += bytes;
    }
    const std::uint64_t wanted = std::max(*old_size, end);
    if (!device_ && written_end > wanted && ::ftruncate(fd_, static_cast<off_t>(wanted)) != 0)
        return failed("cut the padding of", wanted);
    return ok();
}

Status PosixFile::write(std::uint64_t offset, std::span<const std::byte> from) {
    auto bounds = check_bounds("write", offset, from.size());
    if (!bounds) return bounds;
    if (from.empty()) return ok();
    if (device_) {
        const auto bytes = size();
        if (!bytes) return bytes.error();
        if (offset + from.size() > *bytes) return failed("write past the end of", offset, ENOSPC);
    }
    if (!is_aligned(offset, from.data(), from.size())) return write_widened(offset, from);
    const auto bytes = size();
    if (!bytes) return bytes.error();
    if (offset + from.size() <= *bytes) return write_plain(offset, from);
    const std::scoped_lock lock(widening_);
    return write_plain(offset, from);
}

Status PosixFile::sync() {
    if (::fdatasync(fd_) != 0) return system_error("sync '" + name_ + "'");
    return ok();
}

// Where the file system can't reserve: written zeros are reserved for certain.
Result<bool> PosixFile::write_zeros(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t end = offset + length;
    const auto old_size = size();
    if (!old_size) return old_size.error();
    const std::uint32_t unit = std::max<std::uint32_t>(alignment_, 512);
    // The block in which the file ends now is its own already.
    const std::uint64_t start = std::max(offset, std::min(end, align_up(*old_size, unit)));
    if (end > *old_size && ::ftruncate(fd_, static_cast<off_t>(end)) != 0) return failed("extend", end);
    const auto zeros = make_bounce(bounce_limit);
    if (!zeros) return failed("reserve space in", offset, ENOMEM);
    std::memset(zeros.get(), 0, bounce_limit);
    for (std::uint64_t at = start; at < end;) {
        const std::size_t bytes = std::min<std::uint64_t>(end - at, bounce_limit);
        auto done = is_aligned(at, zeros.get(), bytes) ? write_plain(at, {zeros.get(), bytes})
                                                       : write_widened(at, {zeros.get(), bytes});
        if (!done) return done.error();
        at += bytes;
    }
    return true;
}

Result<bool> PosixFile::allocate(std::uint64_t offset, std::uint64_t length) {
    auto bounds = check_bounds("reserve space in", offset, length);
    if (!bounds) return bounds.error();
    const auto old_size = size();
    if (!old_size) return old_size.error();
    if (device_) {
        if (offset + length > *old_size) return failed("reserve space in", offset, ENOSPC);
        return false;
    }
    if (length == 0) return true;
    const std::scoped_lock lock(widening_);
    int result = 0;
    do {
        result = ::fallocate(fd_, 0, static_cast<off_t>(offset), static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    if (result == 0) return true;
    Result<bool> outcome = failed("reserve space in", offset);
    if (errno == EOPNOTSUPP || errno == ENOSYS) outcome = write_zeros(offset, length);
    // A half-made reservation must not keep space from others, nor move the end of the file.
    if (!outcome && offset >= *old_size) (void)!::ftruncate(fd_, static_cast<off_t>(*old_size));
    return outcome;
}

Status PosixFile::truncate(std::uint64_t size) {
    if (device_) return Error{Code::unsupported, "'" + name_ + "' is a block device: it can't be resized"};
    if (size > file_limit) return failed("resize", size, EFBIG);
    const std::scoped_lock lock(widening_);
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) return failed("resize", size);
    return ok();
}

}  // namespace

Result<std::unique_ptr<BlockFile>> adopt_file(int descriptor, const std::string& name, OpenMode mode) {
    auto file = std::make_unique<PosixFile>(descriptor, name, mode.writable);
    auto prepared = file->prepare(mode.direct);
    if (!prepared) return prepared.error();
    return std::unique_ptr<BlockFile>(std::move(file));
}

Result<std::unique_ptr<BlockFile>> open_file(const std::string& path, OpenMode mode) {
    // O_NONBLOCK: a FIFO must not block before it is refused.
    const int flags = (mode.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    const int descriptor = ::open(path.c_str(), flags);
    if (descriptor < 0)
        return system_error(std::string("open '") + path + "' for " + (mode.writable ? "writing" : "reading"));
    return adopt_file(descriptor, path, mode);
}

}  // namespace dmu
