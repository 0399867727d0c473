// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptors, timers and work from other threads, all on one thread. Nothing that is
// called here may block.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "xen-backend/mapper/mutex.h"

namespace dmu {

class EventLoop {
public:
    using Work = std::function<void()>;
    using TimerId = std::uint64_t;

    EventLoop();
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    // events: EPOLLIN and so on; work gets those that came. One watch per descriptor.
    void watch(int descriptor, std::uint32_t events, std::function<void(std::uint32_t)> work);
    void change(int descriptor, std::uint32_t events);
    void unwatch(int descriptor);

    TimerId after(std::chrono::milliseconds delay, Work work);
    // An id that is done is no error; 0 neither.
    void cancel(TimerId id);

    // Any thread: work is done on the loop's thread, soon, in the order posted.
    void post(Work work);

    // Until quit().
    void run();
    void quit() { quitting_ = true; }

private:
    using Clock = std::chrono::steady_clock;

    int timeout() const;
    void do_timers();
    void do_posted();

    int epoll_;
    int wake_;
    bool quitting_ = false;
    std::map<int, std::function<void(std::uint32_t)>> watches_;
    std::map<std::pair<Clock::time_point, TimerId>, Work> timers_;
    TimerId next_timer_ = 1;
    Mutex mutex_;
    std::vector<Work> posted_ DMU_GUARDED_BY(mutex_);
};

}  // namespace dmu
