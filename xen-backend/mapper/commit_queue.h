// SPDX-License-Identifier: GPL-2.0-or-later
// When metadata becomes durable: at a flush (all that came together share one commit), and
// every second or so while there is something to commit. The disk's thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "formats/core/image.h"
#include "xen-backend/mapper/alarms.h"
#include "xen-backend/mapper/changes.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

class CommitQueue {
public:
    using Clock = std::chrono::steady_clock;

    CommitQueue(Image& image, Changes& changes, std::chrono::seconds interval, Alarms& alarms, Outbox& out)
        : image_(image), changes_(changes), interval_(interval), alarms_(alarms), out_(out) {}

    // The kernel waits for COMMITTED of sequence; the data of those changes is durable.
    void flush(std::uint64_t id, std::uint64_t sequence);
    // Something was applied, or is left from a predecessor.
    void touch(Clock::time_point now);
    // Everything up to here was acknowledged before this mapper came.
    void start_at(std::uint64_t sequence) { committed_ = sequence; }

    // Commits if it is time, and answers. Whether it did commit.
    bool run(Clock::time_point now);
    // Commits now.
    Status commit();
    // The same; a failure is treated as one of run().
    Status commit_at(Clock::time_point now);
    // When run() has something to do; none: when something happens.
    std::optional<Clock::time_point> next() const;

    bool has_flushes() const { return !flushes_.empty(); }
    // Since the last success a commit failed.
    bool is_failing() const { return failing_; }
    std::uint64_t committed() const { return committed_; }
    std::uint64_t commits() const { return commits_; }

private:
    struct Flush {
        std::uint64_t id;
        std::uint64_t sequence;
    };

    bool is_wanted(Clock::time_point now) const;
    void failed(Clock::time_point now, const Error& error);

    Image& image_;
    Changes& changes_;
    const std::chrono::seconds interval_;
    Alarms& alarms_;
    Outbox& out_;
    std::vector<Flush> flushes_;
    std::optional<Clock::time_point> due_;
    std::optional<Clock::time_point> not_before_;  // after a failure
    bool failing_ = false;
    std::uint64_t committed_ = 0;
    std::uint64_t commits_ = 0;
};

}  // namespace dmu
