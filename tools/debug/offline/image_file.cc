// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/image_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

namespace dmu::debug {

namespace {

constexpr std::uint64_t piece_bytes = 1 << 20;

}  // namespace

Result<ImageFile> ImageFile::open(const std::string& path, Mode mode) {
    struct ::stat status {};
    const bool there = ::stat(path.c_str(), &status) == 0;
    const bool device = there && S_ISBLK(status.st_mode);
    if (there && !device && !S_ISREG(status.st_mode))
        return Error{Code::invalid, path + " is neither a file nor a block device"};
    int flags = (mode == Mode::read ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    if (mode == Mode::create && !device) flags |= O_CREAT | O_TRUNC;
    // A mounted device is not to be written under its file system.
    if (mode != Mode::read && device) flags |= O_EXCL;
    const int descriptor = ::open(path.c_str(), flags, 0600);
    if (descriptor < 0) return system_error("cannot open " + path);
    ImageFile file(path, descriptor);
    file.device_ = device;
    std::uint64_t bytes = there && mode != Mode::create ? static_cast<std::uint64_t>(status.st_size) : 0;
    if (device && ::ioctl(descriptor, BLKGETSIZE64, &bytes) != 0)
        return system_error("cannot learn the size of " + path);
    file.sectors_ = bytes / sector_bytes;
    return file;
}

ImageFile::~ImageFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

ImageFile::ImageFile(ImageFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      device_(other.device_),
      sectors_(other.sectors_) {
}

Status ImageFile::read(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
        const auto done = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return system_error("cannot read " + path_);
        if (done == 0) {
            std::fill(into.begin(), into.end(), std::byte{});
            break;
        }
        into = into.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return ok();
}

Status ImageFile::write(std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const auto done = ::pwrite(descriptor_, from.data(), from.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return system_error("cannot write to " + path_);
        from = from.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return ok();
}

Status ImageFile::zero(std::uint64_t offset, std::uint64_t length) {
    constexpr int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(descriptor_, hole, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) return ok();
    const std::vector<std::byte> zeros(std::min(length, piece_bytes));
    while (length > 0) {
        const auto piece = std::min<std::uint64_t>(length, zeros.size());
        if (auto done = write(offset, std::span(zeros).first(piece)); !done) return done;
        offset += piece;
        length -= piece;
    }
    return ok();
}

Status ImageFile::resize(std::uint64_t sectors) {
    if (::ftruncate(descriptor_, static_cast<off_t>(sectors * sector_bytes)) != 0)
        return system_error("cannot make " + path_ + " " + std::to_string(sectors) + " sectors long");
    sectors_ = sectors;
    return ok();
}

Status ImageFile::sync() {
    return ::fdatasync(descriptor_) == 0 ? ok() : system_error("cannot sync " + path_);
}

Status ImageFile::copy_of(const ImageFile& other) {
    if (device_ && sectors_ < other.sectors_)
        return Error{Code::invalid, path_ + " has " + std::to_string(sectors_) + " sectors; " + other.path_ +
                                        ", of which it is to be a copy, has " + std::to_string(other.sectors_)};
    if (!device_ && ::ioctl(descriptor_, FICLONE, other.descriptor_) == 0) {
        sectors_ = other.sectors_;
        return ok();
    }
    if (!device_) {
        if (auto done = resize(0); !done) return done;
        if (auto done = resize(other.sectors_); !done) return done;
    }
    return copy_data(other);
}

Status ImageFile::copy_data(const ImageFile& other) {
    const auto end = other.sectors_ * sector_bytes;
    std::vector<std::byte> buffer(piece_bytes);
    for (std::uint64_t at = 0; at < end;) {
        // Devices have no holes: all of it is data, but zeros need not be written to a fresh file.
        const auto data = ::lseek(other.descriptor_, static_cast<off_t>(at), SEEK_DATA);
        const auto next = data >= 0 ? static_cast<std::uint64_t>(data) : errno == ENXIO ? end : at;
        if (device_ && next > at)
            if (auto done = zero(at, next - at); !done) return done;
        at = next;
        const auto piece = std::span(buffer).first(std::min(piece_bytes, end - at));
        if (piece.empty()) break;
        if (auto done = other.read(at, piece); !done) return done;
        const bool zeros = std::all_of(piece.begin(), piece.end(), [](std::byte b) { return b == std::byte{}; });
        if (device_ || !zeros)
            if (auto done = write(at, piece); !done) return done;
        at += piece.size();
    }
    return ok();
}

Status write_contents(const LogReader& log, const Contents& contents, ImageFile& image) {
    if (image.sectors() < log.header().sectors)
        return Error{Code::invalid, image.path() + " has " + std::to_string(image.sectors()) +
                                        " sectors, the device of the log " + log.directory() + " had " +
                                        std::to_string(log.header().sectors) + ": it is not a copy of it"};
    std::vector<std::byte> buffer(piece_bytes);
    for (const auto& piece : contents.pieces()) {
        const auto length = piece.sectors * sector_bytes;
        if (piece.zeros()) {
            if (auto done = image.zero(piece.sector * sector_bytes, length); !done) return done;
            continue;
        }
        for (std::uint64_t at = 0; at < length; at += piece_bytes) {
            const auto part = std::span(buffer).first(std::min(piece_bytes, length - at));
            if (auto done = log.read_data(*piece.record, piece.from + at, part); !done) return done;
            if (auto done = image.write(piece.sector * sector_bytes + at, part); !done) return done;
        }
    }
    return ok();
}

Result<ImageFile> make_image(const LogReader& log, const Contents& contents, const std::string& base,
                             const std::string& path) {
    auto from = ImageFile::open(base, ImageFile::Mode::read);
    if (!from) return from.error();
    std::error_code ignored;
    if (std::filesystem::equivalent(base, path, ignored))
        return Error{Code::invalid, path + " is the base itself, which every replay begins with: name another file"};
    auto image = ImageFile::open(path, ImageFile::Mode::create);
    if (!image) return image.error();
    if (auto done = image->copy_of(*from); !done) return done.error();
    if (auto done = write_contents(log, contents, *image); !done) return done.error();
    return image;
}

}  // namespace dmu::debug
