// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fakes/faulty_file.h"

namespace dmu {

bool FaultyFile::fails(FaultPlan::Kind kind) {
    if ((plan_->kinds & kind) == 0) return false;
    const auto at = plan_->count++;
    if (at < plan_->fail_at || (at > plan_->fail_at && !plan_->lasting)) return false;
    plan_->failed = true;
    return true;
}

Status FaultyFile::read(std::uint64_t offset, std::span<std::byte> into) {
    if (fails(FaultPlan::reads)) return fault("read");
    return WrappedFile::read(offset, into);
}

Status FaultyFile::write(std::uint64_t offset, std::span<const std::byte> from) {
    if (!fails(FaultPlan::writes)) return WrappedFile::write(offset, from);
    if (plan_->tear) {
        auto half = WrappedFile::write(offset, from.first(from.size() / 1024 * 512));
        if (!half) return half;
    }
    return fault("write");
}

Status FaultyFile::sync() {
    if (fails(FaultPlan::syncs)) return fault("sync");
    return WrappedFile::sync();
}

Result<bool> FaultyFile::allocate(std::uint64_t offset, std::uint64_t length) {
    if (fails(FaultPlan::allocations)) return fault("allocate");
    return WrappedFile::allocate(offset, length);
}

Status FaultyFile::truncate(std::uint64_t size) {
    if (fails(FaultPlan::truncations)) return fault("truncate");
    return WrappedFile::truncate(size);
}

}  // namespace dmu
