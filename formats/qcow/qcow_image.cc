// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow/qcow_image.h"

#include <algorithm>

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow {

namespace {

constexpr std::uint64_t look_ahead_tables = 4096;  // L1 entries looked at beyond what was asked

L2Table empty_table(const Header& header) {
    L2Table table;
    table.entries.resize(header.l2_entries());
    table.dirty_sectors.resize(header.l2_entries() / sector_entries);
    return table;
}

}  // namespace

Error QcowImage::error(Code code, const std::string& what) const {
    return {code, "qcow image '" + file_->name() + "': " + what};
}

Error QcowImage::corrupt(const std::string& what) {
    corrupt_ = true;
    return error(Code::corrupt, what + "; run a check of the image");
}

// ------------------------------------------------------------- look-up ---

std::uint64_t QcowImage::table_end(std::uint64_t index) const {
    return std::min((index + 1) << header_.l2_shift(), info_.virtual_size);
}

bool QcowImage::is_over_fixed(std::uint64_t start, std::uint64_t end) const {
    const auto over = [&](std::uint64_t from, std::uint64_t to) { return start < to && from < end; };
    return over(0, header_bytes) || over(header_.l1_offset, header_.l1_end()) ||
           (header_.name_offset != 0 && over(header_.name_offset, header_.name_offset + header_.name_bytes));
}

bool QcowImage::is_over_table(std::uint64_t start, std::uint64_t end) const {
    const auto after = std::lower_bound(table_offsets_.begin(), table_offsets_.end(), end);
    return after != table_offsets_.begin() && *std::prev(after) + header_.l2_bytes() > start;
}

void QcowImage::remember_table(std::uint64_t offset) {
    table_offsets_.insert(std::upper_bound(table_offsets_.begin(), table_offsets_.end(), offset), offset);
}

std::string QcowImage::fault_of_data(std::uint64_t host, std::uint64_t limit) const {
    if (host % cluster_bytes() != 0) return "is not aligned to clusters";
    if (host >= limit) return "lies past the end of the file";
    const auto end = host + cluster_bytes();
    if (!writable_ && end > file_bytes_ && file_bytes_ % sector_size != 0)
        return "is cut within a sector by the end of the file";
    if (is_over_fixed(host, end)) return "lies over the header, the backing file's name or the L1 table";
    if (is_over_table(host, end)) return "lies over an L2 table";
    return "";
}

std::uint64_t QcowImage::limit_of(std::uint64_t index) const {
    return suspect_.count(index) != 0 ? align_up(file_bytes_, cluster_bytes()) : tail_.next();
}

void QcowImage::scan_table(std::uint64_t index, const L2Table& table) {
    if (scanned_[index]) return;
    scanned_[index] = true;
    const auto end = align_up(file_bytes_, cluster_bytes());
    const auto is_past = [&](std::uint64_t entry) {
        const auto place = decode_entry(header_, entry);
        return entry != 0 && (place.offset >= end || place.bytes == 0 || place.bytes > end - place.offset);
    };
    if (std::none_of(table.entries.begin(), table.entries.end(), is_past)) return;
    suspect_.insert(index);
    corrupt_ = true;
}

Result<L2Table*> QcowImage::load(std::uint64_t index) {
    if (auto* table = cache_.find(index)) return table;
    if (l1_[index] == 0) return nullptr;
    std::vector<std::byte> raw(header_.l2_bytes());
    auto done = file_->read(l1_[index], raw);
    if (!done) return done.error();
    auto table = empty_table(header_);
    table.offset = l1_[index];
    table.complete = true;
    for (std::size_t i = 0; i < table.entries.size(); i++) table.entries[i] = load_be<std::uint64_t>(raw, i * 8);
    scan_table(index, table);
    return &cache_.insert(index, std::move(table));
}

QcowImage::Answer QcowImage::answer(std::uint64_t entry, std::uint64_t limit) const {
    if (entry == 0) return {};
    const auto place = decode_entry(header_, entry);
    if (place.compressed) {
        const bool inside = place.bytes != 0 && place.offset < limit && place.bytes <= limit - place.offset;
        return {ExtentKind::compressed, place.offset, 0, inside ? "" : "ends past the end of the file"};
    }
    auto fault = fault_of_data(place.offset, limit);
    // Only of a file that is not written to does the end cut a cluster; see pad_file().
    const auto in_file =
        writable_ || !fault.empty() ? cluster_bytes() : std::min(cluster_bytes(), file_bytes_ - place.offset);
    return {ExtentKind::data, place.offset, in_file, std::move(fault)};
}

void QcowImage::append(std::vector<Extent>& out, Extent extent) const {
    if (!out.empty()) {
        auto& last = out.back();
        const bool joins = last.kind == extent.kind &&
                           (extent.kind != ExtentKind::data || last.host.bytes + last.length == extent.host.bytes);
        if (joins) {
            last.length += extent.length;
            return;
        }
    }
    out.push_back(extent);
}

// [start, end) lies within one cluster of the disk.
void QcowImage::append_cluster(const Answer& cluster, std::uint64_t start, std::uint64_t end,
                               std::vector<Extent>& out) const {
    Extent extent{{start}, end - start, cluster.kind, 0, {}, false};
    if (cluster.kind != ExtentKind::data) return append(out, extent);
    const auto skip = start % cluster_bytes();
    extent.host = {cluster.host + skip};
    extent.writable = writable_;
    const auto present = cluster.in_file > skip ? std::min(extent.length, cluster.in_file - skip) : 0;
    if (present != 0) {
        extent.length = present;
        append(out, extent);
    }
    if (start + present < end) append(out, {{start + present}, end - start - present, ExtentKind::zero, 0, {}, false});
}

// Up to end; what is wrong past needed ends the answer before it.
Status QcowImage::append_table(const L2Table& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                               std::vector<Extent>& out) {
    const auto limit = limit_of(l1_index(at));
    while (at < end) {
        const auto cluster = answer(table.entries[l2_index(at)], limit);
        if (!cluster.fault.empty()) {
            if (at >= needed) return ok();
            return corrupt("the cluster of guest byte " + std::to_string(align_down(at, cluster_bytes())) +
                           " at byte " + std::to_string(cluster.host) + " " + cluster.fault);
        }
        const auto cluster_end = std::min(align_down(at, cluster_bytes()) + cluster_bytes(), end);
        append_cluster(cluster, at, cluster_end, out);
        at = cluster_end;
    }
    return ok();
}

Result<std::vector<Extent>> QcowImage::look_up(GuestRange range, LookAhead ahead) {
    if (range.length == 0 || range.start.bytes >= info_.virtual_size ||
        range.length > info_.virtual_size - range.start.bytes)
        return error(Code::invalid, "look-up past the end of the disk");
    std::vector<Extent> out;
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
            append(out, {{at}, end - at, ExtentKind::unallocated, 0, {}, false});
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

// -------------------------------------------------- reserve and apply ---

std::vector<std::uint64_t> QcowImage::tables_to_place(std::uint64_t start, std::uint64_t end) const {
    std::vector<std::uint64_t> indices;
    for (auto i = l1_index(start); i <= l1_index(end - 1); i++)
        if (!has_table(i) && planned_.count(i) == 0) indices.push_back(i);
    return indices;
}

// The tables that the clusters will need get their place here too, so that a commit
// of what the guest was allowed to write never fails for want of space.
Result<Place> QcowImage::reserve(GuestRange range) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    const auto disk_end = align_up(info_.virtual_size, cluster_bytes());
    if (range.length == 0 || range.start.bytes >= info_.virtual_size || range.length > disk_end - range.start.bytes)
        return error(Code::invalid, "space asked for past the end of the disk");
    const auto start = align_down(range.start.bytes, cluster_bytes());
    auto length = align_up(range.end(), cluster_bytes()) - start;

    auto tables = tables_to_place(start, start + length);
    auto enough = tail_.ensure(tables.size() * header_.l2_space() + length);
    while (!enough && enough.error().code == Code::no_space && length > cluster_bytes()) {
        length = align_up(length / 2, cluster_bytes());
        tables = tables_to_place(start, start + length);
        enough = tail_.ensure(tables.size() * header_.l2_space() + length);
    }
    if (!enough) return enough.error();
    for (const auto index : tables) {
        planned_[index] = tail_.take(header_.l2_space());
        remember_table(planned_[index]);
    }
    return Place{{start}, length, 0, {tail_.take(length)}, tail_.reads_as_zero() && !cipher_};
}

Status QcowImage::reserve_tables(std::uint64_t guest) {
    if (!writable_) return error(Code::denied, "it is open for reading only");
    if (corrupt_) return error(Code::corrupt, "it was found corrupt; nothing is allocated any more");
    for (const auto index : tables_to_place(guest, guest + 1)) {
        auto enough = tail_.ensure(header_.l2_space());
        if (!enough) return enough;
        planned_[index] = tail_.take(header_.l2_space());
        remember_table(planned_[index]);
    }
    return ok();
}

Status QcowImage::check_change(const Change& change) const {
    const auto start = change.start.bytes, length = change.length;
    const auto disk_end = align_up(info_.virtual_size, cluster_bytes());
    if (change.file != 0) return error(Code::invalid, "there is no file " + std::to_string(change.file));
    if (length == 0 || start % cluster_bytes() != 0 || start >= info_.virtual_size || length > disk_end - start ||
        ((start + length) % cluster_bytes() != 0 && start + length != info_.virtual_size))
        return error(Code::invalid, "a change of " + std::to_string(length) + " bytes at guest byte " +
                                        std::to_string(start) + " is not of whole clusters");
    for (std::uint64_t done = 0; done < length; done += cluster_bytes()) {
        const auto fault = fault_of_data(change.host.bytes + done, tail_.next());
        if (!fault.empty())
            return error(Code::invalid,
                         "a change names byte " + std::to_string(change.host.bytes + done) + ", which " + fault);
    }
    return ok();
}

Result<L2Table*> QcowImage::load_or_make(std::uint64_t index, bool leased) {
    auto table = load(index);
    if (!table || *table != nullptr) return table;
    auto fresh = empty_table(header_);
    scanned_[index] = true;
    if (const auto place = planned_.find(index); place != planned_.end()) {
        fresh.offset = place->second;
    } else if (leased && !spare_tables_.empty()) {
        fresh.offset = planned_[index] = spare_tables_.back();
        spare_tables_.pop_back();
        remember_table(fresh.offset);
    }
    return &cache_.insert(index, std::move(fresh));
}

Status QcowImage::apply(const Change& change) {
    // What was lost stays where it is: the tail never comes back to it.
    if (change.kind == ChangeKind::lost) {
        (void)use_lease(change.host.bytes, change.length);
        return ok();
    }
    if (change.kind == ChangeKind::zero) return error(Code::unsupported, "the format has no zero clusters");
    if (!writable_) return error(Code::denied, "it is open for reading only");
    auto valid = check_change(change);
    if (!valid) return valid;
    const bool leased = use_lease(change.host.bytes, align_up(change.length, cluster_bytes()));

    for (std::uint64_t done = 0; done < change.length; done += cluster_bytes()) {
        auto set = set_entry(change.start.bytes + done, change.host.bytes + done, leased);
        if (!set) return set;
    }
    return ok();
}

Status QcowImage::set_entry(std::uint64_t guest, std::uint64_t value, bool leased) {
    const auto index = l1_index(guest);
    auto table = load_or_make(index, leased);
    if (!table) return table.error();
    needs_sync_ = true;
    auto& entry = (*table)->entries[l2_index(guest)];
    if (entry == value) return ok();
    entry = value;
    (*table)->dirty_sectors[l2_index(guest) / sector_entries] = true;
    cache_.set_pinned(index, true);
    dirty_.insert(index);
    return ok();
}

std::uint64_t QcowImage::allocated_bytes() const {
    const auto metadata = align_up(header_.l1_end(), cluster_bytes()) + table_offsets_.size() * header_.l2_space();
    std::uint64_t unused = leased_bytes_ + spare_tables_.size() * header_.l2_space();
    for (const auto& [start, space] : free_) unused += space.length;
    return tail_.next() > metadata + unused ? tail_.next() - metadata - unused : 0;
}

}  // namespace dmu::qcow
