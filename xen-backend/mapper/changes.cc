// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/changes.h"

#include "formats/core/units.h"

namespace dmu {

void Changes::take(const dmu_event& changed) {
    line_.push_back(changed);
    if (line_.size() == 1) retry();
}

void Changes::retry() {
    while (!line_.empty()) {
        if (Status applied = apply(line_.front()); !applied) {
            alarms_.raise("metadata", applied.error().message);
            raised_ = true;
            return;
        }
        applied_ = line_.front().sequence;
        line_.pop_front();
    }
    if (raised_) alarms_.clear("metadata");
    raised_ = false;
}

Status Changes::apply(const dmu_event& changed) {
    Change change;
    change.kind = changed.kind == DMU_KIND_LINEAR ? ChangeKind::data
                  : changed.kind == DMU_KIND_ZERO ? ChangeKind::zero
                                                  : ChangeKind::lost;
    change.start = {changed.start * sector_size};
    change.length = changed.length * sector_size;
    // The device's end may cut the last grain; the image knows only whole ones.
    if (changed.start + changed.length == facts_.sectors && change.kind != ChangeKind::lost) {
        const std::uint64_t grain = static_cast<std::uint64_t>(facts_.grain) * sector_size;
        change.length = align_up(change.start.bytes + change.length, grain) - change.start.bytes;
    }
    if (change.kind != ChangeKind::zero) {
        if (changed.destination >= files_per_layer) {
            return Error{Code::invalid, "the kernel reports a change in destination " +
                                            std::to_string(changed.destination) +
                                            ", which is no file of the top image"};
        }
        change.file = destination_file(changed.destination);
        change.host = {changed.physical * sector_size};
    }
    // A successor's image does not know yet what its predecessor recorded.
    if (image_.write_protected()) {
        if (Status begun = image_.begin_writing(); !begun) return begun;
    }
    return image_.apply(change);
}

}  // namespace dmu
