// SPDX-License-Identifier: GPL-2.0-or-later
// An open qcow image.
//
// In memory: the L1 table as it is on disk, the offsets of all L2 tables (sorted, for
// the overlap check), and the L2 tables lately used. apply() changes L2 tables in
// memory; commit() writes them:
//
//   1. L2 tables that no L1 entry points at yet: whole
//   2. sync: the guest's data and (1) are durable
//   3. changed sectors of the other L2 tables; L1 entries of (1)
//   4. sync
//
// So whatever is on disk points at something complete. An entry is 8-aligned and never
// torn. After a failure everything since the last completed step is written again.
//
// A successor may find what its predecessor wrote in (3) without (4): applying a change
// that is in the table already therefore still asks for a sync.
#pragma once

#include <map>
#include <set>

#include "formats/core/image.h"
#include "formats/core/table_cache.h"
#include "formats/core/tail_allocator.h"
#include "formats/qcow/header.h"

namespace dmu::qcow {

inline constexpr std::uint64_t sector_entries = sector_size / 8;  // of a table

// An L2 table in memory.
struct L2Table {
    std::vector<std::uint64_t> entries;
    std::vector<bool> dirty_sectors;  // 64 entries each
    std::uint64_t offset = 0;         // 0: has no place yet
    bool complete = false;            // on disk as a whole, durably, but for dirty_sectors
};

class QcowImage final : public Image {
public:
    static Result<std::unique_ptr<Image>> open(std::unique_ptr<BlockFile> file, const OpenOptions& options);

    const ImageInfo& info() const override { return info_; }
    const std::vector<BlockFile*>& files() const override { return files_; }
    using Image::look_up;
    Result<std::vector<Extent>> look_up(GuestRange range, LookAhead ahead) override;
    Status read_compressed(GuestOffset start, std::span<std::byte> into) override;
    Result<Place> reserve(GuestRange range) override;
    Result<Place> reserve_any(std::uint64_t bytes) override;
    Status give_back(const Place& unused) override;
    Status apply(const Change& change) override;
    Status commit(DataState data) override;
    bool dirty() const override { return needs_sync_ || !dirty_.empty(); }
    Status resize(std::uint64_t bytes) override;
    Status write_compressed(GuestOffset start, std::span<const std::byte> from) override;
    Status set_backing(const std::optional<BackingReference>& backing) override;
    const Cipher* cipher() const override { return cipher_.get(); }
    Status close() override;
    // All of the file but header and tables: leaks count, nothing is scanned.
    std::uint64_t allocated_bytes() const override;

private:
    QcowImage(std::unique_ptr<BlockFile> file, const Header& header, std::uint64_t file_bytes,
              const OpenOptions& options);

    Error error(Code code, const std::string& what) const;
    Error corrupt(const std::string& what);

    // Opening (qcow_open.cc).
    Status take_options(const OpenOptions& options);
    Status read_name();
    Status read_l1();
    Status take_tables();
    Status pad_file();

    std::uint64_t cluster_bytes() const { return header_.cluster_bytes(); }
    std::uint64_t l1_index(std::uint64_t guest) const { return guest >> header_.l2_shift(); }
    std::uint64_t l2_index(std::uint64_t guest) const {
        return guest >> header_.cluster_bits & (header_.l2_entries() - 1);
    }
    // Where what L1 entry index is for ends, on the disk.
    std::uint64_t table_end(std::uint64_t index) const;
    bool has_table(std::uint64_t index) const { return l1_[index] != 0 || dirty_.count(index) != 0; }

    // nullptr: there is none, all of it is unallocated.
    Result<L2Table*> load(std::uint64_t index);
    // leased: a table that is made takes a place that reserve_any() kept for it.
    Result<L2Table*> load_or_make(std::uint64_t index, bool leased);

    // Why a cluster of data can't lie at host; empty: it can.
    std::string fault_of_data(std::uint64_t host, std::uint64_t limit) const;
    // Entries read from disk end below the file's end as it was when opened, those made
    // since below what has been given out. A table that has one past the former when it
    // is first read is suspect: what is allocated there later must not make it valid.
    void scan_table(std::uint64_t index, const L2Table& table);
    std::uint64_t limit_of(std::uint64_t index) const;
    bool is_over_fixed(std::uint64_t start, std::uint64_t end) const;
    bool is_over_table(std::uint64_t start, std::uint64_t end) const;
    void remember_table(std::uint64_t offset);

    struct Answer {
        ExtentKind kind = ExtentKind::unallocated;
        std::uint64_t host = 0;
        std::uint64_t in_file = 0;  // data: bytes of the cluster before the file's end
        std::string fault;
    };
    Answer answer(std::uint64_t entry, std::uint64_t limit) const;
    Status append_table(const L2Table& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                        std::vector<Extent>& out);
    void append(std::vector<Extent>& out, Extent extent) const;
    void append_cluster(const Answer& cluster, std::uint64_t start, std::uint64_t end, std::vector<Extent>& out) const;

    // Reserving and applying (qcow_image.cc).
    std::vector<std::uint64_t> tables_to_place(std::uint64_t start, std::uint64_t end) const;
    Status check_change(const Change& change) const;
    // The table of a guest byte gets a place, if it has none.
    Status reserve_tables(std::uint64_t guest);
    // leased: its space comes from a lease, so does what its table may need.
    Status set_entry(std::uint64_t guest, std::uint64_t entry, bool leased = false);

    // Offline (qcow_offline.cc).
    Status inflate(std::uint64_t guest, std::uint64_t entry);
    Result<std::uint64_t> take_packed(std::uint64_t bytes);
    Status write_whole(std::uint64_t guest, std::span<const std::byte> cluster);
    Status write_header(const Header& header);
    Status can_change();
    Status clear_behind(std::uint64_t end);
    Status drop_behind(std::uint64_t end);
    Status grow_l1(Header& header);

    // Leases (qcow_lease.cc).
    std::uint64_t spares_missing(std::uint64_t length) const;
    void add_free(std::uint64_t start, std::uint64_t length, bool reads_as_zero);
    Place take_free(std::uint64_t length);
    bool use_lease(std::uint64_t start, std::uint64_t length);
    void put_back_tail();

    // Committing (qcow_commit.cc).
    Status place_tables();
    Status write_new_tables(bool& any);
    Status write_changed_sectors();
    Status write_table(const L2Table& table, std::uint64_t first_sector, std::uint64_t sectors);
    Status write_l1_entries();
    void settle();

    std::unique_ptr<BlockFile> file_;
    std::vector<BlockFile*> files_;
    Header header_;
    const std::uint64_t file_bytes_;  // when opened
    const bool writable_;
    ImageInfo info_;
    std::unique_ptr<Cipher> cipher_;
    TailAllocator tail_;
    bool corrupt_ = false;     // seen: no further allocation
    bool needs_sync_ = false;  // something applied is not known to be durable

    std::vector<std::uint64_t> l1_;                   // as on disk
    std::vector<std::uint64_t> table_offsets_;        // sorted; of every table, planned ones too
    std::map<std::uint64_t, std::uint64_t> planned_;  // L1 index -> place for a table to come
    struct FreeSpace {
        std::uint64_t length = 0;
        bool reads_as_zero = false;
    };
    std::map<std::uint64_t, std::uint64_t> leased_;  // start -> bytes that nobody reported used
    std::uint64_t leased_bytes_ = 0;
    std::map<std::uint64_t, FreeSpace> free_;  // by start: given back
    // Places for tables that leased clusters may need: one for each of them, as long as
    // there are so many tables to come.
    std::vector<std::uint64_t> spare_tables_;
    std::vector<bool> scanned_;        // by L1 index: read once, or made here
    std::set<std::uint64_t> suspect_;  // L1 indices, see scan_table()
    TableCache<L2Table> cache_;
    std::uint64_t inflated_entry_ = 0;  // whose content inflated_ holds
    std::vector<std::byte> inflated_;
    std::uint64_t packed_next_ = 0, packed_end_ = 0;  // where the next compressed cluster may go
    std::set<std::uint64_t> dirty_;                   // L1 indices of tables with changes; pinned in the cache
};

}  // namespace dmu::qcow
