// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/allocator.h"

#include <algorithm>

#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

constexpr std::uint64_t smallest_step = 1 << 20, largest_step = 64 << 20;
// Blocks of refcounts looked at for one batch, where the file can grow instead.
constexpr unsigned search_blocks = 2;

}  // namespace

Allocator::Allocator(BlockFile& file, Header& header, Refcounts& refcounts, Metadata& metadata)
    : file_(file), header_(header), refcounts_(refcounts), metadata_(metadata), step_(smallest_step) {
}

void Allocator::set_end(std::uint64_t file_bytes) {
    end_ = file_.fixed_size() ? file_bytes / header_.cluster_bytes()
                              : align_up(file_bytes, header_.cluster_bytes()) / header_.cluster_bytes();
    search_end_ = end_;
}

Error Allocator::no_space() const {
    return {Code::no_space, "qcow2 image '" + file_.name() + "': no free cluster is left on the device of " +
                                std::to_string(end_ * header_.cluster_bytes()) + " bytes"};
}

std::uint64_t Allocator::reserved() const {
    std::uint64_t clusters = 0;
    for (const auto& run : pool_) clusters += run.count;
    return clusters;
}

// ---------------------------------------------------------------- taking ---

Result<Allocator::Run> Allocator::take(std::uint64_t need, std::uint64_t want) {
    const auto best = [&](std::uint64_t at_least) {
        auto found = pool_.end();
        for (auto it = pool_.begin(); it != pool_.end(); ++it)
            if (it->count >= at_least && (found == pool_.end() || it->first < found->first)) found = it;
        return found;
    };
    auto from = best(want);
    if (from == pool_.end()) {
        auto filled = refill(want, want, false);
        if (!filled && filled.error().code == Code::no_space && best(need) == pool_.end())
            filled = refill(need, want, true);
        if (!filled && filled.error().code != Code::no_space) return filled.error();
        from = best(want);
        if (from == pool_.end()) {
            from = std::max_element(pool_.begin(), pool_.end(),
                                    [](const Run& a, const Run& b) { return a.count < b.count; });
            if (from == pool_.end() || from->count < need) return filled ? no_space() : filled.error();
        }
    }
    const Run taken{from->first, std::min(want, from->count), from->reads_as_zero};
    from->first += taken.count;
    from->count -= taken.count;
    if (from->count == 0) pool_.erase(from);
    outstanding_.add(taken.first, taken.count);
    return taken;
}

// Joined with its neighbours, so that what comes back in pieces can be taken as a whole.
void Allocator::put_back(const Run& run) {
    outstanding_.remove(run.first, run.count);
    auto whole = run;
    std::erase_if(pool_, [&](const Run& other) {
        if (other.reads_as_zero != whole.reads_as_zero) return false;
        if (other.first + other.count != whole.first && whole.first + whole.count != other.first) return false;
        whole.first = std::min(whole.first, other.first);
        whole.count += other.count;
        return true;
    });
    pool_.push_back(whole);
}

bool Allocator::pooled(std::uint64_t first, std::uint64_t count) const {
    return std::any_of(pool_.begin(), pool_.end(),
                       [&](const Run& run) { return first < run.first + run.count && run.first < first + count; });
}

// Free clusters at the file's end. Those past it may have refcounts too, of a writer that died.
Result<Refcounts::Run> Allocator::find_at_end(std::uint64_t want) {
    const auto limit = std::uint64_t{1} << (56 - header_.cluster_bits);
    auto first = end_;
    // Nor is what they say to be trusted: there can be nothing.
    if (rebuild_ != nullptr && first + want <= limit) return Refcounts::Run{first, want};
    for (auto at = first; at - first < want; at++) {
        if (at >= limit) return no_space();
        if (!refcounts_.has_block(refcounts_.block_of(at))) {
            at = align_down(at, header_.block_clusters()) + header_.block_clusters() - 1;
            continue;
        }
        const auto count = refcounts_.get(at);
        if (!count) return count.error();
        if (*count != 0) first = at + 1;
    }
    return Refcounts::Run{first, want};
}

// thorough: the whole file, from its start.
Result<Refcounts::Run> Allocator::find(std::uint64_t need, std::uint64_t want, bool thorough) {
    for (const auto& [first, end] : free_.ranges())
        if (end - first >= need) return Refcounts::Run{first, std::min(want, end - first)};
    const bool bounded = !thorough && !file_.fixed_size();
    auto at = thorough && rebuild_ == nullptr ? 0 : cursor_;
    for (unsigned looked = 0; at < search_end_ && (!bounded || looked < search_blocks); looked++) {
        auto run = refcounts_.find_free(at, search_end_, need, want);
        if (!run) return run;
        at = run->first + run->count;
        if (!thorough) cursor_ = at;
        if (run->count != 0) return run;
    }
    return Refcounts::Run{};
}

Allocator::Plan Allocator::plan_metadata(std::uint64_t first, std::uint64_t count) const {
    Plan plan;
    while (true) {
        const auto total = count + plan.clusters();
        const auto last = refcounts_.block_of(first + total - 1);
        Plan next;
        for (auto i = refcounts_.block_of(first); i <= last; i++)
            if (!refcounts_.has_block(i)) next.blocks.push_back(i);
        const auto entries = refcounts_.table().size();
        if (last >= entries) {
            const auto wanted = std::max<std::uint64_t>((last + 1) * 8, entries * 12);
            const auto most = max_refcount_table_bytes >> header_.cluster_bits;
            next.table_clusters = align_up(wanted, header_.cluster_bytes()) >> header_.cluster_bits;
            if (next.table_clusters > most && (last + 1) * 8 <= most << header_.cluster_bits)
                next.table_clusters = most;
        }
        if (next.clusters() <= plan.clusters()) return plan.clusters() == next.clusters() ? next : plan;
        plan = next;
    }
}

Status Allocator::count_all(std::uint64_t first, std::uint64_t count, std::uint64_t value) {
    for (auto c = first; c < first + count; c++) {
        auto done = refcounts_.set(c, value);
        if (!done) return done;
    }
    return ok();
}

// New refcount tables and blocks lie at the start of the run that needs them.
Status Allocator::place_metadata(const Plan& plan, std::uint64_t first) {
    auto next = first;
    if (plan.table_clusters != 0) {
        const auto old = header_.refcount_table_offset >> header_.cluster_bits;
        const auto old_clusters = header_.refcount_table_clusters;
        if (!refcounts_.move_table(next << header_.cluster_bits, plan.table_clusters))
            return Error{Code::unsupported, "qcow2 image '" + file_.name() +
                                                "': its refcount table can't grow; convert it to larger clusters"};
        old_tables_.emplace_back(old, old_clusters);
        metadata_.fixed.add(next, plan.table_clusters);
        next += plan.table_clusters;
    }
    for (const auto index : plan.blocks) {
        refcounts_.add_block(index, next << header_.cluster_bits);
        metadata_.add_table(next);
        next++;
    }
    return count_all(first, plan.clusters(), 1);
}

// Makes [first, first + count) ours: space in the file, refcounts of 1, durable.
Status Allocator::claim(std::uint64_t first, std::uint64_t count) {
    const auto plan = plan_metadata(first, count);
    const auto total = count + plan.clusters();
    for (auto c = first; c < first + total; c++)
        if (metadata_.holds(c))
            return Error{Code::corrupt, "qcow2 image '" + file_.name() + "': cluster " + std::to_string(c) +
                                            " holds metadata, but its refcount is 0; run a check of the image"};
    const auto offset = first << header_.cluster_bits, bytes = total << header_.cluster_bits;
    const bool fresh = first >= end_;
    bool zeros = fresh;
    if (sparse_ && fresh) {
        auto grown = file_.truncate(offset + bytes);
        if (!grown) return grown;
    } else {
        const auto allocated = file_.allocate(offset, bytes);
        if (!allocated) return allocated.error();
        zeros = zeros && *allocated;
    }
    end_ = std::max(end_, first + total);
    auto done = plan.clusters() != 0 ? place_metadata(plan, first) : ok();
    const auto data = first + plan.clusters();
    if (done) done = count_all(data, count, 1);
    if (done) done = refcounts_.make_durable();
    if (!done) {
        // Nobody was given it; what is on disk is a leak at worst, and goes with the next write.
        for (auto c = data; c < data + count; c++)
            if (refcounts_.set(c, 0)) free_.add(c, 1);
        return done;
    }
    free_.remove(first, total);
    for (const auto& [old, clusters] : std::exchange(old_tables_, {})) drop(old, clusters);
    pool_.push_back({data, count, zeros});
    return ok();
}

// anything: want is not to be had; need is enough, wherever it lies.
Status Allocator::refill(std::uint64_t need, std::uint64_t want, bool anything) {
    auto done = lower();
    if (!done) return done;
    const auto unit = header_.cluster_bytes();
    const auto step = std::min(step_, std::max(smallest_step, (end_ << header_.cluster_bits) / 8));
    auto batch = std::max(want, step / unit);
    auto found = find(need, batch, anything);
    if (found && found->count == 0 && file_.fixed_size()) found = find(need, batch, true);
    if (!found) return found.error();
    if (found->count == 0 && file_.fixed_size()) return no_space();
    while (true) {
        // In the file, the metadata that it needs must fit too.
        if (found->count != 0) {
            const auto extra = plan_metadata(found->first, found->count).clusters();
            found->count = extra + need <= found->count ? found->count - extra : 0;
            if (found->count == 0 && file_.fixed_size()) return no_space();
        }
        auto run = found->count != 0 ? found : find_at_end(batch + plan_metadata(end_, batch).clusters() + 2);
        if (!run) return run.error();
        if (found->count == 0) run->count = batch;
        done = claim(run->first, run->count);
        if (done) {
            step_ = std::min(step_ * 2, largest_step);
            return done;
        }
        if (done.error().code != Code::no_space || batch <= need) return done;
        step_ = smallest_step;
        batch = std::max(need, batch / 4);
        if (found->count != 0) found->count = std::min(found->count, batch);
    }
}

// --------------------------------------------------------------- freeing ---

void Allocator::unfreed(std::uint64_t cluster, std::uint64_t table) {
    for (auto* counts : {&freed_, &durable_, &recycled_}) {
        const auto found = counts->find(cluster);
        if (found == counts->end()) continue;
        if (--found->second == 0) counts->erase(found);
        if (rebuild_ != nullptr) rebuild_->unfreed(cluster, table);
        return;
    }
}

void Allocator::set_rebuild(Rebuild* rebuild) {
    rebuild_ = rebuild;
    if (rebuild_ == nullptr) return search_again();
    cursor_ = search_end_ = end_;
}

void Allocator::settled() {
    for (const auto& [cluster, count] : freed_) durable_[cluster] += count;
    freed_.clear();
}

void Allocator::recycle() {
    for (const auto& [cluster, count] : durable_) recycled_[cluster] += count;
    durable_.clear();
}

void Allocator::drop(std::uint64_t first, std::uint64_t count) {
    metadata_.fixed.remove(first, count);
    for (auto c = first; c < first + count; c++) {
        metadata_.remove_table(c);
        if (rebuild_ != nullptr) rebuild_->freed(c, Rebuild::fixed);
        recycled_[c]++;
    }
}

Status Allocator::lower() {
    while (!recycled_.empty()) {
        const auto [cluster, count] = *recycled_.begin();
        if (rebuild_ != nullptr && rebuild_->lower(cluster, count)) {
            recycled_.erase(recycled_.begin());
            continue;
        }
        const auto old = refcounts_.get(cluster);
        if (!old) return old.error();
        // Fewer than are taken away: the image was wrong before; a check finds it.
        const auto left = *old > count ? *old - count : 0;
        if (*old != 0) {
            auto done = refcounts_.set(cluster, left);
            if (!done) return done;
            if (left == 0 && (rebuild_ == nullptr || !rebuild_->is_old(cluster))) free_.add(cluster, 1);
        }
        recycled_.erase(recycled_.begin());
    }
    return ok();
}

Status Allocator::cut_file() {
    if (file_.fixed_size()) return ok();
    const auto size = file_.size();
    if (!size) return size.error();
    // Somebody else's end is not ours to cut.
    if (*size != end_ << header_.cluster_bits) return ok();
    const auto last = free_.ranges().empty() ? free_.ranges().end() : std::prev(free_.ranges().end());
    if (last == free_.ranges().end() || last->second != end_) return ok();
    const auto first = last->first;
    auto done = file_.truncate(first << header_.cluster_bits);
    if (!done) return done;
    free_.remove(first, end_ - first);
    end_ = first;
    cursor_ = std::min(cursor_, end_);
    search_end_ = std::min(search_end_, end_);
    return ok();
}

Status Allocator::give_back() {
    auto done = lower();
    if (!done) return done;
    while (!pool_.empty()) {
        const auto run = pool_.back();
        done = count_all(run.first, run.count, 0);
        if (!done) return done;
        free_.add(run.first, run.count);
        pool_.pop_back();
    }
    while (!outstanding_.empty()) {
        const auto [first, last] = *outstanding_.ranges().begin();
        done = count_all(first, last - first, 0);
        if (!done) return done;
        free_.add(first, last - first);
        outstanding_.remove(first, last - first);
    }
    if (!refcounts_.changed()) return ok();
    done = refcounts_.make_durable();
    return done ? cut_file() : done;
}

}  // namespace dmu::qcow2
