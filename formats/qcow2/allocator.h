// SPDX-License-Identifier: GPL-2.0-or-later
// Which clusters of the file are given to whom.
//
//   free --refill()--> pool --take()--> outstanding --used()--> in use
//    ^                  |                    |                    | freed()
//    |                  +----give_back()-----+                    v
//    +---- refcounts lowered <--recycle()-- durable <--settled()-- freed
//
// What is in the pool has its refcount of 1 on disk, durably, before it is taken: a crash
// leaks it, a successor never gives it out again, a commit need not wait for refcounts.
// The pool is filled in batches that grow. A freed cluster keeps its refcount until no
// read or write of it can be under way (recycle()) and a successor would not apply again
// what had put it to use.
#pragma once

#include <map>
#include <vector>

#include "formats/qcow2/metadata.h"
#include "formats/qcow2/rebuild.h"
#include "formats/qcow2/refcounts.h"

namespace dmu::qcow2 {

class Allocator {
public:
    Allocator(BlockFile& file, Header& header, Refcounts& refcounts, Metadata& metadata);

    // file_bytes: whole clusters, but on a block device.
    void set_end(std::uint64_t file_bytes);
    // Clusters of the file, the last one maybe cut.
    std::uint64_t end() const { return end_; }
    // Fresh space is a hole, not reserved in the file system; for creating images.
    void go_sparse() { sparse_ = true; }

    struct Run {
        std::uint64_t first = 0, count = 0;
        bool reads_as_zero = false;
    };
    // One run, of at most want and at least need clusters. Code::no_space: nothing changed.
    Result<Run> take(std::uint64_t need, std::uint64_t want);
    // Taken clusters that are now pointed at, or lost; they need not have been taken.
    void used(std::uint64_t first, std::uint64_t count) { outstanding_.remove(first, count); }
    // Taken, and not needed after all: nothing was written there that matters.
    void put_back(const Run& run);
    // Some of it can be taken: it can't be in somebody's hands.
    bool pooled(std::uint64_t first, std::uint64_t count) const;

    // One reference less, of an L2 table or an entry in it, once what says so is durable.
    void freed(std::uint64_t cluster, std::uint64_t table) {
        if (rebuild_ != nullptr) rebuild_->freed(cluster, table);
        freed_[cluster]++;
    }
    // A reference that was counted as freed is back (a change applied again).
    void unfreed(std::uint64_t cluster, std::uint64_t table);
    void settled();
    void recycle();
    // recycle() would have something to do.
    bool wants_recycling() const { return !durable_.empty(); }
    // Lowers the refcounts of what was recycled, in memory.
    Status lower();
    // The same for metadata that nothing on disk points at any more; no quarantine.
    void drop(std::uint64_t first, std::uint64_t count);

    // Everything reserved and not used becomes free; the file is cut where it can be.
    Status give_back();
    std::uint64_t reserved() const;  // clusters, in the pool
    // Refcounts are not right yet (rebuild.h): only what is past the file's end now is given out,
    // until nullptr.
    void set_rebuild(Rebuild* rebuild);
    // Something else lowered refcounts: the file is searched anew.
    void search_again() {
        cursor_ = 0;
        search_end_ = end_;
    }

private:
    using Counts = std::map<std::uint64_t, std::uint64_t>;

    Status refill(std::uint64_t need, std::uint64_t want, bool anything);
    Result<Refcounts::Run> find(std::uint64_t need, std::uint64_t want, bool thorough);
    Result<Refcounts::Run> find_at_end(std::uint64_t want);
    Status claim(std::uint64_t first, std::uint64_t count);
    struct Plan {
        std::uint64_t table_clusters = 0;  // 0: the refcount table stays
        std::vector<std::uint64_t> blocks;
        std::uint64_t clusters() const { return table_clusters + blocks.size(); }
    };
    Plan plan_metadata(std::uint64_t first, std::uint64_t count) const;
    Status place_metadata(const Plan& plan, std::uint64_t first);
    Status count_all(std::uint64_t first, std::uint64_t count, std::uint64_t value);
    Status cut_file();
    Error no_space() const;

    BlockFile& file_;
    Header& header_;
    Refcounts& refcounts_;
    Metadata& metadata_;
    std::uint64_t end_ = 0;
    bool sparse_ = false;
    Rebuild* rebuild_ = nullptr;
    std::uint64_t cursor_ = 0;      // the file is searched for free clusters from here
    std::uint64_t search_end_ = 0;  // up to here
    std::uint64_t step_ = 0;        // bytes, of the next batch
    std::vector<Run> pool_;
    Ranges free_;         // refcount 0 in memory
    Ranges outstanding_;  // taken, not used
    Counts freed_, durable_, recycled_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> old_tables_;  // dropped when the move is durable
};

}  // namespace dmu::qcow2
