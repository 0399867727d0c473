// SPDX-License-Identifier: GPL-2.0-or-later
// What lies where: every mapping is checked before anybody hears of it.
#include <algorithm>
#include <cstring>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/compress.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t look_ahead_tables = 4096;  // L1 entries looked at beyond what was asked

}  // namespace

std::uint64_t Qcow2Image::table_end(std::uint64_t index) const {
    return std::min((index + 1) << header_.l2_shift(), info_.virtual_size);
}

std::uint64_t Qcow2Image::disk_end() const {
    return align_up(info_.virtual_size, cluster_bytes());
}

Entry Qcow2Image::entry_of(const L2Table& table, std::uint64_t index) const {
    if (header_.extended_l2()) return {table.words[index * 2], table.words[index * 2 + 1]};
    return {table.words[index], 0};
}

Result<L2Table*> Qcow2Image::load(std::uint64_t index) {
    if (auto* table = cache_.find(index)) return table;
    const auto offset = l1_[index] & offset_mask;
    if (offset == 0) return nullptr;
    std::vector<std::byte> raw(cluster_bytes());
    auto done = file_->read(offset, raw);
    if (!done) return done.error();
    L2Table table{std::vector<std::uint64_t>(raw.size() / 8), std::vector<bool>(raw.size() / 8 / sector_words), offset,
                  true};
    for (std::size_t i = 0; i < table.words.size(); i++) table.words[i] = load_be<std::uint64_t>(raw, i * 8);
    return &cache_.insert(index, std::move(table));
}

// ------------------------------------------------------------- checking ---

std::string_view Qcow2Image::fault_of_cluster(std::uint64_t host) const {
    if (host % cluster_bytes() != 0) return "is not aligned to clusters";
    const auto end = writable_ ? allocator_.end() << header_.cluster_bits
                               : align_up(file_bytes_, file_->fixed_size() ? sector_size : cluster_bytes());
    if (host >= end || (file_->fixed_size() && cluster_bytes() > end - host)) return "lies past the end of the file";
    if (metadata_.holds(host >> header_.cluster_bits)) return "lies over metadata";
    return "";
}

// Why an entry can't be; empty: it can.
std::string_view Qcow2Image::fault_of(const Entry& entry, std::uint64_t guest) const {
    if (entry.compressed()) {
        if (header_.has_data_file()) return "is compressed, in an external data file";
        const auto place = compressed_place(header_, entry.word);
        const auto first = place.offset >> header_.cluster_bits;
        const auto last = (place.offset + place.bytes - 1) >> header_.cluster_bits;
        if (place.offset >= (writable_ ? allocator_.end() << header_.cluster_bits : file_bytes_))
            return "lies past the end of the file";
        for (auto c = first; c <= last; c++)
            if (metadata_.holds(c)) return "lies over metadata";
        return "";
    }
    if (header_.extended_l2()) {
        if ((entry.bitmap & entry.bitmap >> subclusters & all_allocated_bitmap) != 0)
            return "has subclusters that are both allocated and zero";
        if ((entry.bitmap & all_allocated_bitmap) != 0 && !entry.has_place(header_))
            return "has allocated subclusters, but no place";
    } else if (header_.version == 2 && (entry.word & zero_flag) != 0) {
        return "is a zero cluster, which version 2 does not have";
    }
    if (!entry.has_place(header_)) return "";
    if (header_.has_data_file())
        return entry.offset() == guest ? "" : "lies elsewhere in the data file than on the disk";
    return fault_of_cluster(entry.offset());
}

// ------------------------------------------------------------- answering ---

void Qcow2Image::append(std::vector<Extent>& out, Extent extent) const {
    if (extent.length == 0) return;
    if (!out.empty()) {
        auto& last = out.back();
        const bool joins = last.kind == extent.kind && last.writable == extent.writable &&
                           last.leasable == extent.leasable && last.file == extent.file &&
                           (extent.kind != ExtentKind::data || last.host.bytes + last.length == extent.host.bytes);
        if (joins) {
            last.length += extent.length;
            return;
        }
    }
    out.push_back(extent);
}

// Of a file that is not written to the end may cut a cluster; what is past it are zeros.
void Qcow2Image::append_data(Extent extent, std::vector<Extent>& out) const {
    if (writable_ || header_.has_data_file()) return append(out, extent);
    const auto present = file_bytes_ > extent.host.bytes ? std::min(extent.length, file_bytes_ - extent.host.bytes) : 0;
    const auto whole = align_down(present, sector_size);
    Extent rest = extent;
    rest.start = {extent.start.bytes + whole};
    rest.length = extent.length - whole;
    rest.kind = ExtentKind::zero;
    rest.writable = false;
    extent.length = whole;
    append(out, extent);
    append(out, rest);
}

// Subclusters of a cluster that another writer left in parts: copied as a whole by a write.
void Qcow2Image::append_mixed(const Entry& entry, std::uint64_t start, std::uint64_t end,
                              std::vector<Extent>& out) const {
    const auto part = cluster_bytes() / subclusters;
    while (start < end) {
        const auto within = start % cluster_bytes();
        const auto part_end = std::min(end, align_down(start, part) + part);
        Extent extent;
        extent.start = {start};
        extent.length = part_end - start;
        extent.leasable = !header_.has_data_file();
        if (entry.bitmap >> (within / part) & 1) {
            extent.kind = ExtentKind::data;
            extent.file = header_.has_data_file() ? 1 : 0;
            extent.host = {entry.offset() + within};
            append_data(extent, out);
        } else {
            if (entry.bitmap >> (within / part + subclusters) & 1) extent.kind = ExtentKind::zero;
            append(out, extent);
        }
        start = part_end;
    }
}

// A place that is kept for the first write, and is nobody else's.
bool Qcow2Image::is_fixed(const Entry& entry) const {
    return !header_.has_data_file() && entry.copied() && kind_of(header_, entry) == ClusterKind::zero_allocated;
}

// [start, end) lies within one cluster of the disk.
void Qcow2Image::append_cluster(const Entry& entry, std::uint64_t start, std::uint64_t end,
                                std::vector<Extent>& out) const {
    Extent extent;
    extent.start = {start};
    extent.length = end - start;
    extent.leasable = !header_.has_data_file() && !is_fixed(entry);
    switch (kind_of(header_, entry)) {
        case ClusterKind::unallocated:
            return append(out, extent);
        case ClusterKind::zero:
        case ClusterKind::zero_allocated:
            extent.kind = ExtentKind::zero;
            return append(out, extent);
        case ClusterKind::compressed:
            extent.kind = ExtentKind::compressed;
            return append(out, extent);
        case ClusterKind::mixed:
            return append_mixed(entry, start, end, out);
        case ClusterKind::data:
            extent.kind = ExtentKind::data;
            extent.file = header_.has_data_file() ? 1 : 0;
            extent.host = {entry.offset() + start % cluster_bytes()};
            extent.writable = writable_ && !protected_ && (entry.copied() || header_.has_data_file());
            return append_data(extent, out);
    }
}

// Up to end; what is wrong past needed ends the answer before it.
Status Qcow2Image::append_table(const L2Table& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                                std::vector<Extent>& out) {
    while (at < end) {
        const auto guest = align_down(at, cluster_bytes());
        const auto entry = entry_of(table, l2_index(at));
        const auto fault = fault_of(entry, guest);
        if (!fault.empty()) {
            if (at >= needed) return ok();
            return corrupt("the cluster of guest byte " + std::to_string(guest) + " at byte " +
                           std::to_string(entry.offset()) + " " + std::string(fault));
        }
        const auto cluster_end = std::min(guest + cluster_bytes(), end);
        append_cluster(entry, at, cluster_end, out);
        at = cluster_end;
    }
    return ok();
}

Result<std::vector<Extent>> Qcow2Image::look_up(GuestRange range, LookAhead ahead) {
    if (info_only_) return error(Code::invalid, "look-up in an image of which only the header was opened");
    if (range.length == 0 || range.start.bytes >= info_.virtual_size ||
        range.length > info_.virtual_size - range.start.bytes)
        return error(Code::invalid, "look-up past the end of the disk");
    std::vector<Extent> out;
    Extent nothing;
    nothing.leasable = !header_.has_data_file();
    const auto stop = ahead == LookAhead::none ? range.end() : info_.virtual_size;
    std::uint64_t at = range.start.bytes;
    while (at < range.end()) {
        const auto index = l1_index(at);
        const auto end = std::min(table_end(index), stop);
        const auto table = load(index);
        if (!table) return table.error();
        if (*table != nullptr) {
            auto done = append_table(**table, at, end, range.end(), out);
            if (!done) return done.error();
        } else {
            nothing.start = {at};
            nothing.length = end - at;
            append(out, nothing);
            at = end;
        }
    }
    // What L1 says for nothing.
    const bool whole_tables = at == info_.virtual_size || at % (std::uint64_t{1} << header_.l2_shift()) == 0;
    if (whole_tables && out.back().kind == ExtentKind::unallocated) {
        for (auto i = l1_index(at), last = i + look_ahead_tables; at < stop && i < last && !has_table(i); i++) {
            out.back().length += table_end(i) - at;
            at = table_end(i);
        }
    }
    return out;
}

Result<Entry> Qcow2Image::entry_at(std::uint64_t guest) {
    const auto table = load(l1_index(guest));
    if (!table) return table.error();
    if (*table == nullptr) return Entry{};
    return entry_of(**table, l2_index(guest));
}

// ------------------------------------------------------------ compressed ---

Status Qcow2Image::read_compressed(GuestOffset start, std::span<std::byte> into) {
    auto at = start.bytes;
    while (!into.empty()) {
        const auto guest = align_down(at, cluster_bytes());
        if (inflated_at_ != guest) {
            const auto entry = entry_at(guest);
            if (!entry) return entry.error();
            if (!entry->compressed())
                return error(Code::invalid,
                             "the cluster of guest byte " + std::to_string(guest) + " is not compressed");
            if (const auto fault = fault_of(*entry, guest); !fault.empty())
                return corrupt("the compressed cluster of guest byte " + std::to_string(guest) + " " +
                               std::string(fault));
            const auto place = compressed_place(header_, entry->word);
            std::vector<std::byte> raw(place.bytes);
            auto done = file_->read(place.offset, raw);
            if (!done) return done;
            inflated_at_ = UINT64_MAX;
            inflated_.resize(cluster_bytes());
            done = decompress(header_.compression, raw, inflated_);
            if (!done)
                return error(done.error().code, "the cluster of guest byte " + std::to_string(guest) + " at byte " +
                                                    std::to_string(place.offset) + ": " + done.error().message);
            inflated_at_ = guest;
        }
        const auto skip = at - guest;
        const auto bytes = std::min<std::uint64_t>(into.size(), cluster_bytes() - skip);
        std::memcpy(into.data(), inflated_.data() + skip, bytes);
        into = into.subspan(bytes);
        at += bytes;
    }
    return ok();
}

}  // namespace dmu::qcow2
