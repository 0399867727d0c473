// SPDX-License-Identifier: GPL-2.0-or-later
// One disk: an open image, its channel, and the thread that serves it. The thread owns
// everything but what is marked; others talk to it by a queue of requests.
//
// Its life: opening -> serving -> closed (or left to a successor, or dropped).
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "xen-backend/mapper/alarms.h"
#include "xen-backend/mapper/mutex.h"
#include "xen-backend/mapper/opening.h"

namespace dmu {

struct DiskFigures {
    std::uint64_t allocated = 0;  // bytes
    std::uint64_t waiting = 0;    // misses that wait for space
    std::uint64_t commits = 0;
    std::uint64_t handed_over = 0;  // changes and places taken over from a predecessor
};

class Disk {
public:
    // All are called on the disk's thread, opened and closed once at most, and must not
    // destroy the disk.
    struct Callbacks {
        // It serves, or nothing of it is left.
        std::function<void(Result<DiskFacts>)> opened;
        // After an opened() without error: the thread has let go of all and ends.
        std::function<void(Status)> closed;
        // Any number of times in between: the image made a file; these are all. Optional.
        std::function<void(std::vector<control::DiskState::File>)> files_came = nullptr;
    };

    // Starts the thread, which opens.
    Disk(DiskSetup setup, KernelAccess kernel, Callbacks callbacks);
    // As a kill: nothing is committed, nothing undone; waits for the thread.
    ~Disk();
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;

    // None of these block; any thread.
    // The dm device is gone: commits, closes the image, lets go of lock and key.
    void close();
    // The dm device stays for a successor: commits, lets go of the channel.
    void leave();
    // done is called on the disk's thread.
    void commit(std::function<void(Status)> done);
    // The device is going: what waits for space or a commit ends in an error from now on.
    void take_down();

    DiskFigures figures() const;
    Result<dmu_state> state() const;
    Alarms& alarms() { return alarms_; }
    const DiskSetup& setup() const { return setup_; }

private:
    class Service;
    friend class Service;

    enum class Ending { none, close, leave, drop };
    struct Request {
        enum class Kind { end, commit, take_down } kind;
        Ending ending = Ending::none;
        std::function<void(Status)> done;
    };

    void post(Request request);
    void run();
    std::deque<Request> take_requests();
    void publish(const DiskFigures& figures);

    const DiskSetup setup_;
    const KernelAccess kernel_;
    const Callbacks callbacks_;
    Alarms alarms_;
    const int wake_;  // eventfd

    mutable Mutex mutex_;
    std::deque<Request> requests_ DMU_GUARDED_BY(mutex_);
    DiskFigures figures_ DMU_GUARDED_BY(mutex_);
    // For state(); the thread sets it when it serves and clears it before the channel goes.
    Channel* channel_ DMU_GUARDED_BY(mutex_) = nullptr;

    std::thread thread_;
};

}  // namespace dmu
