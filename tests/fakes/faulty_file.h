// SPDX-License-Identifier: GPL-2.0-or-later
// A BlockFile whose nth operation fails, once, or all from it on.
#pragma once

#include "tests/fakes/wrapped_file.h"

namespace dmu {

// Shared with the test: what is to fail, and what was counted.
struct FaultPlan {
    enum Kind : unsigned { reads = 1, writes = 2, syncs = 4, allocations = 8, truncations = 16, all = 31 };

    unsigned kinds = all;                // what is counted
    std::uint64_t fail_at = UINT64_MAX;  // the operation (from 0) that fails
    Code code = Code::io;
    bool tear = false;     // a failing write leaves its first half
    bool lasting = false;  // what comes after it fails too

    std::uint64_t count = 0;
    bool failed = false;
};

class FaultyFile final : public WrappedFile {
public:
    FaultyFile(std::unique_ptr<BlockFile> file, std::shared_ptr<FaultPlan> plan)
        : WrappedFile(std::move(file)), plan_(std::move(plan)) {}

    Status read(std::uint64_t offset, std::span<std::byte> into) override;
    Status write(std::uint64_t offset, std::span<const std::byte> from) override;
    Status sync() override;
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override;
    Status truncate(std::uint64_t size) override;

private:
    bool fails(FaultPlan::Kind kind);
    Error fault(const char* doing) const { return {plan_->code, name() + ": " + doing + " made to fail"}; }

    std::shared_ptr<FaultPlan> plan_;
};

}  // namespace dmu
