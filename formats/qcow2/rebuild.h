// SPDX-License-Identifier: GPL-2.0-or-later
// Refcounts of an image that its writer left dirty: made anew while it is in use.
//
// What the image says of the clusters that the file had when it was opened (the old ones)
// is not to be trusted: none of them is given out, space comes from past that end, where
// the allocator keeps refcounts as ever. Piece by piece the users of the old ones are
// counted, for a window of clusters at a time, so that memory is bounded whatever the
// image's size:
//
//   begin window -> what is fixed -> active L2 tables -> snapshots -> bitmaps -> written
//        ^                                                                        |
//        +------------------------------------------------------------------------+
//
// Meanwhile entries of active tables go (discards, copies on write); new ones point past
// the old end only. A reference that goes before it was seen is remembered until what says
// so is durable and nobody reads there any more, and counted till then (early_). The dirty
// mark goes last: a crash leaves it, and the next writer begins anew.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "formats/qcow2/bitmaps.h"
#include "formats/qcow2/refcounts.h"

namespace dmu::qcow2 {

class Rebuild {
public:
    // old_clusters: of the file; tables: entries of the active L1 table.
    Rebuild(const Header& header, std::uint64_t old_clusters, std::uint64_t tables);

    std::uint64_t old_clusters() const { return old_clusters_; }
    bool is_old(std::uint64_t cluster) const { return cluster < old_clusters_; }

    // --- what goes, from Allocator. table: index of the active L2 table that pointed there, or:
    static constexpr std::uint64_t fixed = UINT64_MAX;  // not from a table
    void freed(std::uint64_t cluster, std::uint64_t table);
    // The table points there again.
    void unfreed(std::uint64_t cluster, std::uint64_t table);
    // Freed references are gone for good. False: the refcount on disk is the new one already.
    bool lower(std::uint64_t cluster, std::uint64_t count);

    // --- counting, from Qcow2Image (qcow2_rebuild.cc).
    enum class Stage { beyond, fixed, tables, snapshots, bitmaps, write, done };
    Stage stage = Stage::beyond;
    std::uint64_t at = 0;           // block, table, entry of a snapshot's L1 table, bitmap
    std::uint64_t snapshot = 0;     // Stage::snapshots
    std::vector<std::uint64_t> l1;  // a piece of that table, from at rounded down

    std::vector<BitmapEntry> bitmaps;  // Stage::bitmaps

    void begin_window();
    std::uint64_t window_first() const { return window_ * window_clusters_; }
    std::uint64_t window_end() const;
    bool in_window(std::uint64_t cluster) const { return cluster >= window_first() && cluster < window_end(); }
    // One user more, where the cluster is in the window. False: more than a refcount can say.
    [[nodiscard]] bool count(std::uint64_t cluster);
    // Whether the table may have anything in the window; seen() says what it has.
    bool is_known(std::uint64_t table) const { return spans_[table].first <= spans_[table].last; }
    bool may_touch(std::uint64_t table) const;
    // first > last: nothing at all.
    void seen(std::uint64_t table, std::uint64_t first_cluster, std::uint64_t last_cluster);

    bool has_users(std::uint64_t block) const;
    // The window's part of a block of refcounts, as it is to be. keep_ones: what has a refcount of
    // 1 and no user may be in a predecessor's hands, and stays. False: as in count(), at cluster.
    bool fill(std::uint64_t block, std::span<std::byte> raw, bool keep_ones, std::uint64_t& cluster) const;
    // The window is on disk: to the next one, or Stage::done.
    void end_window();

private:
    std::uint64_t window_of(std::uint64_t cluster) const { return cluster / window_clusters_; }
    bool was_seen(std::uint64_t cluster, std::uint64_t table) const;

    // Windows that a table has clusters in; first > last: not known yet.
    struct Span {
        std::uint32_t first = 1, last = 0;
    };

    const Header& header_;
    const std::uint64_t old_clusters_, window_blocks_, window_clusters_;
    std::uint64_t window_ = 0;
    bool begun_ = false;             // what is fixed was counted
    std::vector<std::byte> counts_;  // blocks of refcounts, of the window
    std::vector<Span> spans_;
    std::map<std::uint64_t, std::uint64_t> early_;  // cluster -> references that went unseen
};

}  // namespace dmu::qcow2
