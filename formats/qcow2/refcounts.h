// SPDX-License-Identifier: GPL-2.0-or-later
// How often each cluster of the file is in use: the refcount table in memory, its
// blocks as they are needed. Changes are in memory until write() or make_durable().
#pragma once

#include <map>
#include <set>
#include <vector>

#include "formats/core/block_file.h"
#include "formats/core/table_cache.h"
#include "formats/qcow2/header.h"

namespace dmu::qcow2 {

// One refcount in a block. The narrow ones fill a byte from its low end.
std::uint64_t load_refcount(std::span<const std::byte> block, unsigned order, std::uint64_t index);
void store_refcount(std::span<std::byte> block, unsigned order, std::uint64_t index, std::uint64_t value);

class Refcounts {
public:
    // header: of the image, kept; moved tables are written into it.
    Refcounts(BlockFile& file, Header& header, std::uint64_t cache_bytes);

    // Reads and checks the table; nothing else.
    Status load(std::uint64_t file_bytes);

    const std::vector<std::uint64_t>& table() const { return table_; }
    std::uint64_t most() const {
        return header_.refcount_order == 6 ? UINT64_MAX : (1ULL << header_.refcount_bits()) - 1;
    }
    std::uint64_t block_of(std::uint64_t cluster) const { return cluster / header_.block_clusters(); }
    bool has_block(std::uint64_t index) const { return index < table_.size() && table_[index] != 0; }

    Result<std::uint64_t> get(std::uint64_t cluster);
    // The block must be there.
    Status set(std::uint64_t cluster, std::uint64_t value);
    // Code::corrupt below 0, Code::unsupported above most().
    Status add(std::uint64_t cluster, std::int64_t by);
    // A block to be looked at, or changed anywhere and given to changed(); nullptr: there is none.
    using Block = std::vector<std::byte>;
    Result<Block*> block(std::uint64_t index);
    void changed(std::uint64_t index);
    // The first run of at least need (at most want) clusters that nothing uses, in
    // [from, to) and within one block; count 0: none, go on at first.
    struct Run {
        std::uint64_t first = 0, count = 0;
    };
    Result<Run> find_free(std::uint64_t from, std::uint64_t to, std::uint64_t need, std::uint64_t want);

    // A fresh block, of zeros, at a cluster's offset.
    void add_block(std::uint64_t index, std::uint64_t offset);
    // A larger table, to be written at offset. False: more than the format can have.
    bool move_table(std::uint64_t offset, std::uint64_t clusters);

    bool changed() const { return !dirty_.empty() || !fresh_.empty() || moved_; }
    // Changed blocks, not synced; for what only frees space.
    Status write();
    // All of it, durable when it returns. On an error it can be tried again.
    Status make_durable();

private:
    // Bytes of a block.
    struct Span {
        std::uint64_t first, end;
    };

    Error corrupt(const std::string& what) const;
    void mark(std::uint64_t index, Span span);
    Status write_block(std::uint64_t index, Span span);
    Status write_table();

    BlockFile& file_;
    Header& header_;
    std::vector<std::uint64_t> table_;
    TableCache<Block> cache_;
    std::map<std::uint64_t, Span> dirty_;  // blocks, and where they differ from the disk; pinned
    std::set<std::uint64_t> fresh_;        // blocks that the table on disk does not have yet
    bool moved_ = false;                   // the table on disk is elsewhere
};

}  // namespace dmu::qcow2
