// SPDX-License-Identifier: GPL-2.0-or-later
// Space that is given out before anybody knows what for.
//
// A leased cluster has its refcount on disk, as all that the allocator gives out. Each may
// be the first of its L2 table, or of one that a snapshot shares: for each there is a
// spare cluster for a table, up to the number of tables that may yet have to be made.
#include <algorithm>

#include "formats/core/units.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

// A first write there makes one, or a copy of one, and its place is not known yet.
bool Qcow2Image::needs_table(std::uint64_t index) const {
    const bool needed = !has_table(index) || (is_shared(index) && dirty_.count(index) == 0);
    return needed && planned_.count(index) == 0;
}

// How many spares there must be with a lease of so many clusters more.
std::uint64_t Qcow2Image::spares_wanted(std::uint64_t clusters) const {
    const auto most = leased_.total() + clusters;
    std::uint64_t wanted = 0;
    const auto tables = l1_index(disk_end() - 1) + 1;
    for (std::uint64_t i = 0; i < tables && wanted < most; i++) wanted += needs_table(i) ? 1 : 0;
    return wanted;
}

Status Qcow2Image::take_spares(std::uint64_t clusters) {
    const auto wanted = spares_wanted(clusters);
    while (spares_.size() < wanted) {
        const auto run = allocator_.take(1, wanted - spares_.size());
        if (!run) return run.error();
        for (auto c = run->first; c < run->first + run->count; c++) {
            spares_.push_back(c);
            metadata_.add_table(c);
        }
    }
    return ok();
}

void Qcow2Image::put_back_spares(std::uint64_t keep) {
    while (spares_.size() > keep) {
        metadata_.remove_table(spares_.back());
        allocator_.put_back({spares_.back(), 1, false});
        spares_.pop_back();
    }
}

Result<Place> Qcow2Image::reserve_any(std::uint64_t bytes) {
    auto done = writable_or_why();
    if (!done) return done.error();
    if (data_file_) return error(Code::unsupported, "in an external data file every cluster has its place");
    auto want = std::max<std::uint64_t>(bytes >> header_.cluster_bits, 1);
    for (done = take_spares(want); !done && done.error().code == Code::no_space && want > 1;) {
        want = (want + 1) / 2;
        done = take_spares(want);
    }
    auto run = done ? allocator_.take(1, want) : Result<Allocator::Run>(done.error());
    if (!run) {
        if (run.error().code == Code::corrupt) corrupt_ = true;
        put_back_spares(spares_wanted(0));
        return run.error();
    }
    leased_.add(run->first, run->count);
    return Place{{},
                 run->count << header_.cluster_bits,
                 0,
                 {run->first << header_.cluster_bits},
                 run->reads_as_zero && !cipher_};
}

Status Qcow2Image::give_back(const Place& unused) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (data_file_ || unused.file != 0 || unused.length == 0 || unused.length % cluster_bytes() != 0)
        return error(Code::invalid, "what is given back is not of whole clusters");
    const auto first = unused.host.bytes >> header_.cluster_bits, count = unused.length >> header_.cluster_bits;
    for (std::uint64_t i = 0; i < count; i++) {
        const auto host = unused.host.bytes + (i << header_.cluster_bits);
        std::string fault(fault_of_cluster(host));
        if (fault.empty()) {
            const auto references = refcounts_.get(first + i);
            if (!references) return references.error();
            if (*references != 1) fault = "has refcount " + std::to_string(*references);
        }
        if (fault.empty() && allocator_.pooled(first + i, 1)) fault = "is free";
        if (!fault.empty())
            return error(Code::invalid, "what is given back, at byte " + std::to_string(host) + ", " + fault);
    }
    leased_.remove(first, count);
    allocator_.put_back({first, count, unused.reads_as_zero});
    return ok();
}

// Leases were taken for clusters from a guest byte on, whose tables then take spares.
void Qcow2Image::use_leases(std::uint64_t cluster, std::uint64_t count, std::uint64_t guest) {
    if (!leased_.touches(cluster, count)) return;
    if (count > 1 && !leased_.holds(cluster, count)) {
        for (std::uint64_t i = 0; i < count; i++) use_leases(cluster + i, 1, guest + (i << header_.cluster_bits));
        return;
    }
    leased_.remove(cluster, count);
    const auto last = l1_index(guest + ((count - 1) << header_.cluster_bits));
    for (auto index = l1_index(guest); index <= last; index++)
        if (needs_table(index)) (void)use_spare(index);
}

bool Qcow2Image::use_spare(std::uint64_t index) {
    if (spares_.empty()) return false;
    planned_[index] = spares_.back() << header_.cluster_bits;
    spares_.pop_back();
    return true;
}

}  // namespace dmu::qcow2
