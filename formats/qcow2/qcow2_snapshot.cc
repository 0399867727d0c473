// SPDX-License-Identifier: GPL-2.0-or-later
// Internal snapshots. Refcounts go up before anything points twice, and down after
// nothing does; "copied" is cleared between the two, and set again at the end. A crash
// leaves leaked space, or a flag that costs a copy, never a shared cluster that looks
// like an own one.
#include <algorithm>
#include <charconv>
#include <chrono>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow2/qcow2_image.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t no_instruction_count = UINT64_MAX;
constexpr std::size_t max_name = 65535;

std::vector<std::byte> encode_l1(const std::vector<std::uint64_t>& l1, std::uint64_t keep) {
    std::vector<std::byte> raw(l1.size() * 8);
    for (std::size_t i = 0; i < l1.size(); i++) store_be<std::uint64_t>(raw, i * 8, l1[i] & keep);
    return raw;
}

std::uint64_t id_number(const std::string& id) {
    std::uint64_t number = 0;
    std::from_chars(id.data(), id.data() + id.size(), number);
    return number;
}

}  // namespace

// Nothing pending, no table planned: what is on disk is what is in memory.
Status Qcow2Image::settle_all() {
    auto done = begin_writing();
    while (done && has_work()) done = work();
    if (done) done = writable_or_why();
    if (done) done = commit(DataState::written);
    if (!done) return done;
    compressed_at_ = compressed_end_ = 0;
    for (const auto& [index, offset] : planned_) {
        metadata_.remove_table(offset >> header_.cluster_bits);
        allocator_.put_back({offset >> header_.cluster_bits, 1, false});
    }
    planned_.clear();
    // The next lease makes up for them.
    put_back_spares(0);
    return ok();
}

void Qcow2Image::forget_tables() {
    cache_ = TableCache<L2Table>(std::max<std::uint64_t>(cache_bytes_ / cluster_bytes(), 4));
    inflated_at_ = UINT64_MAX;
}

Result<std::vector<std::uint64_t>> Qcow2Image::read_l1_table(std::uint64_t offset, std::uint64_t entries) {
    std::vector<std::byte> raw(entries * 8);
    auto done = file_->read(offset, raw);
    if (!done) return done.error();
    std::vector<std::uint64_t> l1(entries);
    for (std::size_t i = 0; i < l1.size(); i++) l1[i] = load_be<std::uint64_t>(raw, i * 8);
    return l1;
}

// Clusters of their own for raw, padded with zeros; not synced.
Result<std::uint64_t> Qcow2Image::write_fresh(std::span<const std::byte> raw) {
    const auto bytes = align_up(std::max<std::uint64_t>(raw.size(), 1), cluster_bytes());
    const auto run = allocator_.take(bytes >> header_.cluster_bits, bytes >> header_.cluster_bits);
    if (!run) return run.error();
    std::vector<std::byte> padded(bytes);
    std::copy(raw.begin(), raw.end(), padded.begin());
    auto done = file_->write(run->first << header_.cluster_bits, padded);
    if (!done) {
        allocator_.put_back({run->first, run->count, false});
        return done.error();
    }
    allocator_.used(run->first, run->count);
    metadata_.fixed.add(run->first, run->count);
    return run->first << header_.cluster_bits;
}

// ------------------------------------------------------------ references ---

// Every reference that an L1 table makes, until limit of them.
Status Qcow2Image::count_some(const std::vector<std::uint64_t>& l1, std::int64_t by, std::uint64_t& counted,
                              std::uint64_t limit) {
    const auto count = [&](std::uint64_t host) {
        if (host % cluster_bytes() != 0 || host >= allocator_.end() << header_.cluster_bits)
            return Status(error(
                Code::corrupt,
                "byte " + std::to_string(host) + ", which a table points at, is no cluster of the file; run a check"));
        auto done = refcounts_.add(host >> header_.cluster_bits, by);
        if (done) counted++;
        return done;
    };
    std::vector<std::byte> raw(cluster_bytes());
    for (std::size_t i = 0; i < l1.size() && counted < limit; i++) {
        const auto table = l1[i] & offset_mask;
        if (table == 0) continue;
        auto done = count(table);
        if (done) done = file_->read(table, raw);
        const auto step = std::size_t{1} << header_.l2_entry_bits();
        for (std::size_t at = 0; done && at < raw.size() && counted < limit; at += step) {
            const Entry entry{load_be<std::uint64_t>(raw, at), 0};
            if (entry.compressed()) {
                const auto place = compressed_place(header_, entry.word);
                auto c = align_down(place.offset, cluster_bytes());
                for (; done && c < place.offset + place.bytes && counted < limit; c += cluster_bytes()) done = count(c);
            } else if (entry.offset() != 0) {
                done = count(entry.offset());
            }
        }
        if (!done) return done;
    }
    return ok();
}

// On an error refcounts are too high at worst: those that go down have lost their references
// before, and those that went up go down again as far as they can be reached.
Status Qcow2Image::count_references(const std::vector<std::uint64_t>& l1, std::int64_t by) {
    std::uint64_t counted = 0, undone = 0;
    auto done = count_some(l1, by, counted, UINT64_MAX);
    if (!done && by > 0) (void)count_some(l1, -by, undone, counted);
    return done;
}

Status Qcow2Image::refresh_table(std::uint64_t index, bool& changed) {
    const auto offset = l1_[index] & offset_mask;
    std::vector<std::byte> raw(cluster_bytes());
    auto done = file_->read(offset, raw);
    const auto step = std::size_t{1} << header_.l2_entry_bits();
    bool rewritten = false;
    for (std::size_t at = 0; done && at < raw.size(); at += step) {
        const auto word = load_be<std::uint64_t>(raw, at);
        if ((word & compressed_flag) != 0 || (word & offset_mask) == 0) continue;
        const auto count = refcounts_.get((word & offset_mask) >> header_.cluster_bits);
        if (!count) return count.error();
        const auto right = *count == 1 ? word | copied_flag : word & ~copied_flag;
        if (right == word) continue;
        store_be<std::uint64_t>(raw, at, right);
        rewritten = true;
    }
    if (!done || !rewritten) return done;
    changed = true;
    return file_->write(offset, raw);
}

// "copied" as the refcounts have it, in the L1 table and all its L2 tables.
Status Qcow2Image::refresh_copied() {
    forget_tables();
    bool changed = false;
    auto l1 = l1_;
    for (std::size_t i = 0; i < l1.size(); i++) {
        const auto offset = l1[i] & offset_mask;
        if (offset == 0) continue;
        const auto count = refcounts_.get(offset >> header_.cluster_bits);
        if (!count) return count.error();
        l1[i] = *count == 1 ? l1[i] | copied_flag : l1[i] & ~copied_flag;
        auto done = refresh_table(i, changed);
        if (!done) return done;
    }
    if (l1 != l1_) {
        changed = true;
        auto done = file_->write(header_.l1_offset, encode_l1(l1, UINT64_MAX));
        if (!done) return done;
        l1_ = std::move(l1);
    }
    return changed ? file_->sync() : ok();
}

// -------------------------------------------------------------- the table ---

Status Qcow2Image::write_snapshots(const std::vector<SnapshotEntry>& entries) {
    const auto raw = encode_snapshots(entries);
    std::uint64_t place = 0;
    if (!entries.empty()) {
        const auto written = write_fresh(raw);
        if (!written) return written.error();
        place = *written;
    }
    auto done = file_->sync();
    if (!done) return done;
    const auto old = header_;
    const auto old_bytes = snapshots_.bytes;
    header_.snapshots = static_cast<std::uint32_t>(entries.size());
    header_.snapshots_offset = place;
    done = replace_header(old);
    if (!done) return done;
    if (old.snapshots != 0)
        allocator_.drop(old.snapshots_offset >> header_.cluster_bits,
                        align_up(old_bytes, cluster_bytes()) >> header_.cluster_bits);
    snapshots_ = {entries, raw.size()};
    snapshot_list_.clear();
    for (const auto& entry : entries) snapshot_list_.push_back(entry.what);
    return ok();
}

Result<std::size_t> Qcow2Image::find_snapshot(const std::string& which) const {
    for (const bool by_id : {true, false})
        for (std::size_t i = 0; i < snapshot_list_.size(); i++)
            if ((by_id ? snapshot_list_[i].id : snapshot_list_[i].name) == which) return i;
    return error(Code::not_found, "it has no snapshot '" + which + "'");
}

Status Qcow2Image::check_snapshots_possible() const {
    if (info_only_ || !writable_) return error(Code::denied, "it is open for reading only");
    if (data_file_) return error(Code::unsupported, "with an external data file it can't have internal snapshots");
    return ok();
}

Status Qcow2Image::commit_snapshot(SnapshotEntry entry) {
    auto done = refcounts_.make_durable();
    if (done) done = refresh_copied();
    if (!done) return done;
    const auto place = write_fresh(encode_l1(l1_, ~copied_flag));
    if (!place) return place.error();
    entry.l1_offset = *place;
    auto entries = snapshots_.entries;
    entries.push_back(std::move(entry));
    done = write_snapshots(entries);
    if (!done && !unsure_)
        allocator_.drop(*place >> header_.cluster_bits,
                        align_up(l1_.size() * 8, cluster_bytes()) >> header_.cluster_bits);
    return done;
}

Status Qcow2Image::create(const std::string& name) {
    auto done = check_snapshots_possible();
    if (!done) return done;
    if (name.empty() || name.size() > max_name || name.find('\0') != std::string::npos)
        return error(Code::invalid, "the name of a snapshot must have 1 to 65535 bytes, no NUL");
    if (snapshots_.entries.size() >= max_snapshots) return error(Code::unsupported, "it has 65536 snapshots already");
    done = settle_all();
    if (!done) return done;

    SnapshotEntry entry;
    std::uint64_t last = 0;
    for (const auto& snapshot : snapshot_list_) last = std::max(last, id_number(snapshot.id));
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto nanoseconds = static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
    entry.what = {std::to_string(last + 1),
                  name,
                  nanoseconds / 1000000000,
                  static_cast<std::uint32_t>(nanoseconds % 1000000000),
                  0,
                  0,
                  header_.size};
    entry.l1_entries = header_.l1_entries;
    entry.extra.resize(24);
    store_be<std::uint64_t>(entry.extra, 8, header_.size);
    store_be<std::uint64_t>(entry.extra, 16, no_instruction_count);

    done = count_references(l1_, 1);
    if (!done) return done;
    done = commit_snapshot(std::move(entry));
    if (done || unsure_) return done;
    // Nothing points at it twice. What can't be undone is a leak.
    if (count_references(l1_, -1) && refcounts_.make_durable()) (void)refresh_copied();
    return done;
}

// The header points at another L1 table, durably; the old one is not dropped.
Status Qcow2Image::use_l1(std::vector<std::uint64_t> l1, std::uint64_t size) {
    const auto place = write_fresh(encode_l1(l1, UINT64_MAX));
    if (!place) return place.error();
    auto done = file_->sync();
    if (!done) return done;
    const auto old = header_;
    header_.l1_offset = *place;
    header_.l1_entries = static_cast<std::uint32_t>(l1.size());
    header_.size = size;
    done = replace_header(old);
    if (done) l1_ = std::move(l1);
    return done;
}

Status Qcow2Image::drop_old_l1(const Header& old) {
    if (old.l1_entries != 0)
        allocator_.drop(old.l1_offset >> header_.cluster_bits,
                        align_up(old.l1_bytes(), cluster_bytes()) >> header_.cluster_bits);
    return allocator_.lower();
}

Status Qcow2Image::apply(const std::string& which) {
    auto done = check_snapshots_possible();
    if (!done) return done;
    const auto found = find_snapshot(which);
    if (!found) return found.error();
    done = settle_all();
    if (!done) return done;
    const auto snapshot = snapshots_.entries[*found];
    auto l1 = read_l1_table(snapshot.l1_offset, snapshot.l1_entries);
    if (!l1) return l1.error();
    const auto needed = header_.l1_needed(snapshot.what.virtual_size);
    if (needed > max_l1_bytes / 8) return error(Code::corrupt, "snapshot '" + which + "' has an impossible size");
    l1->resize(std::max<std::uint64_t>(needed, l1->size()));
    for (auto& entry : *l1) entry &= ~copied_flag;
    done = count_references(*l1, 1);
    if (!done) return done;
    done = refcounts_.make_durable();
    const auto old = header_;
    const auto old_l1 = l1_;
    if (done) done = use_l1(*l1, snapshot.what.virtual_size);
    if (!done) {
        if (!unsure_ && count_references(*l1, -1)) (void)refcounts_.make_durable();
        return done;
    }
    describe();
    return release_l1(old, old_l1);
}

// The disk has another L1 table now; where something fails from here on, what entries point at
// that are gone with the old one leaks.
Status Qcow2Image::release_l1(const Header& old, const std::vector<std::uint64_t>& gone) {
    forget_tables();
    auto done = take_metadata();
    if (done) done = count_references(gone, -1);
    if (done) done = drop_old_l1(old);
    allocator_.search_again();
    if (done) done = refcounts_.make_durable();
    return done ? refresh_copied() : done;
}

Status Qcow2Image::remove(const std::string& which) {
    auto done = check_snapshots_possible();
    if (!done) return done;
    const auto found = find_snapshot(which);
    if (!found) return found.error();
    done = settle_all();
    if (!done) return done;
    const auto gone = snapshots_.entries[*found];
    const auto l1 = read_l1_table(gone.l1_offset, gone.l1_entries);
    if (!l1) return l1.error();
    auto entries = snapshots_.entries;
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(*found));
    done = write_snapshots(entries);
    if (!done) return done;
    done = count_references(*l1, -1);
    if (gone.l1_entries != 0)
        allocator_.drop(gone.l1_offset >> header_.cluster_bits,
                        align_up(gone.l1_bytes(), cluster_bytes()) >> header_.cluster_bits);
    if (done) done = allocator_.lower();
    allocator_.search_again();
    if (done) done = refcounts_.make_durable();
    return done ? refresh_copied() : done;
}

}  // namespace dmu::qcow2
