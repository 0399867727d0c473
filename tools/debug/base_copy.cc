// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/base_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace dmu::debug {
namespace {

constexpr std::size_t piece = 1 << 20;

Status copy_to(Below& device, std::uint64_t sectors, const std::string& path, int fd) {
    if (ftruncate(fd, static_cast<off_t>(sectors * sector_bytes)) != 0) return system_error("making " + path);
    std::vector<std::byte> buffer(piece);
    for (std::uint64_t at = 0; at < sectors * sector_bytes; at += piece) {
        const auto part = std::span(buffer).first(std::min<std::uint64_t>(piece, sectors * sector_bytes - at));
        if (auto status = device.read(at / sector_bytes, part); !status) return status;
        if (std::all_of(part.begin(), part.end(), [](std::byte byte) { return byte == std::byte{0}; })) continue;
        if (pwrite(fd, part.data(), part.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(part.size()))
            return system_error("writing " + path);
    }
    return fsync(fd) == 0 ? ok() : system_error("writing " + path);
}

}  // namespace

Status copy_base(Below& device, std::uint64_t sectors, const std::string& path) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return system_error("making " + path + " for what is on the device now");
    const Status status = copy_to(device, sectors, path, fd);
    close(fd);
    if (!status) unlink(path.c_str());
    return status;
}

}  // namespace dmu::debug
