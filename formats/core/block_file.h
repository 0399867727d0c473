// SPDX-License-Identifier: GPL-2.0-or-later
// The seam at the operating system: one open image file. Formats do all their
// I/O through it, so that tests can put memory, faults or a recorder behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "result.h"

namespace dmu {

class BlockFile {
public:
    virtual ~BlockFile() = default;

    // For messages only.
    virtual const std::string& name() const = 0;
    // Bytes. Of a block device: its capacity.
    virtual Result<std::uint64_t> size() const = 0;

    // Byte-granular, whole or an error; blocks. What lies past the end reads as zeros.
    virtual Status read(std::uint64_t offset, std::span<std::byte> into) = 0;
    // Past the end: the file grows. Code::no_space where the file system is full.
    virtual Status write(std::uint64_t offset, std::span<const std::byte> from) = 0;
    // All data written before and what is needed to find it is durable.
    virtual Status sync() = 0;
    // Reserves [offset, offset + length) and makes the file at least that long. Fresh
    // space reads as zeros where the result is true, is unknown where it is false.
    virtual Result<bool> allocate(std::uint64_t offset, std::uint64_t length) = 0;
    virtual Status truncate(std::uint64_t size) = 0;

    virtual bool read_only() const = 0;
    // The open descriptor for the kernel target; -1 where there is none (memory).
    virtual int descriptor() const = 0;
    // Bytes: what direct I/O must be aligned to; 0: no direct I/O, everything is buffered.
    virtual std::uint32_t direct_alignment() const = 0;

    // True: a block device; it never grows, and allocate() is only a bounds check.
    virtual bool fixed_size() const { return false; }
    // Bytes of storage in use (less than size() where the file is sparse); for listings.
    virtual std::uint64_t occupied_bytes() const {
        const auto bytes = size();
        return bytes ? *bytes : 0;
    }
    // From now on through the page cache; direct_alignment() becomes 0. For images whose
    // metadata and guest data lie closer together than direct I/O can separate.
    virtual Status go_buffered() { return ok(); }
};

struct OpenMode {
    bool writable = false;
    bool direct = true;  // try O_DIRECT, fall back to buffered where the file system has none
};

// Opens path as it is named (no probing, no creation). Thread safe per object for
// disjoint ranges.
Result<std::unique_ptr<BlockFile>> open_file(const std::string& path, OpenMode mode);
// Takes over an open descriptor (a successor's, from the kernel), and closes it also on an
// error; name is for messages. Turns O_DIRECT on or off on the open file description.
Result<std::unique_ptr<BlockFile>> adopt_file(int descriptor, const std::string& name, OpenMode mode);

}  // namespace dmu
