// SPDX-License-Identifier: GPL-2.0-or-later
// Space that is given out before anybody knows what for.
//
// Whatever clusters of a lease are used for, the L2 tables that they may need have their
// places: each may be the first of its table, so there is a spare one for each, up to the
// number of tables that the image lacks. Nothing of a lease is on disk but the file's size.
#include <algorithm>

#include "formats/core/units.h"
#include "formats/qcow/qcow_image.h"

namespace dmu::qcow {

// How many more spare tables a lease of so many bytes wants.
std::uint64_t QcowImage::spares_missing(std::uint64_t length) const {
    const std::uint64_t to_come = l1_.size() - table_offsets_.size();
    const std::uint64_t wanted = std::min(to_come, (leased_bytes_ + length) / cluster_bytes());
    return wanted > spare_tables_.size() ? wanted - spare_tables_.size() : 0;
}

Result<Place> QcowImage::reserve_any(std::uint64_t bytes) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    auto length = std::max(align_down(bytes, cluster_bytes()), cluster_bytes());
    if (!free_.empty()) length = std::min(length, free_.begin()->second.length);
    const auto needed = [&] { return spares_missing(length) * header_.l2_space() + (free_.empty() ? length : 0); };
    auto enough = tail_.ensure(needed());
    while (!enough && enough.error().code == Code::no_space && length > cluster_bytes()) {
        length = align_up(length / 2, cluster_bytes());
        enough = tail_.ensure(needed());
    }
    if (!enough) return enough.error();
    for (auto count = spares_missing(length); count != 0; count--)
        spare_tables_.push_back(tail_.take(header_.l2_space()));
    const auto place =
        free_.empty() ? Place{{}, length, 0, {tail_.take(length)}, tail_.reads_as_zero()} : take_free(length);
    leased_[place.host.bytes] = length;
    leased_bytes_ += length;
    return place;
}

Place QcowImage::take_free(std::uint64_t length) {
    const auto first = free_.begin();
    const auto [start, space] = *first;
    free_.erase(first);
    if (space.length > length) free_[start + length] = {space.length - length, space.reads_as_zero};
    return {{}, length, 0, {start}, space.reads_as_zero};
}

// Whether all of it was leased, and reported used by nobody yet.
bool QcowImage::use_lease(std::uint64_t start, std::uint64_t length) {
    auto lease = leased_.upper_bound(start);
    if (lease == leased_.begin()) return false;
    --lease;
    const auto [lease_start, lease_length] = *lease;
    const auto end = start + length, lease_end = lease_start + lease_length;
    if (end > lease_end) return false;
    leased_.erase(lease);
    if (lease_start < start) leased_[lease_start] = start - lease_start;
    if (end < lease_end) leased_[end] = lease_end - end;
    leased_bytes_ -= length;
    return true;
}

Status QcowImage::give_back(const Place& unused) {
    const auto start = unused.host.bytes;
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (unused.file != 0 || unused.length == 0 || unused.length % cluster_bytes() != 0)
        return error(Code::invalid, "what is given back is not of whole clusters");
    for (std::uint64_t done = 0; done < unused.length; done += cluster_bytes()) {
        const auto fault = fault_of_data(start + done, tail_.next());
        if (!fault.empty())
            return error(Code::invalid, "what is given back, at byte " + std::to_string(start + done) + ", " + fault);
    }
    // Adjoining leases may come back as one.
    for (std::uint64_t done = 0; done < unused.length; done += cluster_bytes())
        (void)use_lease(start + done, cluster_bytes());
    add_free(start, unused.length, unused.reads_as_zero);
    return ok();
}

void QcowImage::add_free(std::uint64_t start, std::uint64_t length, bool reads_as_zero) {
    auto next = free_.lower_bound(start);
    if (next != free_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second.length == start && before->second.reads_as_zero == reads_as_zero) {
            start = before->first;
            length += before->second.length;
            free_.erase(before);
        }
    }
    next = free_.lower_bound(start);
    if (next != free_.end() && start + length == next->first && next->second.reads_as_zero == reads_as_zero) {
        length += next->second.length;
        free_.erase(next);
    }
    free_[start] = {length, reads_as_zero};
}

// At a clean end: what was given back, and spare tables, as far as they end the file.
void QcowImage::put_back_tail() {
    std::map<std::uint64_t, std::uint64_t> unused;
    for (const auto& [start, space] : free_) unused[start] = space.length;
    for (const auto start : spare_tables_) unused[start] = header_.l2_space();
    while (!unused.empty()) {
        const auto last = std::prev(unused.end());
        if (last->first + last->second != tail_.next()) break;
        tail_.put_back(last->first);
        free_.erase(last->first);
        std::erase(spare_tables_, last->first);
        unused.erase(last);
    }
}

}  // namespace dmu::qcow
