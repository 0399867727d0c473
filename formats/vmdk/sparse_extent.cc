// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/sparse_extent.h"

#include <algorithm>

#include "formats/core/endian.h"
#include "formats/vmdk/extent_list.h"

namespace dmu::vmdk {

namespace {

constexpr std::uint64_t look_ahead_tables = 4096;  // directory entries looked at beyond what was asked

constexpr std::uint64_t most_padding = 64 << 20;  // bytes; a grain at most, and what COWD's writers leave

// Where allocation begins: past the file's end and whatever the header claims.
std::uint64_t end_of_space(const SparseHeader& header, std::uint64_t file_bytes) {
    const auto claimed = header.kind == SparseKind::cowd ? header.free_sector * sector_size : 0;
    return align_up(std::max(file_bytes, claimed), header.grain_bytes());
}

}  // namespace

SparseExtent::SparseExtent(const Setup& setup, const SparseHeader& header, std::uint64_t file_bytes)
    : setup_(setup),
      file_(*setup.file),
      header_(header),
      file_bytes_(file_bytes),
      tail_(file_, static_cast<std::uint32_t>(header.grain_bytes()), end_of_space(header, file_bytes)),
      free_sector_(header.free_sector),
      cache_(setup.cache_bytes / header.table_bytes()) {
}

Error SparseExtent::error(Code code, const std::string& what) const {
    return {code, "vmdk extent '" + file_.name() + "': " + what};
}

Error SparseExtent::corrupt(const std::string& what) {
    corrupt_ = true;
    return error(Code::corrupt, what + "; run a check of the image");
}

// ------------------------------------------------------------- opening ---

Result<std::unique_ptr<SparseExtent>> SparseExtent::open(const Setup& setup, const SparseHeader& header) {
    const auto size = setup.file->size();
    if (!size) return size.error();
    std::unique_ptr<SparseExtent> extent(new SparseExtent(setup, header, *size));
    auto done = extent->read_directory(header.directory, extent->directory_);
    if (done && header.redundant != 0 && setup.writable)
        done = extent->read_directory(header.redundant, extent->redundant_);
    extent->scanned_.resize(header.directory_entries());
    if (done) done = extent->take_tables();
    if (done && setup.writable) done = extent->separate();
    if (done && setup.writable) done = extent->pad_file();
    if (!done) return done.error();
    return extent;
}

Status SparseExtent::read_directory(std::uint64_t sector, std::vector<std::uint64_t>& into) {
    const auto entries = header_.directory_entries(), width = header_.entry_bytes();
    std::vector<std::byte> raw(std::min<std::uint64_t>(entries * width, 1 << 20));
    into.reserve(entries);
    while (into.size() < entries) {
        const auto count = std::min<std::uint64_t>(raw.size() / width, entries - into.size());
        auto done = file_.read(sector * sector_size + into.size() * width, std::span(raw).first(count * width));
        if (!done) return done;
        for (std::uint64_t i = 0; i < count; i++) {
            const auto entry = width == 8 ? load_le<std::uint64_t>(raw, i * 8) : load_le<std::uint32_t>(raw, i * 4);
            into.push_back(decode_directory_entry(header_, entry));
        }
    }
    return ok();
}

Status SparseExtent::take_table(const char* which, std::uint64_t index, std::uint64_t sector) {
    if (sector == 0) return ok();
    const auto who = which + std::to_string(index) + " at sector " + std::to_string(sector & ~entry_fault);
    if ((sector & entry_fault) != 0) return corrupt(who + " is no entry of a grain directory");
    const auto offset = sector * sector_size;
    if (sector > file_bytes_ / sector_size || header_.table_bytes() > file_bytes_ - offset)
        return corrupt(who + " ends past the end of the file");
    if (is_over_fixed(offset, offset + header_.table_bytes()))
        return corrupt(who + " lies over the header, the descriptor or a grain directory");
    table_offsets_.push_back(offset);
    return ok();
}

Status SparseExtent::take_tables() {
    for (std::uint64_t i = 0; i < directory_.size(); i++) {
        auto taken = take_table("grain table ", i, directory_[i]);
        if (taken && has_redundant()) taken = take_table("redundant grain table ", i, redundant_[i]);
        if (!taken) return taken;
    }
    std::sort(table_offsets_.begin(), table_offsets_.end());
    for (std::size_t i = 1; i < table_offsets_.size(); i++)
        if (table_offsets_[i] - table_offsets_[i - 1] < header_.table_bytes())
            return corrupt("two grain tables overlap at byte " + std::to_string(table_offsets_[i]));
    return ok();
}

// Grains and tables must not share the blocks of direct I/O.
Status SparseExtent::separate() {
    const auto unit = file_.direct_alignment();
    if (unit == 0) return ok();
    const bool apart = header_.kind == SparseKind::hosted && grain_bytes() % unit == 0 &&
                       std::min(header_.overhead, most_sectors) * sector_size % unit == 0;
    return apart ? ok() : file_.go_buffered();
}

// The disk's last grain, which may be short, becomes whole; what COWD's first free sector
// leaves out is never used.
Status SparseExtent::pad_file() {
    if (file_bytes_ >= tail_.next()) return ok();
    if (tail_.next() - file_bytes_ > most_padding)
        return corrupt("the first free sector, " + std::to_string(header_.free_sector) +
                       ", lies far past the end of the file");
    auto padded = file_.allocate(file_bytes_, tail_.next() - file_bytes_);
    if (!padded) return padded.error();
    return ok();
}

// -------------------------------------------------------------- tables ---

bool SparseExtent::is_over_fixed(std::uint64_t start, std::uint64_t end) const {
    const auto over = [&](std::uint64_t sector, std::uint64_t bytes) {
        return bytes != 0 && start < sector * sector_size + bytes && sector * sector_size < end;
    };
    return over(0, header_.header_bytes()) || over(header_.descriptor, header_.descriptor_sectors * sector_size) ||
           over(header_.directory, header_.directory_bytes()) ||
           (header_.redundant != 0 && over(header_.redundant, header_.directory_bytes())) ||
           (header_.kind == SparseKind::se && over(header_.volatile_header, sector_size));
}

bool SparseExtent::is_over_table(std::uint64_t start, std::uint64_t end) const {
    const auto after = std::lower_bound(table_offsets_.begin(), table_offsets_.end(), end);
    return after != table_offsets_.begin() && *std::prev(after) + header_.table_bytes() > start;
}

void SparseExtent::remember_table(std::uint64_t offset) {
    table_offsets_.insert(std::upper_bound(table_offsets_.begin(), table_offsets_.end(), offset), offset);
}

// bytes: of the grain that the disk needs.
std::string SparseExtent::fault_of_data(std::uint64_t host, std::uint64_t bytes, std::uint64_t limit) const {
    if (host >= limit || bytes > limit - host) return "ends past the end of the file";
    const auto end = host + std::max(bytes, header_.is_compressed() ? 1 : bytes);
    if (is_over_fixed(host, end)) return "lies over the header, the descriptor or a grain directory";
    if (is_over_table(host, end)) return "lies over a grain table";
    return "";
}

std::uint64_t SparseExtent::limit_of(std::uint64_t index) const {
    return setup_.writable && suspect_.count(index) == 0 ? tail_.next() : file_bytes_;
}

// Entries read from disk end below the file's end as it was when opened, those made since
// below what has been given out. A table that has one past the former when it is first
// read is suspect: what is allocated there later must not make it valid.
void SparseExtent::scan_table(std::uint64_t index, const GrainTable& table) {
    if (scanned_[index]) return;
    scanned_[index] = true;
    const auto first = index * header_.table_covers();
    for (std::size_t i = 0; i < table.entries.size(); i++) {
        const auto at = first + i * grain_bytes();
        if (at >= setup_.bytes) break;
        const auto entry = table.entries[i];
        if (entry == entry_none || entry == entry_zero) continue;
        const auto unit = file_.direct_alignment();
        if (setup_.writable && unit != 0 && entry * sector_size % unit != 0) needs_buffering_ = true;
        const auto bytes = grain_end(at) - at;
        const auto end = setup_.writable ? align_up(file_bytes_, sector_size) : file_bytes_;
        if (entry <= end / sector_size && bytes <= end - entry * sector_size) continue;
        suspect_.insert(index);
        corrupt_ = true;
        return;
    }
}

Status SparseExtent::read_table(std::uint64_t offset, std::vector<std::uint64_t>& entries) {
    std::vector<std::byte> raw(header_.table_bytes());
    auto done = file_.read(offset, raw);
    if (!done) return done;
    const bool wide = header_.entry_bytes() == 8;
    for (std::size_t i = 0; i < entries.size(); i++)
        entries[i] =
            decode_entry(header_, wide ? load_le<std::uint64_t>(raw, i * 8) : load_le<std::uint32_t>(raw, i * 4));
    return ok();
}

Result<GrainTable*> SparseExtent::load(std::uint64_t index) {
    if (auto* table = cache_.find(index)) return table;
    if (directory_[index] == 0) return nullptr;
    GrainTable table;
    table.entries.resize(header_.table_entries);
    table.dirty_sectors.resize(header_.table_space() / sector_size);
    table.offset = directory_[index] * sector_size;
    table.complete = table.second_complete = true;
    auto done = read_table(table.offset, table.entries);
    if (done && has_redundant() && redundant_[index] != 0) {
        table.second_offset = redundant_[index] * sector_size;
        std::vector<std::uint64_t> second(header_.table_entries);
        done = read_table(table.second_offset, second);
        table.copies_differ = second != table.entries;
    }
    if (!done) return done.error();
    if (!header_.is_compressed()) scan_table(index, table);
    if (needs_buffering_) done = file_.go_buffered();
    if (!done) return done.error();
    needs_buffering_ = false;
    return &cache_.insert(index, std::move(table));
}

// ------------------------------------------------------------- look-up ---

// Up to end, within the table; what is wrong past needed ends the answer before it.
Status SparseExtent::append_table(const GrainTable& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                                  bool may_write, std::vector<Extent>& out) {
    const auto limit = limit_of(table_index(at));
    while (at < end) {
        const auto entry = table.entries[entry_index(at)];
        const auto stop = std::min(grain_end(at), end);
        Extent extent{{at}, stop - at, ExtentKind::unallocated, setup_.index, {}, false};
        if (entry == entry_zero) {
            extent.kind = ExtentKind::zero;
        } else if (entry != entry_none) {
            const auto start = align_down(at, grain_bytes());
            const auto host = (entry & ~entry_fault) * sector_size;
            auto fault = (entry & entry_fault) != 0
                             ? std::string("is no entry of a grain table")
                             : fault_of_data(host, header_.is_compressed() ? 0 : stop - start, limit);
            if (!fault.empty()) {
                if (at >= needed) return ok();
                return corrupt("the grain of the extent's byte " + std::to_string(start) + " at sector " +
                               std::to_string(entry & ~entry_fault) + " " + fault);
            }
            extent.kind = header_.is_compressed() ? ExtentKind::compressed : ExtentKind::data;
            if (extent.kind == ExtentKind::data) extent.host = {host + (at - start)};
            extent.writable = extent.kind == ExtentKind::data && may_write;
        }
        append_extent(out, extent);
        at = stop;
    }
    return ok();
}

Status SparseExtent::look_up(GuestRange range, LookAhead ahead, bool may_write, std::vector<Extent>& out) {
    const auto stop_at = ahead == LookAhead::none ? range.end() : setup_.bytes;
    auto at = range.start.bytes;
    const auto append_none = [&](std::uint64_t end) {
        append_extent(out, {{at}, end - at, ExtentKind::unallocated, setup_.index, {}, false});
        at = end;
    };
    while (at < range.end()) {
        const auto index = table_index(at);
        const auto end = std::min(table_end(index), stop_at);
        const auto table = load(index);
        if (!table) return table.error();
        if (*table == nullptr) {
            append_none(end);
            continue;
        }
        auto done = append_table(**table, at, end, range.end(), may_write, out);
        if (!done) return done;
    }
    // What the directory says for nothing.
    const bool whole_tables = at % header_.table_covers() == 0;
    if (whole_tables && !out.empty() && out.back().kind == ExtentKind::unallocated)
        for (auto i = table_index(at), last = i + look_ahead_tables; at < stop_at && i < last && !has_table(i); i++)
            append_none(table_end(i));
    return ok();
}

bool SparseExtent::is_empty() const {
    return std::all_of(directory_.begin(), directory_.end(), [](std::uint64_t sector) { return sector == 0; });
}

std::uint64_t SparseExtent::allocated_bytes() const {
    std::uint64_t metadata = (header_.descriptor_sectors + 1) * sector_size +
                             header_.directory_bytes() * (header_.redundant != 0 ? 2 : 1) +
                             table_offsets_.size() * header_.table_space();
    if (header_.kind == SparseKind::hosted && !header_.is_compressed())
        metadata = std::max(metadata, std::min(header_.overhead, most_sectors) * sector_size);
    if (header_.kind == SparseKind::se) metadata = header_.grains * sector_size;
    metadata += leased_.total() + free_.size() * grain_bytes() + spares_.size() * spare_chunk();
    const auto used = setup_.writable ? tail_.next() : file_bytes_;
    return used > metadata ? used - metadata : 0;
}

}  // namespace dmu::vmdk
