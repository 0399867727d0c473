// SPDX-License-Identifier: GPL-2.0-or-later
// A BlockFile in memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/core/block_file.h"

namespace dmu {

// What a file holds; outlives the objects that have it open, so that a test can "reopen".
struct MemoryStore {
    std::vector<std::byte> bytes;
    std::uint64_t capacity = UINT64_MAX;  // where the "file system" is full
    bool fixed_size = false;              // a "block device"
    bool zeroing = true;                  // false: fresh space holds garbage
};

class MemoryFile final : public BlockFile {
public:
    MemoryFile(std::shared_ptr<MemoryStore> store, std::string name, bool writable = true)
        : store_(std::move(store)), name_(std::move(name)), writable_(writable) {}

    const std::string& name() const override { return name_; }
    Result<std::uint64_t> size() const override { return std::uint64_t{store_->bytes.size()}; }
    Status read(std::uint64_t offset, std::span<std::byte> into) override;
    Status write(std::uint64_t offset, std::span<const std::byte> from) override;
    Status sync() override { return ok(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override;
    Status truncate(std::uint64_t size) override;
    bool read_only() const override { return !writable_; }
    int descriptor() const override { return -1; }
    std::uint32_t direct_alignment() const override { return 0; }
    bool fixed_size() const override { return store_->fixed_size; }

private:
    Status grow(std::uint64_t size, std::byte with);

    std::shared_ptr<MemoryStore> store_;
    std::string name_;
    bool writable_;
};

}  // namespace dmu
