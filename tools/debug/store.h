// SPDX-License-Identifier: GPL-2.0-or-later
// Where the data of requests is kept: the log's own file, or memory. The kernel writes there
// by itself: a store is a destination of the target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "formats/core/result.h"
#include "tools/debug/log.h"

namespace dmu::debug {

// Sectors throughout.
class Store {
public:
    virtual ~Store() = default;
    // Its number as a destination.
    unsigned destination() const { return destination_; }
    void set_destination(unsigned number) { destination_ = number; }
    // A fresh place of so many sectors. Code::no_space.
    virtual Result<std::uint64_t> reserve(std::uint64_t sectors) = 0;
    // The place is not needed any more. A log keeps it all the same.
    virtual void release(std::uint64_t at, std::uint64_t sectors) = 0;
    virtual Status read(std::uint64_t at, std::span<std::byte> into) = 0;
    virtual Status write(std::uint64_t at, std::span<const std::byte> data) = 0;
    virtual int descriptor() const = 0;

private:
    unsigned destination_ = 0;
};

// In the log's file "data". The writer must outlive it.
std::unique_ptr<Store> make_log_store(LogWriter& writer);

// In memory, given back as it is released; at most limit bytes at a time.
Result<std::unique_ptr<Store>> make_memory_store(std::uint64_t limit);

}  // namespace dmu::debug
