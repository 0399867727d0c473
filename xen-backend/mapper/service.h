// SPDX-License-Identifier: GPL-2.0-or-later
// What a disk's thread does while its disk is open: reads events, answers, commits. Only
// that thread uses it.
#pragma once

#include <chrono>
#include <optional>

#include "xen-backend/mapper/answers.h"
#include "xen-backend/mapper/changes.h"
#include "xen-backend/mapper/commit_queue.h"
#include "xen-backend/mapper/crypt_stack.h"
#include "xen-backend/mapper/disk.h"
#include "xen-backend/mapper/leases.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

class Disk::Service {
public:
    Service(Disk& disk, OpenDisk open);

    // A successor's first step: applies the changes that its predecessor did not commit,
    // up to ATTACHED.
    Status take_over();
    // Until a request ends it.
    Ending serve();
    // The device is gone.
    Status close();
    // The device stays.
    Status leave();
    // Lets go, as a kill would.
    void drop();

    Channel* channel() { return open_.channel.get(); }
    const DiskFacts& facts() const { return open_.facts; }

private:
    using Clock = CommitQueue::Clock;

    bool leases_wanted() const;
    Status know_file(unsigned file);
    // Until there is something to do.
    void wait();
    // True: there may be more.
    bool read_events();
    void handle(const dmu_event& event);
    void handle_miss(const dmu_event& miss);
    void handle_drained(std::uint64_t id);
    // Space that durable changes freed is used again once nothing reads or writes it.
    void begin_recycling();
    Ending handle_requests();
    void begin_take_down();
    void finish_grains();
    void do_work(Clock::time_point now);
    void do_timed(Clock::time_point now);
    int timeout(Clock::time_point now) const;
    void publish();
    void send();

    Disk& disk_;
    OpenDisk open_;
    Outbox out_;
    Changes changes_;
    Leases leases_;
    Scratch scratch_;
    GrainWriter grains_;
    Answers answers_;
    CommitQueue commits_;
    std::vector<dmu_event> events_;
    const std::uint64_t recycle_id_;
    Clock::time_point read_at_{};
    std::optional<Clock::time_point> retry_at_;
    Clock::time_point work_at_{};                   // Image::work()
    std::optional<std::uint64_t> recycling_since_;  // commits when the drain began
    DiskFigures figures_;
    bool attached_ = false;
    bool going_ = false;
    bool channel_broken_ = false;
};

}  // namespace dmu
