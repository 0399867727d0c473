// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace dmu::debug {
namespace {

constexpr std::uint64_t page_sectors = 4096 / sector_bytes;

class LogStore final : public Store {
public:
    explicit LogStore(LogWriter& writer) : writer_(writer) {}
    Result<std::uint64_t> reserve(std::uint64_t sectors) override {
        const auto offset = writer_.reserve(sectors);
        if (!offset) return offset.error();
        return *offset / sector_bytes;
    }
    void release(std::uint64_t, std::uint64_t) override {}
    Status read(std::uint64_t at, std::span<std::byte> into) override {
        return writer_.read_data(at * sector_bytes, into);
    }
    Status write(std::uint64_t at, std::span<const std::byte> data) override {
        return writer_.write_data(at * sector_bytes, data);
    }
    int descriptor() const override { return writer_.data_descriptor(); }

private:
    LogWriter& writer_;
};

// Fresh places follow each other through a huge sparse file; what is released becomes a
// hole. No place is used twice, so that nothing late can damage another's data.
class MemoryStore final : public Store {
public:
    MemoryStore(int fd, std::uint64_t limit) : fd_(fd), limit_(limit / sector_bytes) {}
    ~MemoryStore() override { close(fd_); }

    Result<std::uint64_t> reserve(std::uint64_t sectors) override {
        const std::uint64_t whole = (sectors + page_sectors - 1) / page_sectors * page_sectors;
        if (whole > limit_ - used_ || whole > file_bytes / sector_bytes - next_)
            return Error{Code::no_space, "the memory for held data is full (" +
                                             std::to_string(limit_ * sector_bytes >> 20) +
                                             " MiB; --memory sets how much there may be)"};
        const std::uint64_t at = next_;
        next_ += whole;
        used_ += whole;
        return at;
    }

    void release(std::uint64_t at, std::uint64_t sectors) override {
        const std::uint64_t whole = (sectors + page_sectors - 1) / page_sectors * page_sectors;
        used_ -= whole;
        (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at * sector_bytes),
                        static_cast<off_t>(whole * sector_bytes));
    }

    Status read(std::uint64_t at, std::span<std::byte> into) override {
        const auto got = pread(fd_, into.data(), into.size(), static_cast<off_t>(at * sector_bytes));
        return got == static_cast<ssize_t>(into.size()) ? ok() : system_error("reading held data");
    }

    Status write(std::uint64_t at, std::span<const std::byte> data) override {
        const auto done = pwrite(fd_, data.data(), data.size(), static_cast<off_t>(at * sector_bytes));
        return done == static_cast<ssize_t>(data.size()) ? ok() : system_error("keeping data in memory");
    }

    int descriptor() const override { return fd_; }

    static constexpr std::uint64_t file_bytes = 1ull << 52;

private:
    const int fd_;
    const std::uint64_t limit_;
    std::uint64_t used_ = 0, next_ = 0;
};

}  // namespace

std::unique_ptr<Store> make_log_store(LogWriter& writer) {
    return std::make_unique<LogStore>(writer);
}

Result<std::unique_ptr<Store>> make_memory_store(std::uint64_t limit) {
    const int fd = memfd_create("dmu-debug", MFD_CLOEXEC);
    if (fd < 0) return system_error("making a file in memory for held data");
    if (ftruncate(fd, static_cast<off_t>(MemoryStore::file_bytes)) != 0) {
        const Error error = system_error("making room in memory for held data");
        close(fd);
        return error;
    }
    return std::unique_ptr<Store>(std::make_unique<MemoryStore>(fd, limit));
}

}  // namespace dmu::debug
