// SPDX-License-Identifier: GPL-2.0-or-later
// An open qcow2 image.
//
// In memory: the L1 table and the refcount table as they are on disk, where all L2
// tables and refcount blocks lie (sorted, for the overlap check), and the tables lately
// used. Space has its refcounts on disk before it is given out (allocator.h), so that a
// commit is:
//
//   1. L2 tables that no L1 entry points at yet: whole (new ones, and copies of those
//      that a snapshot shares)
//   2. sync: the guest's data and (1) are durable
//   3. changed sectors of the other L2 tables; L1 entries of (1)
//   4. sync
//
// An image that its writer left dirty has no refcounts to be trusted; they are made anew
// while it is in use (rebuild.h).
//
// So whatever is on disk points at something complete whose refcount is on disk. What
// (3) no longer points at keeps its refcount until recycle(); a crash leaks it. After a
// failure everything since the last completed step is written again.
#pragma once

#include <map>
#include <set>
#include <string_view>

#include "formats/core/image.h"
#include "formats/core/table_cache.h"
#include "formats/qcow2/allocator.h"
#include "formats/qcow2/entry.h"
#include "formats/qcow2/rebuild.h"
#include "formats/qcow2/snapshots.h"

namespace dmu::qcow2 {

inline constexpr std::uint64_t sector_words = sector_size / 8;  // of a table

// An L2 table in memory.
struct L2Table {
    std::vector<std::uint64_t> words;  // one for each cluster, two if extended
    std::vector<bool> dirty_sectors;
    std::uint64_t offset = 0;  // 0: has no place yet
    bool complete = false;     // on disk as a whole, durably, but for dirty_sectors
};

class Qcow2Image final : public Image, private Snapshots {
public:
    static Result<std::unique_ptr<Image>> open(std::unique_ptr<BlockFile> file, const OpenOptions& options);

    const ImageInfo& info() const override { return info_; }
    const std::vector<BlockFile*>& files() const override { return files_; }
    using Image::look_up;
    Result<std::vector<Extent>> look_up(GuestRange range, LookAhead ahead) override;
    Status read_compressed(GuestOffset start, std::span<std::byte> into) override;
    bool write_protected() const override { return protected_; }
    Status begin_writing() override;
    Result<Place> reserve(GuestRange range) override;
    Result<Place> reserve_any(std::uint64_t bytes) override;
    Status give_back(const Place& unused) override;
    Status apply(const Change& change) override;
    Status commit(DataState data) override;
    bool dirty() const override { return needs_sync_ || !dirty_.empty(); }
    void recycle() override { allocator_.recycle(); }
    bool wants_recycling() const override { return allocator_.wants_recycling(); }
    void take_over() override { successor_ = true; }
    bool has_work() const override { return rebuild_ != nullptr && !corrupt_; }
    Status work() override;
    Status resize(std::uint64_t bytes) override;
    Status write_compressed(GuestOffset start, std::span<const std::byte> from) override;
    Status set_backing(const std::optional<BackingReference>& backing) override;
    Snapshots* snapshots() override { return this; }
    const Cipher* cipher() const override { return cipher_.get(); }
    Status close() override;
    std::uint64_t allocated_bytes() const override;

    // Whole sectors of guest data into a place, encrypted where the image is.
    Status write_data(const Place& place, std::span<const std::byte> from);

    // For preallocation: fresh space is a hole.
    void go_sparse() {
        sparse_ = true;
        allocator_.go_sparse();
    }

private:
    Qcow2Image(std::unique_ptr<BlockFile> file, Header header, std::uint64_t file_bytes, bool writable,
               std::uint64_t cache_bytes);

    Error error(Code code, const std::string& what) const;
    // Also marks the image, where the format can and it is written to.
    Error corrupt(const std::string& what);
    Status writable_or_why() const;

    // Opening (qcow2_open.cc).
    static Result<Header> read_header(BlockFile& file, std::uint64_t file_bytes);
    Status check_mode(const OpenOptions& options) const;
    Status open_data_file(const OpenOptions& options);
    Status make_cipher(const OpenOptions& options);
    void describe();
    Status read_l1();
    Status read_tables();
    Status take_metadata();
    Status pad_file();
    Status write_header();

    std::uint64_t cluster_bytes() const { return header_.cluster_bytes(); }
    std::uint64_t l1_index(std::uint64_t guest) const { return guest >> header_.l2_shift(); }
    std::uint64_t l2_index(std::uint64_t guest) const {
        return guest >> header_.cluster_bits & (header_.l2_entries() - 1);
    }
    std::uint64_t table_end(std::uint64_t index) const;
    std::uint64_t disk_end() const;  // whole clusters
    bool has_table(std::uint64_t index) const { return (l1_[index] & offset_mask) != 0 || dirty_.count(index) != 0; }
    Entry entry_of(const L2Table& table, std::uint64_t index) const;
    // False: it was so already.
    bool set_entry(std::uint64_t table_index, L2Table& table, std::uint64_t index, const Entry& entry);

    // Look-up (qcow2_lookup.cc). nullptr: there is no table, all of it is unallocated.
    Result<L2Table*> load(std::uint64_t index);
    std::string_view fault_of_cluster(std::uint64_t host) const;
    std::string_view fault_of(const Entry& entry, std::uint64_t guest) const;
    void append(std::vector<Extent>& out, Extent extent) const;
    void append_data(Extent extent, std::vector<Extent>& out) const;
    void append_cluster(const Entry& entry, std::uint64_t start, std::uint64_t end, std::vector<Extent>& out) const;
    void append_mixed(const Entry& entry, std::uint64_t start, std::uint64_t end, std::vector<Extent>& out) const;
    Status append_table(const L2Table& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                        std::vector<Extent>& out);
    bool is_fixed(const Entry& entry) const;
    Result<Entry> entry_at(std::uint64_t guest);

    // Reserving and applying (qcow2_apply.cc).
    Status plan_tables(std::uint64_t start, std::uint64_t end);
    Result<Place> reserve_fixed(std::uint64_t start, std::uint64_t end, std::uint64_t host);
    Result<Place> reserve_data_file(std::uint64_t start, std::uint64_t end);
    Result<std::uint64_t> same_kind_end(std::uint64_t start, std::uint64_t end, std::uint64_t fixed_host);
    Status check_change(const Change& change);
    Status check_host(const Change& change);
    Result<L2Table*> load_to_change(std::uint64_t index);
    Status replace(std::uint64_t guest, const Entry& entry);
    void free_entry(const Entry& old, std::uint64_t guest, std::uint64_t kept);
    Status zero_cluster(std::uint64_t guest);

    // Leases (qcow2_lease.cc).
    bool needs_table(std::uint64_t index) const;
    std::uint64_t spares_wanted(std::uint64_t clusters) const;
    Status take_spares(std::uint64_t clusters);
    void put_back_spares(std::uint64_t keep);
    void use_leases(std::uint64_t cluster, std::uint64_t count, std::uint64_t guest);
    bool use_spare(std::uint64_t index);

    // Committing (qcow2_commit.cc).
    bool is_shared(std::uint64_t index) const { return l1_[index] != 0 && (l1_[index] & copied_flag) == 0; }
    Status place_tables();
    Status write_new_tables(bool& any);
    Status write_changed_sectors();
    Status write_table(const L2Table& table, std::uint64_t first_sector, std::uint64_t sectors);
    Status write_l1_entries();
    void settle();
    Status sync_files();
    Status replace_header(Header old);
    Status settle_header();

    // What open() put off (qcow2_rebuild.cc).
    void begin_rebuild();
    Status rebuild_step(std::uint64_t& bytes);
    Status forget_beyond();
    Status count_cluster(std::uint64_t cluster);
    Status count_entry(const Entry& entry, std::uint64_t limit, const std::string& who);
    Status count_fixed();
    Status count_table(std::uint64_t index, std::uint64_t& bytes);
    Status count_snapshot(std::uint64_t& bytes);
    Status begin_bitmaps();
    Status count_bitmap(std::uint64_t& bytes);
    Status write_window(std::uint64_t& bytes);
    Status place_blocks(std::uint64_t first, std::uint64_t end);
    Status end_rebuild();

    // Whole-image operations (qcow2_snapshot.cc, qcow2_resize.cc).
    const std::vector<Snapshot>& list() const override { return snapshot_list_; }
    Status create(const std::string& name) override;
    Status apply(const std::string& which) override;
    Status remove(const std::string& which) override;
    Result<std::size_t> find_snapshot(const std::string& which) const;
    Result<std::vector<std::uint64_t>> read_l1_table(std::uint64_t offset, std::uint64_t entries);
    Status count_references(const std::vector<std::uint64_t>& l1, std::int64_t by);
    Status count_some(const std::vector<std::uint64_t>& l1, std::int64_t by, std::uint64_t& counted,
                      std::uint64_t limit);
    Status refresh_copied();
    Status refresh_table(std::uint64_t index, bool& changed);
    Result<std::uint64_t> write_fresh(std::span<const std::byte> raw);
    Status write_snapshots(const std::vector<SnapshotEntry>& entries);
    Status settle_all();
    void forget_tables();
    Status use_l1(std::vector<std::uint64_t> l1, std::uint64_t size);
    Status drop_old_l1(const Header& old);
    Status release_l1(const Header& old, const std::vector<std::uint64_t>& gone);
    Status check_snapshots_possible() const;
    Status commit_snapshot(SnapshotEntry entry);
    Status drop_past_end();
    Status end_of_disk_for_growth();
    Status rewrite_last(const Entry& entry, std::uint64_t guest, std::uint64_t kept);
    Status zero_new_part(std::uint64_t from, std::uint64_t to);
    Status shrink(std::uint64_t to);
    std::uint64_t data_end() const;
    Result<std::uint64_t> place_compressed(std::uint64_t bytes);

    std::unique_ptr<BlockFile> file_, data_file_;
    std::vector<BlockFile*> files_;
    Header header_;
    std::uint64_t file_bytes_;  // when opened
    const bool writable_;
    const std::uint64_t cache_bytes_;  // of L2 tables; half as many of refcounts
    bool info_only_ = false;
    bool protected_ = false;
    bool sparse_ = false;
    ImageInfo info_;
    std::unique_ptr<Cipher> cipher_;
    Metadata metadata_;
    Refcounts refcounts_;
    Allocator allocator_;
    std::unique_ptr<Rebuild> rebuild_;  // while refcounts are not right
    bool successor_ = false;
    bool corrupt_ = false;     // seen: no further allocation
    bool needs_sync_ = false;  // something applied is not known to be durable
    bool unsure_ = false;      // a header that was given up again may be on disk: nothing commits before header_ is

    std::vector<std::uint64_t> l1_;                   // as on disk
    std::map<std::uint64_t, std::uint64_t> planned_;  // L1 index -> place for a table to come
    Ranges leased_;                                   // clusters that nobody reported used
    // Clusters for tables that leased ones may need: one for each of them, as long as there
    // are so many tables to come.
    std::vector<std::uint64_t> spares_;
    TableCache<L2Table> cache_;
    std::set<std::uint64_t> dirty_;  // L1 indices of tables with changes; pinned in the cache
    SnapshotTable snapshots_;
    std::vector<Snapshot> snapshot_list_;
    std::uint64_t compressed_at_ = 0, compressed_end_ = 0;  // room for the next compressed cluster
    bool counts_first_ = false;                             // refcounts that went up must be durable before an L2 entry
    std::uint64_t inflated_at_ = UINT64_MAX;                // guest offset of what is in inflated_
    std::vector<std::byte> inflated_;
};

}  // namespace dmu::qcow2
