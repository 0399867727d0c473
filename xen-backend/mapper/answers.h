// SPDX-License-Identifier: GPL-2.0-or-later
// From a miss to commands. The disk's thread only.
#pragma once

#include <dm-userspace.h>

#include <deque>
#include <functional>
#include <vector>

#include "formats/core/chain.h"
#include "xen-backend/mapper/alarms.h"
#include "xen-backend/mapper/grain_writer.h"
#include "xen-backend/mapper/leases.h"
#include "xen-backend/mapper/opening.h"
#include "xen-backend/mapper/outbox.h"
#include "xen-backend/mapper/scratch.h"

namespace dmu {

class Answers {
public:
    // know_file: the image gave a place in that file, which it may just have made.
    Answers(Chain& chain, const DiskFacts& facts, OnFull on_full, Leases& leases, Scratch& scratch, GrainWriter& grains,
            Alarms& alarms, Outbox& out, std::function<Status(unsigned file)> know_file)
        : chain_(chain),
          facts_(facts),
          on_full_(on_full),
          leases_(leases),
          scratch_(scratch),
          grains_(grains),
          alarms_(alarms),
          out_(out),
          know_file_(std::move(know_file)) {}

    // sequence: the last change applied to the image.
    void answer(const dmu_event& miss, std::uint64_t sequence);
    // Misses that wait for space are tried again.
    void retry(std::uint64_t sequence);
    // Those that wait for a slot of the scratch file, of which one became free.
    void go_on(std::uint64_t sequence);
    bool has_waiting() const { return !waiting_.empty(); }
    std::size_t waiting() const { return waiting_.size(); }
    // The device is going: what waits for space fails, now and from now on.
    void stop_waiting();
    // The metadata is wrong: nothing is allocated any more.
    void freeze();
    // The answers so far are on their way, and the next may be of anything.
    void end_batch() { ahead_start_ = ahead_end_ = 0; }

private:
    Result<std::vector<Mapping>> look_up(GuestRange range, LookAhead ahead);
    // The same without opaque ones; end: how far it goes.
    Result<Scratch::Ready> look_up_mappable(GuestRange range, LookAhead ahead);
    // As that, grain by grain, what is corrupt as an ERROR extent.
    std::vector<dmu_command> look_up_around_damage(GuestRange range, std::uint64_t sequence);
    dmu_command to_map(const Mapping& mapping, std::uint64_t sequence) const;
    dmu_command error_map(GuestRange range, std::uint64_t sequence) const;
    void answer_damaged(const dmu_event& miss, GuestRange range, std::uint64_t sequence, const Error& error);
    void answer_known(const dmu_event& miss, GuestRange range, LookAhead look, const std::vector<Mapping>& found,
                      std::uint64_t sequence);
    bool wants_ahead(const dmu_event& miss, GuestRange range);
    void place(const dmu_event& miss, GuestRange range);
    void fill(const dmu_event& miss, const Place& place);
    void no_space(const dmu_event& miss, const Error& error);
    void set_policies(dmu_command& command, bool allocated) const;
    // Before the first write: the image records that it is written to, and the kernel forgets
    // what it was told, in which nothing was writable. False: the miss ended in an error.
    bool begin_writing(const dmu_event& miss);

    Chain& chain_;
    const DiskFacts& facts_;
    OnFull on_full_;
    Leases& leases_;
    Scratch& scratch_;
    GrainWriter& grains_;
    Alarms& alarms_;
    Outbox& out_;
    const std::function<Status(unsigned file)> know_file_;
    bool frozen_ = false;
    // What was sent beyond the misses of this batch: it need not be sent again.
    std::uint64_t ahead_start_ = 0, ahead_end_ = 0;
    std::deque<dmu_event> waiting_;   // for space
    std::deque<dmu_event> deferred_;  // for a slot of the scratch file
};

}  // namespace dmu
