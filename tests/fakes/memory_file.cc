// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fakes/memory_file.h"

#include <algorithm>

namespace dmu {

Status MemoryFile::grow(std::uint64_t size, std::byte with) {
    if (size <= store_->bytes.size()) return ok();
    if (store_->fixed_size || size > store_->capacity) return Error{Code::no_space, name_ + ": no space"};
    store_->bytes.resize(size, with);
    return ok();
}

Status MemoryFile::read(std::uint64_t offset, std::span<std::byte> into) {
    std::fill(into.begin(), into.end(), std::byte{0});
    if (offset >= store_->bytes.size()) return ok();
    const auto bytes = std::min<std::uint64_t>(into.size(), store_->bytes.size() - offset);
    std::copy_n(store_->bytes.begin() + static_cast<std::ptrdiff_t>(offset), bytes, into.begin());
    return ok();
}

Status MemoryFile::write(std::uint64_t offset, std::span<const std::byte> from) {
    if (!writable_) return Error{Code::denied, name_ + ": read-only"};
    auto grown = grow(offset + from.size(), std::byte{0});
    if (!grown) return grown;
    std::copy(from.begin(), from.end(), store_->bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    return ok();
}

Result<bool> MemoryFile::allocate(std::uint64_t offset, std::uint64_t length) {
    if (!writable_) return Error{Code::denied, name_ + ": read-only"};
    auto grown = grow(offset + length, store_->zeroing ? std::byte{0} : std::byte{0xdb});
    if (!grown) return grown.error();
    return store_->zeroing;
}

Status MemoryFile::truncate(std::uint64_t size) {
    if (!writable_) return Error{Code::denied, name_ + ": read-only"};
    if (size <= store_->bytes.size()) {
        store_->bytes.resize(size);
        return ok();
    }
    return grow(size, std::byte{0});
}

}  // namespace dmu
