// SPDX-License-Identifier: GPL-2.0-or-later
// Checks one sparse extent by its file alone, and repairs it.
#pragma once

#include <array>
#include <set>
#include <unordered_map>
#include <vector>

#include "formats/core/image.h"
#include "formats/vmdk/sparse_header.h"

namespace dmu::vmdk {

// A set of units; memory for what is in it only (a file may be sparse and huge).
class UnitSet {
public:
    // False: it was in already.
    bool insert(std::uint64_t unit) {
        auto& word = pages_[unit / page_units][unit % page_units / 64];
        const std::uint64_t bit = std::uint64_t{1} << unit % 64;
        if (word & bit) return false;
        word |= bit;
        count_++;
        return true;
    }
    std::uint64_t count() const { return count_; }

private:
    static constexpr std::uint64_t page_units = 4096;
    std::unordered_map<std::uint64_t, std::array<std::uint64_t, page_units / 64>> pages_;
    std::uint64_t count_ = 0;
};

class ExtentChecker {
public:
    // sectors: of the disk that the extent has. Adds to report.
    ExtentChecker(BlockFile& file, const SparseHeader& header, std::uint64_t file_bytes, std::uint64_t sectors,
                  Repair repair, CheckReport& report)
        : file_(file), header_(header), file_bytes_(file_bytes), sectors_(sectors), repair_(repair), report_(report) {}

    Status run();

private:
    // One of the two copies of directory and tables.
    struct Copy {
        const char* name = "";
        std::uint64_t directory = 0;  // sector
        std::vector<std::uint64_t> tables;
        std::vector<bool> is_bad;  // the directory's entry is wrong
    };
    struct Table {
        std::vector<std::uint64_t> entries;
        std::vector<const char*> faults;  // nullptr: none
    };
    struct Span {
        std::uint64_t start, end;  // bytes
        bool operator<(const Span& other) const { return start < other.start; }
    };

    void note(const std::string& what);
    void corrupt(const std::string& what) {
        report_.corruptions++;
        note(what);
    }
    Status read_copy(Copy& copy);
    void take_tables(Copy& copy);
    bool has_tables(std::uint64_t index) const;
    bool is_over_metadata(std::uint64_t start, std::uint64_t end) const;
    Status find_unit();
    Status check_table(std::uint64_t index);
    Result<Table> read_table(const Copy& copy, std::uint64_t index);
    const char* fault_of(std::uint64_t at, std::uint64_t entry) const;
    Status take_grains(std::uint64_t index, const Table& table);
    Status take_packed(std::uint64_t at, std::uint64_t host);
    Status write_table(Copy& copy, std::uint64_t index, const Table& table);
    Status mend(std::uint64_t index, Table& first, Table* second);
    void count_leaks();
    Status cut_tail();

    std::uint64_t grain() const { return header_.grain_bytes(); }
    std::uint64_t in_grain(std::uint64_t at) const { return std::min(grain(), sectors_ * sector_size - at); }

    BlockFile& file_;
    const SparseHeader header_;
    std::uint64_t file_bytes_;
    const std::uint64_t sectors_;
    const Repair repair_;
    CheckReport& report_;
    std::vector<Copy> copies_;  // what readers go by first
    std::set<Span> metadata_;
    std::uint64_t unit_ = 0;      // bytes: what grains are aligned to, at most a grain
    UnitSet used_, blocks_;       // units of grains; grain-sized blocks with anything in them
    std::vector<Span> packed_;    // compressed grains
    std::uint64_t used_end_ = 0;  // bytes
    bool is_changed_ = false;
    std::uint64_t unfixed_before_ = 0;
};

}  // namespace dmu::vmdk
