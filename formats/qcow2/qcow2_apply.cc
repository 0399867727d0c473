// SPDX-License-Identifier: GPL-2.0-or-later
// Reserving space and recording what was done with it.
#include <algorithm>

#include "formats/core/units.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {}  // namespace

Status Qcow2Image::writable_or_why() const {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (protected_) return error(Code::denied, "it is write-protected until it is marked as written to");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    return ok();
}

// --------------------------------------------------------------- reserve ---

// The tables that the clusters will need get their place here too, so that a commit of what
// the guest was allowed to write rarely fails for want of space.
Status Qcow2Image::plan_tables(std::uint64_t start, std::uint64_t end) {
    for (auto i = l1_index(start); i <= l1_index(end - 1); i++) {
        if (!needs_table(i)) continue;
        const auto run = allocator_.take(1, 1);
        if (!run) return run.error();
        planned_[i] = run->first << header_.cluster_bits;
        metadata_.add_table(run->first);
    }
    return ok();
}

// Where the clusters end that are kept places at consecutive hosts (fixed_host), or are not.
Result<std::uint64_t> Qcow2Image::same_kind_end(std::uint64_t start, std::uint64_t end, std::uint64_t fixed_host) {
    for (auto at = start; at < end; at += cluster_bytes()) {
        const auto entry = entry_at(at);
        if (!entry) return entry.error();
        const bool same =
            fixed_host == 0 ? !is_fixed(*entry) : is_fixed(*entry) && entry->offset() == fixed_host + (at - start);
        if (!same) return at;
    }
    return end;
}

Result<Place> Qcow2Image::reserve_fixed(std::uint64_t start, std::uint64_t end, std::uint64_t host) {
    const auto fault = fault_of_cluster(host);
    if (!fault.empty())
        return corrupt("the place kept for guest byte " + std::to_string(start) + " " + std::string(fault));
    const auto kept_end = same_kind_end(start, end, host);
    if (!kept_end) return kept_end.error();
    auto length = cluster_bytes();
    while (length < *kept_end - start && fault_of_cluster(host + length).empty()) length += cluster_bytes();
    return Place{{start}, length, 0, {host}, false};
}

Result<Place> Qcow2Image::reserve_data_file(std::uint64_t start, std::uint64_t end) {
    if (!sparse_) {
        const auto allocated = data_file_->allocate(start, std::min(end, data_end()) - start);
        if (!allocated) return allocated.error();
    }
    return Place{{start}, end - start, 1, {start}, false};
}

Result<Place> Qcow2Image::reserve(GuestRange range) {
    auto done = writable_or_why();
    if (!done) return done.error();
    if (range.length == 0 || range.start.bytes >= info_.virtual_size || range.length > disk_end() - range.start.bytes)
        return error(Code::invalid, "space asked for past the end of the disk");
    const auto start = align_down(range.start.bytes, cluster_bytes());
    auto end = align_up(range.end(), cluster_bytes());
    done = plan_tables(start, start + cluster_bytes());
    if (!done) return done.error();
    if (!plan_tables(start, end)) end = std::min(end, table_end(l1_index(start)));
    end = align_up(end, cluster_bytes());
    if (data_file_) return reserve_data_file(start, end);

    const auto first = entry_at(start);
    if (!first) return first.error();
    if (is_fixed(*first)) return reserve_fixed(start, end, first->offset());
    const auto same_end = same_kind_end(start, end, 0);
    if (!same_end) return same_end.error();
    const auto run = allocator_.take(1, (*same_end - start) >> header_.cluster_bits);
    if (!run) {
        if (run.error().code == Code::corrupt) corrupt_ = true;
        return run.error();
    }
    return Place{{start},
                 run->count << header_.cluster_bits,
                 0,
                 {run->first << header_.cluster_bits},
                 run->reads_as_zero && !cipher_};
}

Status Qcow2Image::write_data(const Place& place, std::span<const std::byte> from) {
    auto& file = *files_[place.file];
    if (!cipher_) return file.write(place.host.bytes, from);
    std::vector<std::byte> secret(from.begin(), from.end());
    const auto at = cipher_->by() == CipherBy::guest_offset ? place.start.bytes : place.host.bytes;
    auto done = cipher_->encrypt(at, secret);
    return done ? file.write(place.host.bytes, secret) : done;
}

// ----------------------------------------------------------------- apply ---

Status Qcow2Image::check_change(const Change& change) {
    const auto start = change.start.bytes, length = change.length;
    if (length == 0 || start % cluster_bytes() != 0 || start >= info_.virtual_size || length > disk_end() - start ||
        ((start + length) % cluster_bytes() != 0 && start + length != info_.virtual_size))
        return error(Code::invalid, "a change of " + std::to_string(length) + " bytes at guest byte " +
                                        std::to_string(start) + " is not of whole clusters");
    return change.kind == ChangeKind::data ? check_host(change) : ok();
}

// A place that reserve() gave out, of this instance or of one before.
Status Qcow2Image::check_host(const Change& change) {
    const auto refuse = [&](std::uint64_t host, std::string_view why) {
        return error(Code::invalid, "a change names byte " + std::to_string(host) + " of file " +
                                        std::to_string(change.file) + ", which " + std::string(why));
    };
    if (change.file >= files_.size()) return refuse(change.host.bytes, "there is not");
    if (data_file_) {
        if (change.file == 1 && change.host.bytes == change.start.bytes) return ok();
        return refuse(change.host.bytes, "is not the cluster's place in the data file");
    }
    for (std::uint64_t done = 0; done < change.length; done += cluster_bytes()) {
        const auto host = change.host.bytes + done;
        if (const auto fault = fault_of_cluster(host); !fault.empty()) return refuse(host, fault);
        const auto entry = entry_at(change.start.bytes + done);
        if (!entry) return entry.error();
        if (!entry->compressed() && entry->offset() == host) continue;
        const auto count = refcounts_.get(host >> header_.cluster_bits);
        if (!count) return count.error();
        if (*count != 1) return refuse(host, "has refcount " + std::to_string(*count) + ": it was not reserved");
    }
    return ok();
}

// A table to be changed: made where there is none, to be copied where a snapshot shares it.
Result<L2Table*> Qcow2Image::load_to_change(std::uint64_t index) {
    auto table = load(index);
    if (!table) return table;
    const auto planned = planned_.find(index);
    const auto place = planned == planned_.end() ? 0 : planned->second;
    if (*table == nullptr) {
        L2Table fresh{std::vector<std::uint64_t>(cluster_bytes() / 8),
                      std::vector<bool>(cluster_bytes() / 8 / sector_words), place, false};
        table = &cache_.insert(index, std::move(fresh));
    } else if ((*table)->complete && is_shared(index) && (*table)->offset == (l1_[index] & offset_mask)) {
        (*table)->complete = false;
        (*table)->offset = place;
    }
    cache_.set_pinned(index, true);
    dirty_.insert(index);
    return table;
}

bool Qcow2Image::set_entry(std::uint64_t table_index, L2Table& table, std::uint64_t index, const Entry& entry) {
    if (entry_of(table, index) == entry) return false;
    const auto at = header_.extended_l2() ? index * 2 : index;
    table.words[at] = entry.word;
    if (header_.extended_l2()) table.words[at + 1] = entry.bitmap;
    table.dirty_sectors[at / sector_words] = true;
    cache_.set_pinned(table_index, true);
    dirty_.insert(table_index);
    return true;
}

// kept: a place that the new entry has too.
void Qcow2Image::free_entry(const Entry& old, std::uint64_t guest, std::uint64_t kept) {
    if (header_.has_data_file()) return;
    if (old.compressed()) {
        compressed_at_ = compressed_end_ = 0;
        const auto place = compressed_place(header_, old.word);
        for (auto c = place.offset >> header_.cluster_bits;
             c <= (place.offset + place.bytes - 1) >> header_.cluster_bits; c++)
            allocator_.freed(c, l1_index(guest));
    } else if (old.offset() != 0 && old.offset() != kept) {
        allocator_.freed(old.offset() >> header_.cluster_bits, l1_index(guest));
    }
}

Status Qcow2Image::replace(std::uint64_t guest, const Entry& entry) {
    const auto old = entry_at(guest);
    if (!old) return old.error();
    needs_sync_ = true;
    if (*old == entry) return ok();
    const auto index = l1_index(guest);
    auto table = load_to_change(index);
    if (!table) return table.error();
    set_entry(index, **table, l2_index(guest), entry);
    if (inflated_at_ == guest) inflated_at_ = UINT64_MAX;
    // What points to where it must not was nobody's: it leaks at worst.
    if (fault_of(*old, guest).empty()) free_entry(*old, guest, entry.compressed() ? 0 : entry.offset());
    return ok();
}

Status Qcow2Image::zero_cluster(std::uint64_t guest) {
    const auto old = entry_at(guest);
    if (!old) return old.error();
    const auto kind = kind_of(header_, *old);
    if (kind == ClusterKind::zero || kind == ClusterKind::zero_allocated) {
        needs_sync_ = true;
        return ok();
    }
    if (kind == ClusterKind::unallocated && header_.backing.empty()) return ok();
    return replace(guest, zero_entry(header_));
}

Status Qcow2Image::apply(const Change& change) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (protected_) return error(Code::denied, "it is write-protected until it is marked as written to");
    const auto clusters = align_up(change.length, cluster_bytes()) >> header_.cluster_bits;
    if (change.kind == ChangeKind::lost) {
        // It stays where it is, with its refcount; a check gives it back.
        const auto first = change.host.bytes >> header_.cluster_bits;
        leased_.remove(first, clusters);
        if (!data_file_) allocator_.used(first, clusters);
        return ok();
    }
    if (change.kind == ChangeKind::zero && !info_.discards_to_zero)
        return error(Code::unsupported, "it has no way to say that a cluster reads as zeros");
    auto valid = check_change(change);
    if (!valid) return valid;
    if (change.kind == ChangeKind::data)
        use_leases(change.host.bytes >> header_.cluster_bits, clusters, change.start.bytes);
    for (std::uint64_t i = 0; i < clusters; i++) {
        const auto guest = change.start.bytes + (i << header_.cluster_bits);
        if (change.kind == ChangeKind::zero) {
            auto done = zero_cluster(guest);
            if (!done) return done;
            continue;
        }
        const auto host = change.host.bytes + (i << header_.cluster_bits);
        const auto old = entry_at(guest);
        if (!old) return old.error();
        if (kind_of(header_, *old) == ClusterKind::data && old->offset() == host && old->has_place(header_)) {
            needs_sync_ = true;
            continue;
        }
        auto done = replace(guest, data_entry(header_, host));
        if (!done) return done;
        if (data_file_) continue;
        allocator_.used(host >> header_.cluster_bits, 1);
        allocator_.unfreed(host >> header_.cluster_bits, l1_index(guest));
    }
    return ok();
}

}  // namespace dmu::qcow2
