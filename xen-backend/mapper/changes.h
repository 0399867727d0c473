// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's change log on its way into the image. The disk's thread only.
#pragma once

#include <dm-userspace.h>

#include <deque>

#include "formats/core/image.h"
#include "xen-backend/mapper/alarms.h"
#include "xen-backend/mapper/opening.h"

namespace dmu {

class Changes {
public:
    Changes(Image& image, const DiskFacts& facts, Alarms& alarms) : image_(image), facts_(facts), alarms_(alarms) {}

    // In stream order. What can't be applied stays in line, with all that follows it.
    void take(const dmu_event& changed);
    // Tries again what is in line.
    void retry();
    // Something is in line: what the image says is not what the kernel did.
    bool is_behind() const { return !line_.empty(); }
    // The last change that is in the image's memory.
    std::uint64_t applied() const { return applied_; }
    // A successor begins where the kernel says that everything is durable.
    void start_at(std::uint64_t sequence) { applied_ = sequence; }

private:
    Status apply(const dmu_event& changed);

    Image& image_;
    const DiskFacts& facts_;
    Alarms& alarms_;
    std::uint64_t applied_ = 0;
    bool raised_ = false;
    std::deque<dmu_event> line_;
};

}  // namespace dmu
