// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/commit_queue.h"

#include <algorithm>

namespace dmu {
namespace {

constexpr std::chrono::seconds retry_interval{1};
// Unacknowledged changes after which a commit does not wait for its time: the kernel's log
// is bounded, and where it is full first writes wait.
constexpr std::uint64_t log_mark = 16384;

}  // namespace

void CommitQueue::flush(std::uint64_t id, std::uint64_t sequence) {
    flushes_.push_back({id, sequence});
}

void CommitQueue::touch(Clock::time_point now) {
    if (!due_) due_ = now + interval_;
}

std::optional<CommitQueue::Clock::time_point> CommitQueue::next() const {
    if (not_before_ && (due_ || !flushes_.empty())) return not_before_;
    if (!flushes_.empty() && !changes_.is_behind()) return Clock::time_point::min();
    return due_;
}

bool CommitQueue::is_wanted(Clock::time_point now) const {
    if (not_before_ && now < *not_before_) return false;
    if (not_before_ && due_) return true;
    if (!flushes_.empty() || changes_.applied() - committed_ >= log_mark) return true;
    return due_ && now >= *due_;
}

bool CommitQueue::run(Clock::time_point now) {
    return is_wanted(now) && commit_at(now);
}

Status CommitQueue::commit_at(Clock::time_point now) {
    Status done = commit();
    if (!done) failed(now, done.error());
    return done;
}

Status CommitQueue::commit() {
    const std::uint64_t applied = changes_.applied();
    // The kernel flushed the data of what the flush names, not of what came after it.
    bool durable =
        std::any_of(flushes_.begin(), flushes_.end(), [&](const Flush& flush) { return flush.sequence >= applied; });
    if (Status done = image_.commit(durable ? DataState::durable : DataState::written); !done) return done;
    ++commits_;
    bool waited_for =
        std::any_of(flushes_.begin(), flushes_.end(), [&](const Flush& flush) { return flush.sequence <= applied; });
    if (applied > committed_ || waited_for) out_.committed(applied);
    committed_ = std::max(committed_, applied);
    std::erase_if(flushes_, [&](const Flush& flush) { return flush.sequence <= applied; });
    due_.reset();
    not_before_.reset();
    failing_ = false;
    alarms_.clear("commit");
    if (changes_.is_behind()) {
        // Their changes can't be recorded: the guest has to know.
        for (const Flush& flush : flushes_) out_.fail(flush.id, EIO);
        flushes_.clear();
        touch(Clock::now());
    }
    return ok();
}

void CommitQueue::failed(Clock::time_point now, const Error& error) {
    alarms_.raise("commit", error.message);
    failing_ = true;
    touch(now);
    not_before_ = now + retry_interval;
    if (error.code == Code::no_space) return;  // space may come back; the flush waits for it
    for (const Flush& flush : flushes_) out_.fail(flush.id, error.to_errno());
    flushes_.clear();
}

}  // namespace dmu
