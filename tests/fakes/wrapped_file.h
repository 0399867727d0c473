// SPDX-License-Identifier: GPL-2.0-or-later
// A BlockFile over another; what a fake does not change goes through.
#pragma once

#include <memory>

#include "formats/core/block_file.h"

namespace dmu {

class WrappedFile : public BlockFile {
public:
    explicit WrappedFile(std::unique_ptr<BlockFile> file) : file_(std::move(file)) {}

    const std::string& name() const override { return file_->name(); }
    Result<std::uint64_t> size() const override { return file_->size(); }
    Status read(std::uint64_t offset, std::span<std::byte> into) override { return file_->read(offset, into); }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override { return file_->write(offset, from); }
    Status sync() override { return file_->sync(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        return file_->allocate(offset, length);
    }
    Status truncate(std::uint64_t size) override { return file_->truncate(size); }
    bool read_only() const override { return file_->read_only(); }
    int descriptor() const override { return file_->descriptor(); }
    std::uint32_t direct_alignment() const override { return file_->direct_alignment(); }
    bool fixed_size() const override { return file_->fixed_size(); }
    std::uint64_t occupied_bytes() const override { return file_->occupied_bytes(); }
    Status go_buffered() override { return file_->go_buffered(); }

protected:
    std::unique_ptr<BlockFile> file_;
};

}  // namespace dmu
