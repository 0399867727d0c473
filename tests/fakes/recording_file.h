// SPDX-License-Identifier: GPL-2.0-or-later
// A BlockFile that records what changes it, so that a test can see every state in which
// a host crash could leave the file.
#pragma once

#include <random>
#include <vector>

#include "tests/fakes/memory_file.h"
#include "tests/fakes/wrapped_file.h"

namespace dmu {

// Shared with the test.
class Recording {
public:
    explicit Recording(std::vector<std::byte> start) : start_(std::move(start)) {}

    std::size_t size() const { return steps_.size(); }

    // The file after the first count steps, all of them on the disk.
    std::vector<std::byte> replay(std::size_t count) const;
    // The same after a crash: of what was not synced by then, each sector of each write,
    // and each change of size, is there or not by the toss of a coin.
    std::vector<std::byte> replay_crashed(std::size_t count, std::mt19937_64& random) const;

private:
    friend class RecordingFile;
    enum class Kind { write, sync, allocate, truncate };
    struct Step {
        Kind kind;
        std::uint64_t offset = 0;  // truncate: the new size
        std::uint64_t length = 0;  // allocate
        std::vector<std::byte> data;
    };
    static void perform(const Step& step, std::vector<std::byte>& file);
    static void perform_in_part(const Step& step, std::vector<std::byte>& file, std::mt19937_64& random);

    std::vector<std::byte> start_;
    std::vector<Step> steps_;
};

class RecordingFile final : public WrappedFile {
public:
    RecordingFile(std::unique_ptr<BlockFile> file, std::shared_ptr<Recording> recording)
        : WrappedFile(std::move(file)), recording_(std::move(recording)) {}

    // Only what succeeded is recorded.
    Status write(std::uint64_t offset, std::span<const std::byte> from) override;
    Status sync() override;
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override;
    Status truncate(std::uint64_t size) override;

private:
    std::shared_ptr<Recording> recording_;
};

}  // namespace dmu
