// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/tail_allocator.h"

#include <algorithm>

#include "formats/core/units.h"

namespace dmu {

Status TailAllocator::ensure(std::uint64_t bytes) {
    if (end_ - next_ >= bytes) return ok();
    const std::uint64_t missing = bytes - (end_ - next_);
    // A mapper that is killed leaks what it had reserved ahead: no more than an eighth.
    const std::uint64_t step = std::min(step_, std::max(smallest_step, next_ / 8));
    std::uint64_t grow = std::max(align_up(step, unit_), missing);
    while (true) {
        auto zeros = file_.allocate(end_, grow);
        if (zeros) {
            reads_as_zero_ = reads_as_zero_ && *zeros;
            end_ += grow;
            step_ = std::min(step_ * 2, largest_step);
            return ok();
        }
        if (zeros.error().code != Code::no_space || grow == missing) return zeros.error();
        step_ = smallest_step;
        grow = std::max(missing, align_up(grow / 4, unit_));
    }
}

std::uint64_t TailAllocator::take(std::uint64_t bytes) {
    const std::uint64_t place = next_;
    next_ += bytes;
    return place;
}

Status TailAllocator::give_back() {
    if (end_ == next_) return ok();
    const auto size = file_.size();
    if (!size) return size.error();
    // Somebody else's end is not ours to cut.
    if (*size != end_) return ok();
    auto cut = file_.truncate(next_);
    if (cut) end_ = next_;
    return cut;
}

}  // namespace dmu
