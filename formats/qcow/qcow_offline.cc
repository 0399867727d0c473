// SPDX-License-Identifier: GPL-2.0-or-later
// What is done to an image offline: compressed clusters, another size, another backing file.
#include <algorithm>
#include <cstring>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow/deflate.h"
#include "formats/qcow/qcow_image.h"

namespace dmu::qcow {

// ---------------------------------------------------------- compressed ---

// All of the cluster that a compressed entry is for. The last one read is kept: it is asked
// for in small pieces. An entry's place is never given out again, so it is a good key.
Status QcowImage::inflate(std::uint64_t guest, std::uint64_t entry) {
    if (inflated_entry_ == entry) return ok();
    const auto place = decode_entry(header_, entry);
    const auto who =
        "compressed cluster of guest byte " + std::to_string(guest) + " at byte " + std::to_string(place.offset);
    inflated_entry_ = 0;
    std::vector<std::byte> raw(place.bytes);
    auto done = file_->read(place.offset, raw);
    if (!done) return done;
    inflated_.resize(cluster_bytes());
    if (!inflate_cluster(raw, inflated_))
        return corrupt("the " + who + " with " + std::to_string(place.bytes) + " bytes can't be decompressed to " +
                       std::to_string(cluster_bytes()));
    inflated_entry_ = entry;
    return ok();
}

Status QcowImage::read_compressed(GuestOffset start, std::span<std::byte> into) {
    auto at = start.bytes;
    while (!into.empty()) {
        auto table = load(l1_index(at));
        if (!table) return table.error();
        const auto entry = *table == nullptr ? 0 : (*table)->entries[l2_index(at)];
        const auto cluster = align_down(at, cluster_bytes());
        if (at >= info_.virtual_size || !decode_entry(header_, entry).compressed)
            return error(Code::invalid, "guest byte " + std::to_string(at) + " is not compressed");
        if (const auto fault = answer(entry, limit_of(l1_index(at))).fault; !fault.empty())
            return corrupt("the compressed cluster of guest byte " + std::to_string(cluster) + " " + fault);
        auto done = inflate(cluster, entry);
        if (!done) return done;
        const auto bytes = std::min<std::uint64_t>(into.size(), cluster + cluster_bytes() - at);
        std::memcpy(into.data(), inflated_.data() + (at - cluster), bytes);
        into = into.subspan(bytes);
        at += bytes;
    }
    return ok();
}

// Compressed clusters lie one behind the other; what is left of a file's cluster is for the
// next one, as long as it goes on where that ended.
Result<std::uint64_t> QcowImage::take_packed(std::uint64_t bytes) {
    const bool goes_on = packed_end_ == tail_.next();
    const auto left = packed_end_ - packed_next_;
    const auto more = bytes <= left ? 0 : align_up(goes_on ? bytes - left : bytes, cluster_bytes());
    if (more != 0) {
        auto enough = tail_.ensure(more);
        if (!enough) return enough.error();
        const auto fresh = tail_.take(more);
        if (!goes_on) packed_next_ = fresh;
        packed_end_ = fresh + more;
    }
    return std::exchange(packed_next_, packed_next_ + bytes);
}

Status QcowImage::write_whole(std::uint64_t guest, std::span<const std::byte> cluster) {
    const auto place = reserve({{guest}, cluster_bytes()});
    if (!place) return place.error();
    std::vector<std::byte> data(cluster.begin(), cluster.end());
    auto done = cipher_ ? cipher_->encrypt(guest, data) : ok();
    if (done) done = file_->write(place->host.bytes, data);
    return done ? set_entry(guest, place->host.bytes) : done;
}

Status QcowImage::write_compressed(GuestOffset start, std::span<const std::byte> from) {
    if (cipher_) return error(Code::unsupported, "compressed clusters of an encrypted image would not be encrypted");
    const auto guest = start.bytes;
    if (guest % cluster_bytes() != 0 || guest >= info_.virtual_size ||
        from.size() != std::min(cluster_bytes(), info_.virtual_size - guest))
        return error(Code::invalid, "compressed clusters are written whole");
    std::vector<std::byte> cluster(from.begin(), from.end());
    cluster.resize(cluster_bytes());
    const auto small = deflate_cluster(cluster);
    if (small.empty()) return write_whole(guest, cluster);
    auto done = reserve_tables(guest);
    if (!done) return done;
    const auto place = take_packed(small.size());
    if (!place) return place.error();
    if (*place >= std::uint64_t{1} << (63 - header_.cluster_bits)) return write_whole(guest, cluster);
    done = file_->write(*place, small);
    const auto entry = compressed_flag | std::uint64_t{small.size()} << (63 - header_.cluster_bits) | *place;
    return done ? set_entry(guest, entry) : done;
}

// -------------------------------------------------------------- header ---

// One sector, so that it is the old one or the new one.
Status QcowImage::write_header(const Header& header) {
    auto done = file_->sync();
    if (done) done = file_->write(0, encode_header(header));
    if (done) done = file_->sync();
    if (done) header_ = header;
    return done;
}

Status QcowImage::can_change() {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; check and repair it first");
    return commit(DataState::written);
}

Status QcowImage::set_backing(const std::optional<BackingReference>& backing) {
    auto ready = can_change();
    if (!ready) return ready;
    auto header = header_;
    header.name_offset = header.name_bytes = 0;
    if (backing) {
        const auto& name = backing->path;
        if (name.empty() || name.size() > max_name_bytes || name.find('\0') != std::string::npos)
            return error(Code::invalid, "the name of the backing file must have 1 to 1023 bytes, no NUL");
        const auto space = align_up(name.size(), cluster_bytes());
        auto enough = tail_.ensure(space);
        if (!enough) return enough;
        header.name_offset = tail_.take(space);
        header.name_bytes = static_cast<std::uint32_t>(name.size());
        // To the cluster's end: what nobody wrote is not to be what was there before.
        std::vector<std::byte> raw(space);
        std::memcpy(raw.data(), name.data(), name.size());
        auto written = file_->write(header.name_offset, raw);
        if (!written) return written;
    }
    auto done = write_header(header);
    if (!done) return done;
    info_.backing.reset();
    if (backing) info_.backing = BackingReference{backing->path, ""};
    return ok();
}

// -------------------------------------------------------------- resize ---

// What lies of the cluster at end, past it, becomes zeros: a larger disk shows it.
Status QcowImage::clear_behind(std::uint64_t end) {
    const auto within = end % cluster_bytes();
    if (within == 0) return ok();
    const auto guest = end - within;
    auto table = load(l1_index(guest));
    if (!table) return table.error();
    const auto entry = *table == nullptr ? 0 : (*table)->entries[l2_index(guest)];
    if (entry == 0) return ok();
    const auto found = answer(entry, limit_of(l1_index(guest)));
    if (!found.fault.empty()) return corrupt("the cluster of guest byte " + std::to_string(guest) + " " + found.fault);
    if (found.kind == ExtentKind::compressed) {
        auto done = inflate(guest, entry);
        if (!done) return done;
        auto whole = inflated_;
        std::fill(whole.begin() + static_cast<std::ptrdiff_t>(within), whole.end(), std::byte{0});
        return write_whole(guest, whole);
    }
    std::vector<std::byte> zeros(cluster_bytes() - within);
    auto done = cipher_ ? cipher_->encrypt(end, zeros) : ok();
    return done ? file_->write(found.host + within, zeros) : done;
}

// No entry is left for what lies past a smaller disk's end.
Status QcowImage::drop_behind(std::uint64_t end) {
    const auto first = align_up(end, cluster_bytes());
    const auto table_starts = l1_index(first) << header_.l2_shift();
    if (first != table_starts && l1_index(first) < l1_.size()) {
        auto table = load(l1_index(first));
        if (!table) return table.error();
        for (auto i = l2_index(first); *table != nullptr && i < header_.l2_entries(); i++) {
            if ((*table)->entries[i] == 0) continue;
            auto done = set_entry(table_starts + (i << header_.cluster_bits), 0);
            if (!done) return done;
        }
    }
    auto done = commit(DataState::written);
    if (!done) return done;
    const auto kept = ((end - 1) >> header_.l2_shift()) + 1;
    if (kept >= l1_.size()) return ok();
    const std::vector<std::byte> zeros((l1_.size() - kept) * 8);
    done = file_->write(header_.l1_offset + kept * 8, zeros);
    if (!done) return done;
    for (auto i = kept; i < l1_.size(); i++) {
        if (l1_[i] != 0) cache_.erase(i);
        std::erase(table_offsets_, l1_[i]);
    }
    l1_.resize(kept);
    scanned_.resize(kept);
    suspect_.erase(suspect_.lower_bound(kept), suspect_.end());
    planned_.erase(planned_.lower_bound(kept), planned_.end());
    return ok();
}

// A longer L1 table stays where it is if the bytes behind it are nobody's, else it moves
// to the end of the file.
Status QcowImage::grow_l1(Header& header) {
    const auto entries = header.l1_entries();
    const bool name_behind = header.name_offset >= header.l1_offset;
    const bool fits = header.l1_end() <= align_up(header_.l1_end(), cluster_bytes()) && !name_behind &&
                      header_.l1_end() % cluster_bytes() != 0;
    std::vector<std::byte> raw(entries * 8);
    for (std::size_t i = 0; i < l1_.size(); i++) store_be<std::uint64_t>(raw, i * 8, l1_[i]);
    if (fits) {
        const auto known = l1_.size() * 8;
        return file_->write(header.l1_offset + known, std::span(raw).subspan(known));
    }
    const auto space = align_up(raw.size(), cluster_bytes());
    auto enough = tail_.ensure(space);
    if (!enough) return enough;
    header.l1_offset = tail_.take(space);
    raw.resize(space);
    return file_->write(header.l1_offset, raw);
}

Status QcowImage::resize(std::uint64_t bytes) {
    auto ready = can_change();
    if (!ready) return ready;
    auto header = header_;
    if (bytes == 0 || bytes > max_size) return error(Code::invalid, "a disk of " + std::to_string(bytes) + " bytes");
    header.size = align_up(bytes, sector_size);
    if (header.l1_entries() > max_l1_bytes / 8)
        return error(Code::invalid, "the disk would be too large for its clusters of " +
                                        std::to_string(cluster_bytes()) + " bytes; convert it to larger ones");
    const auto old_size = info_.virtual_size;
    Status done = ok();
    // Also when it grows: what a bad entry past the end says is not to be seen.
    if (header.size != old_size) done = drop_behind(std::min(header.size, old_size));
    if (done) done = clear_behind(std::min(header.size, old_size));
    if (done) done = commit(DataState::written);
    if (done && header.l1_entries() > l1_.size()) done = grow_l1(header);
    if (done) done = write_header(header);
    if (!done) return done;
    l1_.resize(header.l1_entries());
    scanned_.resize(header.l1_entries());
    info_.virtual_size = header.size;
    return ok();
}

}  // namespace dmu::qcow
