// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/extent_check.h"

#include <algorithm>
#include <bit>

#include "formats/core/endian.h"

namespace dmu::vmdk {

namespace {

constexpr std::size_t message_limit = 100;

bool is_place(std::uint64_t entry) {
    return entry != entry_none && entry != entry_zero;
}

}  // namespace

void ExtentChecker::note(const std::string& what) {
    if (report_.messages.size() < message_limit) report_.messages.push_back("'" + file_.name() + "': " + what);
}

// ------------------------------------------------- directories and tables ---

Status ExtentChecker::read_copy(Copy& copy) {
    const auto width = header_.entry_bytes(), entries = header_.directory_entries();
    std::vector<std::byte> raw(64 * 1024);
    copy.is_bad.resize(entries);
    while (copy.tables.size() < entries) {
        const auto count = std::min<std::uint64_t>(raw.size() / width, entries - copy.tables.size());
        auto done =
            file_.read(copy.directory * sector_size + copy.tables.size() * width, std::span(raw).first(count * width));
        if (!done) return done;
        for (std::uint64_t i = 0; i < count; i++)
            copy.tables.push_back(decode_directory_entry(
                header_, width == 8 ? load_le<std::uint64_t>(raw, i * 8) : load_le<std::uint32_t>(raw, i * 4)));
    }
    return ok();
}

void ExtentChecker::take_tables(Copy& copy) {
    for (std::uint64_t i = 0; i < copy.tables.size(); i++) {
        const auto sector = copy.tables[i];
        if (sector == 0) continue;
        const auto who = std::string(copy.name) + "grain table " + std::to_string(i) + " at sector " +
                         std::to_string(sector & ~entry_fault);
        const auto start = sector * sector_size, end = start + header_.table_bytes();
        std::string fault;
        if ((sector & entry_fault) != 0)
            fault = " is no entry of a directory";
        else if (sector > file_bytes_ / sector_size || end > file_bytes_)
            fault = " ends past the end of the file";
        else if (is_over_metadata(start, end))
            fault = " lies over the header, the descriptor, a directory or another table";
        if (!fault.empty()) {
            copy.is_bad[i] = true;
            corrupt(who + fault);
            continue;
        }
        metadata_.insert({start, end});
    }
}

bool ExtentChecker::has_tables(std::uint64_t index) const {
    return std::any_of(copies_.begin(), copies_.end(), [&](const Copy& copy) { return copy.tables[index] != 0; });
}

bool ExtentChecker::is_over_metadata(std::uint64_t start, std::uint64_t end) const {
    const auto after = metadata_.lower_bound({end, 0});
    return after != metadata_.begin() && std::prev(after)->end > start;
}

Result<ExtentChecker::Table> ExtentChecker::read_table(const Copy& copy, std::uint64_t index) {
    Table table;
    table.entries.resize(header_.table_entries);
    table.faults.resize(header_.table_entries);
    if (copy.tables[index] == 0 || copy.is_bad[index]) return table;
    std::vector<std::byte> raw(header_.table_bytes());
    auto done = file_.read(copy.tables[index] * sector_size, raw);
    if (!done) return done.error();
    const bool wide = header_.entry_bytes() == 8;
    for (std::size_t i = 0; i < table.entries.size(); i++) {
        table.entries[i] =
            decode_entry(header_, wide ? load_le<std::uint64_t>(raw, i * 8) : load_le<std::uint32_t>(raw, i * 4));
        table.faults[i] = fault_of(index * header_.table_covers() + i * grain(), table.entries[i]);
    }
    return table;
}

const char* ExtentChecker::fault_of(std::uint64_t at, std::uint64_t entry) const {
    if (!is_place(entry)) return nullptr;
    if ((entry & entry_fault) != 0) return "is no entry of a grain table";
    if (at >= sectors_ * sector_size) return nullptr;  // beyond the disk: nobody looks
    const auto start = entry * sector_size;
    const auto bytes = header_.is_compressed() ? 1 : in_grain(at);
    if (start >= file_bytes_ || bytes > file_bytes_ - start) return "ends past the end of the file";
    if (is_over_metadata(start, start + bytes)) return "lies over metadata";
    return nullptr;
}

// ---------------------------------------------------------------- grains ---

// What all grains are aligned to: the smaller it is, the more there is to remember.
Status ExtentChecker::find_unit() {
    std::uint64_t bits = grain();
    for (std::uint64_t i = 0; i < copies_[0].tables.size(); i++) {
        if (!has_tables(i)) continue;
        const auto table = read_table(copies_[0], i);
        if (!table) return table.error();
        for (std::size_t e = 0; e < table->entries.size(); e++)
            if (is_place(table->entries[e]) && table->faults[e] == nullptr) bits |= table->entries[e] * sector_size;
    }
    unit_ = std::uint64_t{1} << std::countr_zero(bits);
    return ok();
}

Status ExtentChecker::take_packed(std::uint64_t at, std::uint64_t host) {
    const auto who =
        "the compressed grain of the extent's byte " + std::to_string(at) + " at byte " + std::to_string(host);
    if (!header_.has_markers()) return ok();
    std::array<std::byte, 12> marker{};
    auto done = file_.read(host, marker);
    if (!done) return done;
    const std::uint64_t bytes = marker.size() + load_le<std::uint32_t>(marker, 8);
    if (load_le<std::uint64_t>(marker, 0) != at / sector_size)
        corrupt(who + " has another grain's marker");
    else if (bytes > file_bytes_ - host)
        corrupt(who + " ends past the end of the file");
    else if (is_over_metadata(host, host + bytes))
        corrupt(who + " lies over metadata");
    else
        packed_.push_back({host, host + bytes});
    return ok();
}

Status ExtentChecker::take_grains(std::uint64_t index, const Table& table) {
    for (std::size_t i = 0; i < table.entries.size(); i++) {
        const auto at = index * header_.table_covers() + i * grain();
        if (at >= sectors_ * sector_size) break;
        if (!is_place(table.entries[i]) || table.faults[i] != nullptr) continue;
        report_.allocated++;
        const auto host = table.entries[i] * sector_size;
        if (header_.is_compressed()) {
            auto done = take_packed(at, host);
            if (!done) return done;
            continue;
        }
        bool is_taken = false;
        for (auto unit = host / unit_; unit < (host + grain()) / unit_; unit++)
            is_taken = !used_.insert(unit) || is_taken;
        if (is_taken)
            corrupt("the grain of the extent's byte " + std::to_string(at) + " at sector " +
                    std::to_string(table.entries[i]) + " is used twice");
        for (auto block = host / grain(); block <= (host + grain() - 1) / grain(); block++) blocks_.insert(block);
        used_end_ = std::max(used_end_, host + grain());
    }
    return ok();
}

// -------------------------------------------------------------- mending ---

Status ExtentChecker::write_table(Copy& copy, std::uint64_t index, const Table& table) {
    const bool needs_place = copy.tables[index] == 0 || copy.is_bad[index];
    auto sector = copy.tables[index];
    if (needs_place) {
        file_bytes_ = align_up(file_bytes_, grain());
        sector = file_bytes_ / sector_size;
        if (sector >= most_sectors) return Error{Code::no_space, "'" + file_.name() + "' has no room for a table"};
        file_bytes_ += align_up(header_.table_space(), grain());
        used_end_ = std::max(used_end_, file_bytes_);
    }
    std::vector<std::byte> raw(needs_place ? align_up(header_.table_space(), grain()) : header_.table_bytes());
    for (std::size_t i = 0; i < table.entries.size(); i++)
        store_le<std::uint32_t>(raw, i * 4, static_cast<std::uint32_t>(table.entries[i] & ~entry_fault));
    auto done = file_.write(sector * sector_size, raw);
    if (!done || !needs_place) return done;
    std::array<std::byte, 4> entry{};
    store_le<std::uint32_t>(entry, 0, static_cast<std::uint32_t>(sector));
    done = file_.sync();
    if (done) done = file_.write(copy.directory * sector_size + index * 4, entry);
    if (!done) return done;
    copy.tables[index] = sector;
    copy.is_bad[index] = false;
    metadata_.insert({sector * sector_size, sector * sector_size + header_.table_bytes()});
    return ok();
}

// Compares the copies of a table, entry by entry, and makes of them what is right: the
// first where it is sound, else the second, else nothing.
Status ExtentChecker::mend(std::uint64_t index, Table& first, Table* second) {
    const bool first_lost = copies_[0].is_bad[index];
    const bool second_lost = second != nullptr && copies_[1].is_bad[index];
    bool first_changed = first_lost, second_changed = second_lost, differ = false;
    std::uint64_t faults = (first_lost ? 1 : 0) + (second_lost ? 1 : 0);
    for (std::size_t i = 0; i < first.entries.size(); i++) {
        const auto at = index * header_.table_covers() + i * grain();
        const auto who = [&] { return "grain of the extent's byte " + std::to_string(at) + " at sector "; };
        auto& one = first.entries[i];
        if (first.faults[i] != nullptr)
            faults++, corrupt(who() + std::to_string(one & ~entry_fault) + " " + first.faults[i]);
        if (second != nullptr && second->faults[i] != nullptr)
            faults++, corrupt("redundant entry: " + who() + std::to_string(second->entries[i] & ~entry_fault) + " " +
                              second->faults[i]);
        const bool take_second = second != nullptr && !second_lost && second->faults[i] == nullptr &&
                                 (first_lost || first.faults[i] != nullptr);
        if (take_second || first.faults[i] != nullptr) {
            one = take_second ? second->entries[i] : entry_none;
            first_changed = true;
        }
        if (repair_ == Repair::all) first.faults[i] = nullptr;
        if (second != nullptr && second->entries[i] != one) {
            differ = differ || (second->faults[i] == nullptr && !second_lost && !first_changed);
            second->entries[i] = one;
            second_changed = true;
        }
    }
    const bool is_lonely = first_lost && (second == nullptr || second_lost || copies_[1].tables[index] == 0);
    if (differ) {
        report_.leaks++;
        note("the copies of grain table " + std::to_string(index) +
             " differ (of a crash, harmless; a repair writes the second anew)");
    }
    // What the table held is lost with it: that is for people to decide.
    if (is_lonely) return ok();
    const bool mends_faults = repair_ == Repair::all && faults != 0;
    const bool mends_copy = repair_ != Repair::none && faults == 0 && differ;
    if (!mends_faults && !mends_copy) return ok();
    auto done = first_changed ? write_table(copies_[0], index, first) : ok();
    if (done && second_changed) done = write_table(copies_[1], index, *second);
    if (!done) return done;
    is_changed_ = true;
    report_.corruptions_fixed += faults;
    report_.leaks_fixed += differ ? 1 : 0;
    return ok();
}

Status ExtentChecker::check_table(std::uint64_t index) {
    auto first = read_table(copies_[0], index);
    if (!first) return first.error();
    if (copies_.size() == 1) {
        auto done = mend(index, *first, nullptr);
        return done ? take_grains(index, *first) : done;
    }
    auto second = read_table(copies_[1], index);
    if (!second) return second.error();
    auto done = mend(index, *first, &*second);
    return done ? take_grains(index, *first) : done;
}

// ----------------------------------------------------------------- leaks ---

void ExtentChecker::count_leaks() {
    if (header_.is_compressed() || header_.kind == SparseKind::se) return;
    for (const auto& span : metadata_) {
        for (auto block = span.start / grain(); block <= (span.end - 1) / grain(); block++) blocks_.insert(block);
        used_end_ = std::max(used_end_, span.end);
    }
    const auto in_file = (file_bytes_ + grain() - 1) / grain();
    const auto leaks = in_file > blocks_.count() ? in_file - blocks_.count() : 0;
    report_.leaks += leaks;
    if (leaks != 0) note(std::to_string(leaks) + " grains that nothing points at (harmless)");
}

// Space within the file can't be given back; what is at its end can, unless something that
// is wrong may still be needed to find out what lay there.
Status ExtentChecker::cut_tail() {
    const auto end = align_up(used_end_, grain());
    if (report_.corruptions - report_.corruptions_fixed != unfixed_before_) return ok();
    if (repair_ == Repair::none || header_.is_compressed() || header_.kind != SparseKind::hosted || end >= file_bytes_)
        return ok();
    auto done = file_.truncate(end);
    if (done) done = file_.sync();
    if (done) report_.leaks_fixed += (file_bytes_ - end + grain() - 1) / grain();
    return done;
}

Status ExtentChecker::run() {
    unfixed_before_ = report_.corruptions - report_.corruptions_fixed;
    report_.total += (sectors_ * sector_size + grain() - 1) / grain();
    const auto fixed = [&](std::uint64_t sector, std::uint64_t bytes) {
        if (bytes != 0) metadata_.insert({sector * sector_size, sector * sector_size + bytes});
    };
    fixed(0, header_.kind == SparseKind::hosted && !header_.is_compressed()
                 ? std::min(header_.overhead * sector_size, sector_size)
                 : header_.header_bytes());
    fixed(header_.descriptor, header_.descriptor_sectors * sector_size);
    fixed(header_.directory, header_.directory_bytes());
    copies_.push_back({"", header_.directory, {}, {}});
    if (header_.redundant != 0) {
        fixed(header_.redundant, header_.directory_bytes());
        copies_.push_back({"redundant ", header_.redundant, {}, {}});
    }
    for (auto& copy : copies_) {
        auto done = read_copy(copy);
        if (!done) return done;
        take_tables(copy);
    }
    auto done = find_unit();
    for (std::uint64_t i = 0; done && i < header_.directory_entries(); i++)
        if (has_tables(i)) done = check_table(i);
    if (!done) return done;
    std::sort(packed_.begin(), packed_.end());
    for (std::size_t i = 1; i < packed_.size(); i++)
        if (packed_[i].start < packed_[i - 1].end)
            corrupt("two compressed grains overlap at byte " + std::to_string(packed_[i].start));
    count_leaks();
    if (is_changed_) done = file_.sync();
    return done ? cut_tail() : done;
}

}  // namespace dmu::vmdk
