// SPDX-License-Identifier: GPL-2.0-or-later
// One open sparse extent of any kind. Guest offsets count from the extent's start.
//
// In memory: the grain directory and its redundant copy as they are on disk, the places of
// all grain tables (sorted, for the overlap check), and the tables lately used. apply()
// changes tables in memory; commit() writes them:
//
//   1. grain tables that no directory points at yet, whole; COWD's first free sector;
//      the mark of an unclean shutdown
//   2. sync: the guest's data and (1) are durable
//   3. changed sectors of the other grain tables, then directory entries of (1), in the
//      redundant copy and in the first one
//   4. sync
//
// The first copy is what is read. A crash between 2 and 4 may leave the copies different;
// both are then right for some time after the last flush. A table whose copies are found
// to differ is written whole to both when it is next changed.
//
// There is no map of what is free: new space is at the end of the file. Grains that a
// discard freed are remembered here, and given out again once that is durable and
// recycle() was called, and so is what comes back of leases; a successor does not know
// them (a leak), and what is at the file's end at close() is cut off.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "formats/core/image.h"
#include "formats/core/ranges.h"
#include "formats/core/table_cache.h"
#include "formats/core/tail_allocator.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

struct GrainTable {
    std::vector<std::uint64_t> entries;  // as decode_entry() has them
    std::vector<bool> dirty_sectors;
    std::uint64_t offset = 0;         // bytes; 0: has no place yet
    std::uint64_t second_offset = 0;  // of the redundant copy
    // On disk as a whole, durably, but for dirty_sectors.
    bool complete = false, second_complete = false;
    bool copies_differ = false;
};

class SparseExtent {
public:
    struct Setup {
        BlockFile* file;      // outlives the extent
        unsigned index;       // in Image::files()
        std::uint64_t bytes;  // of the disk that the extent has: at most its capacity
        bool writable = false;
        bool has_parent = false;
        std::uint64_t cache_bytes = 1 << 20;
    };
    static Result<std::unique_ptr<SparseExtent>> open(const Setup& setup, const SparseHeader& header);

    const SparseHeader& header() const { return header_; }
    BlockFile& file() { return file_; }
    unsigned file_index() const { return setup_.index; }
    std::uint64_t bytes() const { return setup_.bytes; }
    std::uint64_t grain_bytes() const { return header_.grain_bytes(); }
    bool is_empty() const;
    bool discards_to_zero() const { return header_.has_zeroed() || !setup_.has_parent; }

    // As Image's of the same name, appending to out. may_write: data in place.
    Status look_up(GuestRange range, LookAhead ahead, bool may_write, std::vector<Extent>& out);
    Status read_compressed(std::uint64_t at, std::span<std::byte> into);
    // Space comes back only through recycle(): the caller calls it when no successor can be
    // told to apply again what freed the space.
    Result<Place> reserve(GuestRange range);
    Result<Place> reserve_any(std::uint64_t bytes);
    Status give_back(const Place& unused);
    Status apply(const Change& change);
    Status commit(DataState data);
    bool dirty() const { return needs_sync_ || !dirty_.empty(); }
    void recycle();
    bool wants_recycling() const { return !drained_.empty(); }
    Status close();
    std::uint64_t allocated_bytes() const;

private:
    SparseExtent(const Setup& setup, const SparseHeader& header, std::uint64_t file_bytes);

    Error error(Code code, const std::string& what) const;
    Error corrupt(const std::string& what);

    // Opening
    Status read_directory(std::uint64_t sector, std::vector<std::uint64_t>& into);
    Status take_tables();
    Status take_table(const char* which, std::uint64_t index, std::uint64_t sector);
    Status separate();
    Status pad_file();

    std::uint64_t table_index(std::uint64_t at) const { return at / header_.table_covers(); }
    std::uint64_t entry_index(std::uint64_t at) const { return at % header_.table_covers() / grain_bytes(); }
    std::uint64_t table_end(std::uint64_t index) const {
        return std::min((index + 1) * header_.table_covers(), setup_.bytes);
    }
    // Bytes of the extent in the grain that holds a byte.
    std::uint64_t grain_end(std::uint64_t at) const {
        return std::min(align_down(at, grain_bytes()) + grain_bytes(), setup_.bytes);
    }
    bool has_table(std::uint64_t index) const { return directory_[index] != 0 || dirty_.count(index) != 0; }
    bool has_redundant() const { return !redundant_.empty(); }

    // Tables
    Result<GrainTable*> load(std::uint64_t index);
    Result<GrainTable*> load_or_make(std::uint64_t index);
    Status read_table(std::uint64_t offset, std::vector<std::uint64_t>& entries);
    void scan_table(std::uint64_t index, const GrainTable& table);
    std::uint64_t limit_of(std::uint64_t index) const;
    void remember_table(std::uint64_t offset);
    std::string fault_of_data(std::uint64_t host, std::uint64_t bytes, std::uint64_t limit) const;
    bool is_over_fixed(std::uint64_t start, std::uint64_t end) const;
    bool is_over_table(std::uint64_t start, std::uint64_t end) const;
    Status append_table(const GrainTable& table, std::uint64_t& at, std::uint64_t end, std::uint64_t needed,
                        bool may_write, std::vector<Extent>& out);

    // Compressed grains (compressed_grain.cc)
    Status inflate_grain(std::uint64_t at);
    Result<std::vector<std::byte>> read_packed(std::uint64_t at, std::uint64_t host);

    // Reserving and applying (sparse_write.cc)
    bool needs_table(std::uint64_t index) const;
    std::vector<std::uint64_t> tables_to_place(std::uint64_t start, std::uint64_t end) const;
    // Bytes of a table and its redundant copy.
    std::uint64_t table_places() const { return header_.table_space() * (has_redundant() ? 2 : 1); }
    std::uint64_t tables_space(std::size_t tables) const;
    Status make_room(std::uint64_t bytes);
    std::uint64_t find_free(std::uint64_t bytes) const;
    void plan_tables(const std::vector<std::uint64_t>& indices);
    void plan_table(std::uint64_t index, std::uint64_t at);
    Status check_change(const Change& change) const;
    Status set_entry(std::uint64_t at, std::uint64_t value);
    void free_grain(std::uint64_t entry);

    // Leases (sparse_lease.cc)
    std::uint64_t spare_chunk() const;
    std::uint64_t chunks_missing(std::uint64_t bytes) const;
    void add_spares(std::uint64_t chunk);
    std::uint64_t first_free(std::uint64_t most) const;
    std::uint64_t take_free(std::uint64_t bytes);
    void use_lease(std::uint64_t host, std::uint64_t at);
    void put_back_tail();

    // Committing (sparse_commit.cc)
    Status place_tables();
    Status write_first(bool& any);
    Status write_marks(bool& any);
    Status write_free_sector(std::uint64_t end);
    Status write_changed();
    Status write_directory(std::vector<std::uint64_t>& directory, std::uint64_t sector, std::uint64_t GrainTable::*at);
    Status write_table(const GrainTable& table, std::uint64_t offset, std::uint64_t first_sector,
                       std::uint64_t sectors);
    Status write_unclean(bool unclean);
    Status cut_tail();
    void settle();

    const Setup setup_;
    BlockFile& file_;
    const SparseHeader header_;
    const std::uint64_t file_bytes_;  // when opened
    TailAllocator tail_;
    bool corrupt_ = false;     // seen: no further allocation
    bool needs_sync_ = false;  // something applied is not known to be durable
    bool is_marked_ = false;   // the unclean mark is ours
    bool marks_to_sync_ = false;
    bool needs_buffering_ = false;   // a grain was found in a block of direct I/O with others
    std::uint64_t free_sector_ = 0;  // COWD: as on disk

    std::vector<std::uint64_t> directory_, redundant_;  // sectors, as on disk
    std::vector<std::uint64_t> table_offsets_;          // bytes, sorted; planned ones too
    struct Places {
        std::uint64_t first = 0, second = 0;
    };
    std::map<std::uint64_t, Places> planned_;  // table -> place for it to come
    std::vector<bool> scanned_;
    std::set<std::uint64_t> suspect_;  // tables with entries past the file's end when opened
    TableCache<GrainTable> cache_;
    std::set<std::uint64_t> dirty_;  // tables with changes; pinned in the cache

    Ranges leased_;  // bytes that nobody reported used
    // Places for tables that leased grains may need: one for each of them, as long as there
    // are so many tables to come. In pieces of spare_chunk() bytes: start -> the next place.
    std::map<std::uint64_t, std::uint64_t> spares_;
    std::uint64_t spare_tables_ = 0;  // left in them

    // Host bytes of grains: freed by what was applied, durably freed, free to be given out.
    std::vector<std::uint64_t> freed_, drained_;
    std::set<std::uint64_t> free_;

    std::vector<std::byte> inflated_;  // the grain read last
    std::uint64_t inflated_at_ = ~std::uint64_t{0};
};

}  // namespace dmu::vmdk
