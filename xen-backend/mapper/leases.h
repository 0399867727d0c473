// SPDX-License-Identifier: GPL-2.0-or-later
// Space that the kernel has in hand for first writes, kept ahead of the writer. The disk's
// thread only.
//
// Nothing is leased before something is written. From then on the kernel tells when half of
// the last lease is left; a lease is then four times as large as the one before if that one
// went quickly, and half as large if it lasted.
#pragma once

#include <dm-userspace.h>

#include <chrono>
#include <cstdint>

#include "formats/core/image.h"
#include "xen-backend/mapper/alarms.h"
#include "xen-backend/mapper/opening.h"
#include "xen-backend/mapper/outbox.h"

namespace dmu {

class Leases {
public:
    using Clock = std::chrono::steady_clock;

    static constexpr std::uint32_t pool = 1;

    Leases(Image& image, const DiskFacts& facts, bool offered, Alarms& alarms, Outbox& out);

    // Whether extents may name the pool: module and image can.
    bool usable() const { return usable_; }
    // The pool, before anything names it.
    void start();
    // A first write was asked for.
    void first_write(Clock::time_point now);
    // LEASE_LOW.
    void low(Clock::time_point now);
    // LEASED: what a predecessor had leased. Taken back when the hand-over is complete.
    void found() { found_ = true; }
    void handed_over();
    // REVOKED.
    void returned(const dmu_event& event);
    // The device is gone, or space is short: REVOKED follows.
    void revoke();
    // The metadata is wrong: nothing is leased any more.
    void stop() { usable_ = false; }
    std::uint64_t leased() const { return leased_; }

private:
    void lease(std::uint64_t bytes);
    void hand_out(const Place& space);
    void refused(const Error& error);
    void send_revoke();
    void set_pool();

    Image& image_;
    const DiskFacts& facts_;
    Alarms& alarms_;
    Outbox& out_;
    bool usable_ = false;
    bool found_ = false;
    bool leasing_ = false;    // the kernel has had a lease from here
    std::uint64_t size_ = 0;  // bytes, of the next lease
    std::uint64_t smallest_ = 0, largest_ = 0;
    std::uint64_t leased_ = 0;  // bytes in all
    Clock::time_point last_{};
};

}  // namespace dmu
