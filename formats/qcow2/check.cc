// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/check.h"

#include <algorithm>
#include <array>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/references.h"

namespace dmu::qcow2 {

namespace {

constexpr std::size_t message_limit = 100;

struct Opened {
    Header header;
    std::uint64_t file_bytes = 0;
};

Result<Opened> open_header(BlockFile& file) {
    const auto size = file.size();
    if (!size) return size.error();
    std::array<std::byte, fixed_bytes_v2> start{};
    auto done = file.read(0, start);
    if (!done) return done.error();
    const auto bytes = first_cluster_bytes(start, *size, file.name());
    if (!bytes) return bytes.error();
    std::vector<std::byte> raw(*bytes);
    done = file.read(0, raw);
    if (!done) return done.error();
    auto header = decode_header(raw, *size, file.name());
    if (!header) return header.error();
    return Opened{std::move(*header), *size};
}

class Checker {
public:
    Checker(BlockFile& file, const Header& header, std::uint64_t file_bytes)
        : file_(file), header_(header), file_bytes_(file_bytes), references_(file, header_, file_bytes) {}

    Result<CheckReport> run() {
        auto done = references_.walk();
        if (done) done = references_.walk_refcounts(table_);
        if (!done) return done.error();
        report_.corruptions = references_.faults();
        report_.messages = references_.messages();
        report_.allocated = references_.guest_clusters();
        report_.total = align_up(header_.size, header_.cluster_bytes()) >> header_.cluster_bits;
        done = compare();
        if (done) done = check_copied();
        if (!done) return done.error();
        return report_;
    }

    // After run(): in place.
    Status give_back_leaks() {
        for (std::size_t i = 0; i < table_.size(); i++) {
            if (table_[i] == 0) continue;
            auto done = lower_block(i);
            if (!done) return done;
        }
        return file_.sync();
    }

    Status rebuild();
    Status set_copied();
    std::uint64_t faults() const { return references_.faults(); }
    bool is_too_low() const { return too_low_; }

private:
    bool has_block(std::uint64_t index) const { return index < table_.size() && table_[index] != 0; }
    void corrupt(const std::string& what) {
        report_.corruptions++;
        say(what);
    }
    void say(const std::string& what) {
        if (report_.messages.size() < message_limit) report_.messages.push_back(what);
    }

    // Every refcount there is, and every user.
    Status compare() {
        const auto per_block = header_.block_clusters();
        std::vector<std::byte> raw(header_.cluster_bytes());
        for (std::uint64_t i = 0; i < table_.size(); i++) {
            if (table_[i] == 0) continue;
            auto done = file_.read(table_[i], raw);
            if (!done) return done;
            for (std::uint64_t k = 0; k < per_block; k++)
                compare_one(i * per_block + k, load_refcount(raw, header_.refcount_order, k));
        }
        // The file may be a huge hole: only what has users.
        references_.visit_used([&](std::uint64_t cluster) {
            if (!has_block(cluster / per_block)) compare_one(cluster, 0);
        });
        return ok();
    }

    void compare_one(std::uint64_t cluster, std::uint64_t counted) {
        const auto users = references_.count(cluster);
        if (counted == users) return;
        const auto what = "cluster " + std::to_string(cluster) + " at byte " +
                          std::to_string(cluster << header_.cluster_bits) + " has refcount " + std::to_string(counted) +
                          " and " + std::to_string(users) + " users";
        if (counted < users) {
            too_low_ = true;
            return corrupt(what);
        }
        report_.leaks++;
        say("leak: " + what);
    }

    // A cluster that looks like an own one and is shared would be overwritten in place. The
    // opposite costs a copy only.
    Status check_copied() {
        return references_.visit_active([this](std::uint64_t at, std::uint64_t word, std::uint64_t users) {
            if ((word & copied_flag) != 0 && users > 1)
                corrupt("the entry at byte " + std::to_string(at) + " is marked as the only user of a cluster of " +
                        std::to_string(users));
            return ok();
        });
    }

    Status lower_block(std::size_t index) {
        const auto per_block = header_.block_clusters();
        std::vector<std::byte> raw(header_.cluster_bytes());
        auto done = file_.read(table_[index], raw);
        if (!done) return done;
        bool changed = false;
        for (std::uint64_t k = 0; k < per_block; k++) {
            const auto users = references_.count(index * per_block + k);
            if (load_refcount(raw, header_.refcount_order, k) <= users) continue;
            store_refcount(raw, header_.refcount_order, k, users);
            changed = true;
        }
        return changed ? file_.write(table_[index], raw) : ok();
    }

    // New refcounts lie where nothing is used, old ones included.
    std::uint64_t find_room(std::uint64_t clusters) const {
        std::uint64_t first = 1;
        for (auto c = first; c < references_.file_clusters() && c - first < clusters; c++)
            if (references_.count(c) != 0) first = c + 1;
        return first;
    }

    BlockFile& file_;
    Header header_;
    const std::uint64_t file_bytes_;
    References references_;
    std::vector<std::uint64_t> table_;
    CheckReport report_;
    bool too_low_ = false;
};

// A new table with new blocks; the old ones are free then.
Status Checker::rebuild() {
    References users(file_, header_, file_bytes_);
    auto done = users.walk();
    if (!done) return done;
    const auto bits = header_.cluster_bits;
    std::uint64_t blocks = 1, clusters = 1, first = 0;
    while (true) {
        first = find_room(blocks + clusters);
        const auto end = std::max(users.end(), first + blocks + clusters);
        const auto new_blocks = (end + header_.block_clusters() - 1) / header_.block_clusters();
        const auto new_clusters = align_up(new_blocks * 8, header_.cluster_bytes()) >> bits;
        if (new_blocks * 8 > max_refcount_table_bytes)
            return Error{Code::unsupported, "qcow2 image '" + file_.name() + "': cluster " + std::to_string(end - 1) +
                                                " is in use; a refcount table that reaches it is too large"};
        if (new_blocks <= blocks && new_clusters <= clusters) break;
        blocks = std::max(blocks, new_blocks);
        clusters = std::max(clusters, new_clusters);
    }
    const auto last = (first + blocks + clusters) << bits;
    if (last > align_up(file_bytes_, header_.cluster_bytes())) {
        const auto room = file_.allocate(file_bytes_, last - file_bytes_);
        if (!room) return room.error();
    }
    const auto most = header_.refcount_order == 6 ? UINT64_MAX : (1ULL << header_.refcount_bits()) - 1;
    std::vector<std::byte> table(clusters << bits), raw(header_.cluster_bytes());
    for (std::uint64_t i = 0; i < blocks; i++) {
        std::fill(raw.begin(), raw.end(), std::byte{0});
        for (std::uint64_t k = 0; k < header_.block_clusters(); k++) {
            const auto c = i * header_.block_clusters() + k;
            const bool own = c >= first && c < first + blocks + clusters;
            const auto count = own ? 1 : users.count(c);
            if (count > most)
                return Error{Code::unsupported, "qcow2 image '" + file_.name() + "': cluster " + std::to_string(c) +
                                                    " has more users than its refcounts can count"};
            store_refcount(raw, header_.refcount_order, k, count);
        }
        store_be<std::uint64_t>(table, i * 8, (first + clusters + i) << bits);
        done = file_.write((first + clusters + i) << bits, raw);
        if (!done) return done;
    }
    done = file_.write(first << bits, table);
    if (done) done = file_.sync();
    if (!done) return done;
    header_.refcount_table_offset = first << bits;
    header_.refcount_table_clusters = static_cast<std::uint32_t>(clusters);
    header_.incompatible &= ~incompatible_dirty;
    const auto encoded = encode_header(header_);
    if (!encoded) return encoded.error();
    done = file_.write(0, *encoded);
    return done ? file_.sync() : done;
}

Status Checker::set_copied() {
    auto done = references_.visit_active([this](std::uint64_t at, std::uint64_t word, std::uint64_t users) {
        const auto right = users == 1 ? word | copied_flag : word & ~copied_flag;
        if (right == word) return ok();
        std::byte raw[8];
        store_be<std::uint64_t>(raw, 0, right);
        return file_.write(at, raw);
    });
    return done ? file_.sync() : done;
}

Result<CheckReport> run_once(BlockFile& file) {
    const auto opened = open_header(file);
    if (!opened) return opened.error();
    return Checker(file, opened->header, opened->file_bytes).run();
}

Status clear_marks(BlockFile& file) {
    auto opened = open_header(file);
    if (!opened) return opened.error();
    auto& header = opened->header;
    if ((header.incompatible & (incompatible_dirty | incompatible_corrupt)) == 0) return ok();
    header.incompatible &= ~(incompatible_dirty | incompatible_corrupt);
    const auto encoded = encode_header(header);
    if (!encoded) return encoded.error();
    auto done = file.write(0, *encoded);
    return done ? file.sync() : done;
}

Status repair(BlockFile& file, Repair how, const CheckReport& found) {
    const auto opened = open_header(file);
    if (!opened) return opened.error();
    Checker checker(file, opened->header, opened->file_bytes);
    const auto again = checker.run();
    if (!again) return again.error();
    Status done;
    if (how == Repair::leaks) {
        // A leaked user more had kept "copied" from clusters that have only one.
        if (found.corruptions == 0) done = checker.give_back_leaks();
        return done && found.corruptions == 0 ? checker.set_copied() : done;
    }
    // Where mappings are wrong, what looks free may be what they should point at.
    if (checker.is_too_low())
        done = checker.rebuild();
    else if (checker.faults() == 0)
        done = checker.give_back_leaks();
    return done ? checker.set_copied() : done;
}

}  // namespace

Result<CheckReport> check_image(BlockFile& file, const CheckOptions& options) {
    auto report = run_once(file);
    if (!report) {
        if (report.error().code != Code::corrupt) return report;
        CheckReport broken;
        broken.corruptions = 1;
        broken.messages.push_back(report.error().message);
        return broken;
    }
    if (options.repair == Repair::none) return report;
    auto done = repair(file, options.repair, *report);
    if (!done) return done.error();
    auto after = run_once(file);
    if (!after) return after;
    if (after->corruptions == 0 && options.repair == Repair::all) done = clear_marks(file);
    if (!done) return done.error();
    after->corruptions_fixed = report->corruptions - std::min(report->corruptions, after->corruptions);
    after->leaks_fixed = report->leaks - std::min(report->leaks, after->leaks);
    return after;
}

Status rebuild_refcounts(BlockFile& file) {
    const auto opened = open_header(file);
    if (!opened) return opened.error();
    Checker checker(file, opened->header, opened->file_bytes);
    const auto found = checker.run();
    if (!found) return found.error();
    if (checker.faults() != 0)
        return Error{Code::corrupt, "qcow2 image '" + file.name() + "': its writer left it dirty, and more is wrong: " +
                                        found->messages.front() + "; run a check of the image"};
    return checker.rebuild();
}

}  // namespace dmu::qcow2
