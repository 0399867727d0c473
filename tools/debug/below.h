// SPDX-License-Identifier: GPL-2.0-or-later
// The device below, for what the debugger does there itself: torn and held writes, reads
// that are put together. All else the kernel does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "formats/core/result.h"
#include "tools/debug/request.h"

namespace dmu::debug {

class Below {
public:
    virtual ~Below() = default;
    virtual Status read(std::uint64_t sector, std::span<std::byte> into) = 0;
    // durable: as FUA.
    virtual Status write(std::uint64_t sector, std::span<const std::byte> data, bool durable) = 0;
    virtual Status sync() = 0;
};

struct BelowShape {
    std::uint64_t sectors = 0;
    unsigned logical = 512, physical = 512;  // bytes
    std::uint64_t discard = 0;               // granularity in bytes; 0: not offered
    bool write_zeroes = false;
    bool read_only = false;
};

// A block device, opened for nobody else's use meanwhile.
class BlockDevice final : public Below {
public:
    // Code::busy: it is mounted, or in use by another device.
    static Result<std::unique_ptr<BlockDevice>> open(const std::string& path);
    // One that is open already; fd is taken over.
    static Result<std::unique_ptr<BlockDevice>> adopt(const std::string& path, int fd);
    ~BlockDevice() override;
    int descriptor() const { return fd_; }
    const std::string& path() const { return path_; }
    const BelowShape& shape() const { return shape_; }

    Status read(std::uint64_t sector, std::span<std::byte> into) override;
    Status write(std::uint64_t sector, std::span<const std::byte> data, bool durable) override;
    Status sync() override;

private:
    BlockDevice(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
    Status find_shape();
    Error failed(const std::string& what, std::uint64_t sector) const;

    const std::string path_;
    const int fd_;
    BelowShape shape_;
};

}  // namespace dmu::debug
