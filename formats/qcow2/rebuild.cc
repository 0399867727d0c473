// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/rebuild.h"

#include <algorithm>

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t window_bytes = 4 << 20;

std::uint64_t most_of(const Header& header) {
    return header.refcount_order == 6 ? UINT64_MAX : (1ULL << header.refcount_bits()) - 1;
}

}  // namespace

Rebuild::Rebuild(const Header& header, std::uint64_t old_clusters, std::uint64_t tables)
    : header_(header),
      old_clusters_(old_clusters),
      window_blocks_(std::max<std::uint64_t>(window_bytes / header.cluster_bytes(), 1)),
      window_clusters_(window_blocks_ * header.block_clusters()),
      spans_(tables) {
}

// -------------------------------------------------------------- what goes ---

// Whether the walk counted, or would have counted, the table's entries for this cluster's window.
bool Rebuild::was_seen(std::uint64_t cluster, std::uint64_t table) const {
    const auto window = window_of(cluster);
    if (window != window_ || !begun_) return window < window_;
    if (stage == Stage::tables) return table == fixed || table < at;
    return table == fixed || stage > Stage::tables;
}

void Rebuild::freed(std::uint64_t cluster, std::uint64_t table) {
    if (is_old(cluster) && !was_seen(cluster, table)) early_[cluster]++;
}

void Rebuild::unfreed(std::uint64_t cluster, std::uint64_t table) {
    if (!is_old(cluster) || was_seen(cluster, table)) return;
    const auto found = early_.find(cluster);
    if (found != early_.end() && --found->second == 0) early_.erase(found);
    if (!is_known(table)) return;
    const auto window = static_cast<std::uint32_t>(window_of(cluster));
    spans_[table].first = std::min(spans_[table].first, window);
    spans_[table].last = std::max(spans_[table].last, window);
}

bool Rebuild::lower(std::uint64_t cluster, std::uint64_t count) {
    if (!is_old(cluster)) return false;
    if (window_of(cluster) < window_ || stage == Stage::done) return false;
    const auto found = early_.find(cluster);
    if (found != early_.end()) {
        const auto early = std::min(found->second, count);
        count -= early;
        if ((found->second -= early) == 0) early_.erase(found);
    }
    if (count == 0 || window_of(cluster) != window_ || !begun_) return true;
    const auto index = cluster - window_first();
    const auto old = load_refcount(counts_, header_.refcount_order, index);
    store_refcount(counts_, header_.refcount_order, index, old - std::min(old, count));
    return true;
}

// --------------------------------------------------------------- counting ---

std::uint64_t Rebuild::window_end() const {
    return std::min(window_first() + window_clusters_, old_clusters_);
}

void Rebuild::begin_window() {
    counts_.assign(window_blocks_ * header_.cluster_bytes(), std::byte{0});
    begun_ = true;
}

bool Rebuild::count(std::uint64_t cluster) {
    if (!in_window(cluster)) return true;
    const auto index = cluster - window_first();
    const auto old = load_refcount(counts_, header_.refcount_order, index);
    if (old == most_of(header_)) return false;
    store_refcount(counts_, header_.refcount_order, index, old + 1);
    return true;
}

bool Rebuild::may_touch(std::uint64_t table) const {
    return !is_known(table) || (spans_[table].first <= window_ && window_ <= spans_[table].last);
}

void Rebuild::seen(std::uint64_t table, std::uint64_t first_cluster, std::uint64_t last_cluster) {
    if (is_known(table)) return;
    if (first_cluster > last_cluster)
        spans_[table] = {UINT32_MAX, UINT32_MAX};
    else
        spans_[table] = {static_cast<std::uint32_t>(window_of(first_cluster)),
                         static_cast<std::uint32_t>(window_of(last_cluster))};
}

bool Rebuild::has_users(std::uint64_t block) const {
    const auto first = block * header_.block_clusters();
    const auto early = early_.lower_bound(first);
    if (early != early_.end() && early->first < first + header_.block_clusters()) return true;
    const auto begin =
        counts_.begin() + static_cast<std::ptrdiff_t>((block - window_ * window_blocks_) << header_.cluster_bits);
    return std::any_of(begin, begin + static_cast<std::ptrdiff_t>(header_.cluster_bytes()),
                       [](std::byte byte) { return byte != std::byte{0}; });
}

bool Rebuild::fill(std::uint64_t block, std::span<std::byte> raw, bool keep_ones, std::uint64_t& cluster) const {
    const auto first = block * header_.block_clusters();
    const auto end = std::min(first + header_.block_clusters(), old_clusters_);
    auto early = early_.lower_bound(first);
    for (cluster = first; cluster < end; cluster++) {
        auto users = load_refcount(counts_, header_.refcount_order, cluster - window_first());
        if (early != early_.end() && early->first == cluster) {
            if (early->second > most_of(header_) - users) return false;
            users += early->second;
            ++early;
        }
        if (keep_ones && users == 0) users = load_refcount(raw, header_.refcount_order, cluster - first) == 1 ? 1 : 0;
        store_refcount(raw, header_.refcount_order, cluster - first, users);
    }
    return true;
}

void Rebuild::end_window() {
    early_.erase(early_.begin(), early_.lower_bound(window_end()));
    const bool last = window_end() == old_clusters_;
    window_++;
    begun_ = false;
    at = 0;
    stage = last ? Stage::done : Stage::fixed;
    if (last) counts_ = {};
}

}  // namespace dmu::qcow2
