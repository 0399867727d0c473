// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow/check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>
#include <vector>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow/header.h"

namespace dmu::qcow {

namespace {

constexpr std::size_t message_limit = 100;

std::string hex(std::uint64_t value) {
    std::string digits;
    do {
        digits.insert(digits.begin(), "0123456789abcdef"[value & 15]);
        value >>= 4;
    } while (value != 0);
    return "0x" + digits;
}

// A set of clusters; memory for what is in it only (a file may be sparse and huge).
class ClusterSet {
public:
    // False: it was in already.
    bool insert(std::uint64_t cluster) {
        auto& word = pages_[cluster / page_clusters][cluster % page_clusters / 64];
        const std::uint64_t bit = std::uint64_t{1} << cluster % 64;
        if (word & bit) return false;
        word |= bit;
        count_++;
        end_ = std::max(end_, cluster + 1);
        return true;
    }
    bool contains(std::uint64_t cluster) const {
        const auto page = pages_.find(cluster / page_clusters);
        return page != pages_.end() && (page->second[cluster % page_clusters / 64] >> cluster % 64 & 1);
    }
    std::uint64_t count() const { return count_; }
    // Behind the last one.
    std::uint64_t end() const { return end_; }

private:
    static constexpr std::uint64_t page_clusters = 4096;
    std::unordered_map<std::uint64_t, std::array<std::uint64_t, page_clusters / 64>> pages_;
    std::uint64_t count_ = 0, end_ = 0;
};

class Checker {
public:
    Checker(BlockFile& file, const Header& header, std::uint64_t file_bytes)
        : file_(file), header_(header), file_bytes_(file_bytes) {}

    Result<CheckReport> run();
    // After run().
    const std::vector<Fix>& fixes() const { return fixes_; }
    std::uint64_t used_end() const {
        return std::max({metadata_.end(), data_.end(), compressed_.end()}) << header_.cluster_bits;
    }

private:
    void corrupt(const std::string& what);
    void corrupt(const std::string& what, Fix fix) {
        corrupt(what);
        fixes_.push_back(fix);
    }
    bool in_file(std::uint64_t offset, std::uint64_t bytes) const {
        return offset < file_bytes_ && bytes <= file_bytes_ - offset;
    }
    void take_fixed();
    void take_padding();
    Status take_tables();
    void take_table(std::uint64_t index, std::uint64_t offset, std::uint64_t at);
    Status check_table(std::uint64_t index, std::uint64_t offset);
    // at: the entry's byte in the file.
    void check_entry(std::uint64_t guest, std::uint64_t entry, std::uint64_t at);
    void take_data(std::uint64_t guest, std::uint64_t offset, std::uint64_t at);
    void take_compressed(std::uint64_t guest, const ClusterPlace& place, std::uint64_t at);

    BlockFile& file_;
    const Header header_;
    const std::uint64_t file_bytes_;
    CheckReport report_;
    std::vector<Fix> fixes_;
    ClusterSet metadata_, data_, compressed_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> tables_;  // L1 index, offset
};

void Checker::corrupt(const std::string& what) {
    report_.corruptions++;
    if (report_.messages.size() < message_limit) report_.messages.push_back(what);
}

void Checker::take_fixed() {
    const auto take = [&](std::uint64_t start, std::uint64_t end) {
        for (std::uint64_t c = start >> header_.cluster_bits; c <= (end - 1) >> header_.cluster_bits; c++)
            metadata_.insert(c);
    };
    take(0, header_bytes);
    take(header_.l1_offset, header_.l1_end());
    if (header_.name_offset != 0) take(header_.name_offset, header_.name_offset + header_.name_bytes);
}

// QEMU writes the L1 table in whole sectors from where it starts, and it starts anywhere:
// what comes after the table is nobody's, or a cluster's as well.
void Checker::take_padding() {
    const auto end = std::min(file_bytes_, header_.l1_offset + align_up(header_.l1_entries() * 8, sector_size));
    for (auto c = header_.l1_end() >> header_.cluster_bits; c << header_.cluster_bits < end; c++)
        if (!data_.contains(c) && !compressed_.contains(c)) metadata_.insert(c);
}

Status Checker::take_tables() {
    std::vector<std::byte> raw(64 * 1024);
    for (std::uint64_t first = 0; first < header_.l1_entries(); first += raw.size() / 8) {
        const auto count = std::min<std::uint64_t>(raw.size() / 8, header_.l1_entries() - first);
        auto done = file_.read(header_.l1_offset + first * 8, std::span(raw).first(count * 8));
        if (!done) return done;
        for (std::uint64_t i = 0; i < count; i++)
            if (const auto offset = load_l1(header_, raw, i * 8))
                take_table(first + i, offset, header_.l1_offset + (first + i) * 8);
    }
    return ok();
}

void Checker::take_table(std::uint64_t index, std::uint64_t offset, std::uint64_t at) {
    const std::string who = "L2 table " + std::to_string(index) + " at " + hex(offset);
    if (offset % header_.cluster_bytes() != 0) return corrupt(who + " is not aligned to clusters");
    if (offset >= file_bytes_) return corrupt(who + " lies past the end of the file", {at});
    if (!in_file(offset, header_.l2_bytes())) return corrupt(who + " ends past the end of the file");
    const std::uint64_t first = offset >> header_.cluster_bits;
    const std::uint64_t count = header_.l2_space() >> header_.cluster_bits;
    bool taken = false;
    for (std::uint64_t c = first; c < first + count; c++) taken = !metadata_.insert(c) || taken;
    if (taken) return corrupt(who + " lies over the header, the L1 table or another L2 table");
    tables_.emplace_back(index, offset);
}

void Checker::take_data(std::uint64_t guest, std::uint64_t offset, std::uint64_t at) {
    const std::string who = "cluster of guest byte " + hex(guest) + " at " + hex(offset);
    if (offset % header_.cluster_bytes() != 0) return corrupt(who + " is not aligned to clusters");
    // Old writers did not pad the file's last cluster; whole sectors it must be.
    if (offset >= file_bytes_) return corrupt(who + " lies past the end of the file", {at});
    if (!in_file(offset, header_.cluster_bytes()) && file_bytes_ % sector_size != 0)
        return corrupt(who + " is cut within a sector by the end of the file");
    const auto cluster = offset >> header_.cluster_bits;
    if (metadata_.contains(cluster)) return corrupt(who + " lies over metadata");
    if (compressed_.contains(cluster)) return corrupt(who + " lies over a compressed cluster");
    if (!data_.insert(cluster)) return corrupt(who + " is used twice", {at, offset});
    report_.allocated++;
}

void Checker::take_compressed(std::uint64_t guest, const ClusterPlace& place, std::uint64_t at) {
    const std::string who = "compressed cluster of guest byte " + hex(guest) + " at " + hex(place.offset);
    if (place.bytes == 0) return corrupt(who + " has no bytes");
    if (place.offset >= file_bytes_) return corrupt(who + " lies past the end of the file", {at});
    if (!in_file(place.offset, place.bytes)) return corrupt(who + " ends past the end of the file");
    const auto last = (place.offset + place.bytes - 1) >> header_.cluster_bits;
    for (auto c = place.offset >> header_.cluster_bits; c <= last; c++) {
        if (metadata_.contains(c)) return corrupt(who + " lies over metadata");
        if (data_.contains(c)) return corrupt(who + " lies over the cluster at " + hex(c << header_.cluster_bits));
        compressed_.insert(c);
    }
    report_.allocated++;
}

void Checker::check_entry(std::uint64_t guest, std::uint64_t entry, std::uint64_t at) {
    if (guest >= header_.size) return corrupt("entry of guest byte " + hex(guest) + ", past the end of the disk", {at});
    const auto place = decode_entry(header_, entry);
    if (place.compressed)
        take_compressed(guest, place, at);
    else
        take_data(guest, place.offset, at);
}

Status Checker::check_table(std::uint64_t index, std::uint64_t offset) {
    std::vector<std::byte> raw(header_.l2_bytes());
    auto done = file_.read(offset, raw);
    if (!done) return done;
    for (std::uint64_t i = 0; i < header_.l2_entries(); i++)
        if (const auto entry = load_be<std::uint64_t>(raw, i * 8))
            check_entry((index << header_.l2_shift()) + (i << header_.cluster_bits), entry, offset + i * 8);
    return ok();
}

Result<CheckReport> Checker::run() {
    report_.total = (header_.size + header_.cluster_bytes() - 1) >> header_.cluster_bits;
    take_fixed();
    auto done = take_tables();
    if (!done) return done.error();
    for (const auto& [index, offset] : tables_) {
        done = check_table(index, offset);
        if (!done) return done.error();
    }
    take_padding();
    const auto in_file = (file_bytes_ + header_.cluster_bytes() - 1) >> header_.cluster_bits;
    const auto used = metadata_.count() + data_.count() + compressed_.count();
    report_.leaks = in_file > used ? in_file - used : 0;
    if (report_.leaks != 0 && report_.messages.size() < message_limit)
        report_.messages.push_back(std::to_string(report_.leaks) + " clusters that nothing points at (harmless)");
    return std::move(report_);
}

Result<CheckReport> check_and_repair(BlockFile& file, const Header& header, std::uint64_t file_bytes, Repair repair) {
    Checker checker(file, header, file_bytes);
    auto found = checker.run();
    if (!found || repair == Repair::none || (found->corruptions == 0 && found->leaks == 0)) return found;
    if (header.xen)
        return Error{Code::unsupported, "qcow image '" + file.name() +
                                            "': it has the extended header of Xen's old blktap, which is only read"};
    auto end = checker.used_end();
    auto done = ok();
    if (repair == Repair::all && !checker.fixes().empty()) {
        done = apply_fixes(file, header.cluster_bytes(), checker.fixes());
    } else if (found->corruptions == 0) {
        // What is corrupt may point anywhere: nothing is cut while it does.
        done = cut_tail(file, end);
    }
    const auto size = file.size();
    if (!done || !size) return done ? size.error() : done.error();
    Checker again(file, header, *size);
    auto left = again.run();
    if (left && repair == Repair::all && left->corruptions == 0 && left->leaks != 0) {
        end = again.used_end();
        done = cut_tail(file, end);
        if (!done) return done.error();
        left = Checker(file, header, std::min(end, *size)).run();
    }
    if (!left) return left;
    left->corruptions_fixed = found->corruptions - std::min(found->corruptions, left->corruptions);
    left->leaks_fixed = found->leaks - std::min(found->leaks, left->leaks);
    left->messages.insert(left->messages.begin(), found->messages.begin(), found->messages.end());
    if (left->messages.size() > message_limit) left->messages.resize(message_limit);
    return left;
}

}  // namespace

Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options) {
    const auto size = file.size();
    if (!size) return size.error();
    std::array<std::byte, header_bytes + xen_bytes> raw{};
    auto done = file.read(0, raw);
    if (!done) return done.error();
    const auto header = decode_header(raw, *size, file.name());
    if (header) return check_and_repair(file, *header, *size, options.repair);
    if (header.error().code != Code::corrupt) return header.error();
    CheckReport report;
    report.corruptions = 1;
    report.messages.push_back(header.error().message);
    return report;
}

}  // namespace dmu::qcow
