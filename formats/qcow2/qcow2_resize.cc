// SPDX-License-Identifier: GPL-2.0-or-later
// What tools do with an image: another size, another backing file, compressed clusters.
#include <algorithm>

#include "formats/core/units.h"
#include "formats/qcow2/compress.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t commit_every = 4096;  // clusters: bounds what is pinned in memory

}  // namespace

// ----------------------------------------------------------------- resize ---

// A copy of the last cluster with zeros past the disk's end.
Status Qcow2Image::rewrite_last(const Entry& entry, std::uint64_t guest, std::uint64_t kept) {
    std::vector<std::byte> content(cluster_bytes());
    const auto used = std::span(content).first(kept);
    auto& file = data_file_ ? *data_file_ : *file_;
    auto done = entry.compressed() ? read_compressed({guest}, used) : file.read(entry.offset(), used);
    if (done && cipher_ && !entry.compressed())
        done = cipher_->decrypt(cipher_->by() == CipherBy::guest_offset ? guest : entry.offset(), used);
    if (!done) return done;
    const auto place = reserve({{guest}, kept});
    if (!place) return place.error();
    done = write_data(*place, content);
    if (!done) return done;
    return apply(Change{ChangeKind::data, {guest}, info_.virtual_size - guest, place->file, place->host});
}

// What lies past the end in the last cluster must read as zeros in the larger disk.
Status Qcow2Image::end_of_disk_for_growth() {
    const auto kept = info_.virtual_size % cluster_bytes();
    if (kept == 0) return ok();
    const auto guest = info_.virtual_size - kept;
    const auto entry = entry_at(guest);
    if (!entry) return entry.error();
    if (const auto fault = fault_of(*entry, guest); !fault.empty())
        return corrupt("the last cluster of the disk " + std::string(fault));
    const auto kind = kind_of(header_, *entry);
    if (kind == ClusterKind::zero || kind == ClusterKind::zero_allocated) return ok();
    if (kind == ClusterKind::unallocated && header_.backing.empty()) return ok();
    if (kind == ClusterKind::unallocated || kind == ClusterKind::mixed)
        return error(Code::unsupported,
                     "its last cluster is cut by the disk's end and lies in the backing file; write to it before");
    return rewrite_last(*entry, guest, kept);
}

// Clusters that nothing maps would show what a longer backing file has there.
Status Qcow2Image::zero_new_part(std::uint64_t from, std::uint64_t to) {
    if (header_.backing.empty()) return ok();
    std::uint64_t count = 0;
    for (auto at = align_up(from, cluster_bytes()); at < to; at += cluster_bytes()) {
        auto done = zero_cluster(at);
        if (done && ++count % commit_every == 0) done = commit(DataState::durable);
        if (!done) return done;
    }
    return commit(DataState::durable);
}

Status Qcow2Image::shrink(std::uint64_t to) {
    std::uint64_t count = 0;
    for (auto at = align_up(to, cluster_bytes()); at < info_.virtual_size; at += cluster_bytes()) {
        const auto index = l1_index(at);
        if (!has_table(index)) {
            at = std::max(table_end(index), at + cluster_bytes()) - cluster_bytes();
            at = align_down(at, cluster_bytes());
            continue;
        }
        auto done = replace(at, {});
        if (done && ++count % commit_every == 0) done = commit(DataState::durable);
        if (!done) return done;
    }
    return commit(DataState::durable);
}

// What the VM state of a snapshot that was applied has left in the L1 table past the disk's end
// would be a part of the larger disk. The snapshot has a table of its own.
Status Qcow2Image::drop_past_end() {
    auto l1 = l1_;
    const auto end = l1.begin() + static_cast<std::ptrdiff_t>(header_.l1_needed(header_.size));
    std::fill(end, l1.end(), 0);
    if (l1 == l1_) return ok();
    const std::vector<std::uint64_t> dropped(l1_.begin() + (end - l1.begin()), l1_.end());
    const auto old = header_;
    auto done = use_l1(std::move(l1), header_.size);
    return done ? release_l1(old, dropped) : done;
}

Status Qcow2Image::resize(std::uint64_t bytes) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (bytes > std::uint64_t{1} << 62) return error(Code::invalid, "the disk would be too large");
    const auto to = align_up(bytes, sector_size);
    const auto needed = header_.l1_needed(to);
    if (needed > max_l1_bytes / 8)
        return error(Code::invalid, "the disk would be too large for clusters of " + std::to_string(cluster_bytes()) +
                                        " bytes; convert it to larger ones");
    if (header_.extension(extension_bitmaps) != nullptr)
        return error(Code::unsupported, "it holds bitmaps, which would not fit any more; remove them before");
    if (header_.version == 2 && (header_.snapshots != 0 || (to > info_.virtual_size && !header_.backing.empty())))
        return error(Code::unsupported, "a version 2 image with snapshots or a backing file can't be resized");
    auto done = settle_all();
    if (done && to > info_.virtual_size) done = drop_past_end();
    if (done && to > info_.virtual_size) done = end_of_disk_for_growth();
    if (done && to < info_.virtual_size) done = shrink(to);
    if (done) done = settle_all();
    if (!done) return done;

    const auto from = info_.virtual_size;
    const auto old = header_;
    if (needed > l1_.size()) {
        auto l1 = l1_;
        l1.resize(needed);
        done = use_l1(std::move(l1), to);
        if (done) done = drop_old_l1(old);
    } else {
        header_.size = to;
        done = replace_header(old);
    }
    if (!done) return done;
    describe();
    if (data_file_) done = data_file_->truncate(data_end());
    if (done && to > from) done = zero_new_part(from, to);
    if (done && refcounts_.changed()) done = refcounts_.make_durable();
    return done;
}

// Of the external data file: a raw one is the disk, no more.
std::uint64_t Qcow2Image::data_end() const {
    return header_.raw_data_file() ? info_.virtual_size : disk_end();
}

// ------------------------------------------------------------ backing file ---

Status Qcow2Image::set_backing(const std::optional<BackingReference>& backing) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (backing && (backing->path.empty() || backing->path.size() > max_name_bytes ||
                    backing->path.find('\0') != std::string::npos))
        return error(Code::invalid, "the name of the backing file must have 1 to 1023 bytes, no NUL");
    if (backing && header_.raw_data_file())
        return error(Code::unsupported, "with a raw external data file it can't have a backing file");
    auto done = settle_all();
    if (!done) return done;
    const auto old = header_;
    header_.backing = backing ? backing->path : "";
    const auto format = backing ? backing->format : "";
    header_.set_extension(extension_backing_format, std::as_bytes(std::span(format)));
    done = replace_header(old);
    if (done) describe();
    return done;
}

// --------------------------------------------------------------- compressed ---

// Room for bytes, behind the compressed cluster before it where there is some.
Result<std::uint64_t> Qcow2Image::place_compressed(std::uint64_t bytes) {
    if (compressed_end_ - compressed_at_ < bytes) {
        const auto run = allocator_.take(1, 1);
        if (!run) return run.error();
        allocator_.used(run->first, 1);
        const auto place = run->first << header_.cluster_bits;
        if (place != compressed_end_ || compressed_at_ == compressed_end_) compressed_at_ = place;
        compressed_end_ = place + cluster_bytes();
    }
    const auto place = compressed_at_;
    // The first cluster has users already, unless this begins it.
    if (place % cluster_bytes() != 0) {
        auto done = refcounts_.add(place >> header_.cluster_bits, 1);
        if (!done) {
            compressed_at_ = compressed_end_ = 0;
            // Refcounts too narrow for a second user: each gets a cluster of its own.
            if (done.error().code == Code::unsupported) return place_compressed(bytes);
            return done.error();
        }
    }
    compressed_at_ += bytes;
    return place;
}

Status Qcow2Image::write_compressed(GuestOffset start, std::span<const std::byte> from) {
    auto done = writable_or_why();
    if (!done) return done;
    if (cipher_) return error(Code::unsupported, "compressed clusters of an encrypted image would not be encrypted");
    if (data_file_) return error(Code::unsupported, "with an external data file it can't be written compressed");
    const auto length = std::min(cluster_bytes(), info_.virtual_size - std::min(start.bytes, info_.virtual_size));
    if (start.bytes % cluster_bytes() != 0 || length == 0 || from.size() != length)
        return error(Code::invalid, std::to_string(from.size()) + " bytes at guest byte " +
                                        std::to_string(start.bytes) + " are no whole cluster");
    std::vector<std::byte> whole(from.begin(), from.end());
    whole.resize(cluster_bytes());
    const auto packed = compress(header_.compression, whole, cluster_bytes() - 1);
    if (packed.empty()) {
        const auto place = reserve({start, length});
        if (!place) return place.error();
        done = file_->write(place->host.bytes, whole);
        if (!done) return done;
        return apply(Change{ChangeKind::data, start, length, 0, place->host});
    }
    const auto place = place_compressed(packed.size());
    if (!place) return place.error();
    counts_first_ = true;
    done = file_->write(*place, packed);
    if (!done) return done;
    return replace(start.bytes, {compressed_word(header_, *place, packed.size()), 0});
}

}  // namespace dmu::qcow2
