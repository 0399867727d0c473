// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

namespace dmu {

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    watch(wake_, EPOLLIN, [this](std::uint32_t) {
        eventfd_t count;
        (void)eventfd_read(wake_, &count);
    });
}

EventLoop::~EventLoop() {
    close(wake_);
    close(epoll_);
}

void EventLoop::watch(int descriptor, std::uint32_t events, std::function<void(std::uint32_t)> work) {
    epoll_event entry{};
    entry.events = events;
    entry.data.fd = descriptor;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &entry);
    watches_[descriptor] = std::move(work);
}

void EventLoop::change(int descriptor, std::uint32_t events) {
    epoll_event entry{};
    entry.events = events;
    entry.data.fd = descriptor;
    epoll_ctl(epoll_, EPOLL_CTL_MOD, descriptor, &entry);
}

void EventLoop::unwatch(int descriptor) {
    epoll_ctl(epoll_, EPOLL_CTL_DEL, descriptor, nullptr);
    watches_.erase(descriptor);
}

EventLoop::TimerId EventLoop::after(std::chrono::milliseconds delay, Work work) {
    TimerId id = next_timer_++;
    timers_.emplace(std::pair{Clock::now() + delay, id}, std::move(work));
    return id;
}

void EventLoop::cancel(TimerId id) {
    std::erase_if(timers_, [id](const auto& timer) { return timer.first.second == id; });
}

void EventLoop::post(Work work) {
    // All under the lock: work that ends the loop must not run before this is done with it.
    MutexLock lock(mutex_);
    posted_.push_back(std::move(work));
    eventfd_write(wake_, 1);
}

int EventLoop::timeout() const {
    if (timers_.empty()) return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - Clock::now()).count();
    return static_cast<int>(std::clamp<long>(left, 0, 60'000));
}

void EventLoop::do_timers() {
    auto now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        Work work = std::move(timers_.begin()->second);
        timers_.erase(timers_.begin());
        work();
    }
}

void EventLoop::do_posted() {
    std::vector<Work> taken;
    {
        MutexLock lock(mutex_);
        taken.swap(posted_);
    }
    for (Work& work : taken) work();
}

void EventLoop::run() {
    quitting_ = false;
    while (!quitting_) {
        epoll_event ready[32];
        int count = epoll_wait(epoll_, ready, 32, timeout());
        for (int i = 0; i < count; ++i) {
            // A watch may end another one, or itself.
            auto found = watches_.find(ready[i].data.fd);
            if (found == watches_.end()) continue;
            auto work = found->second;
            work(ready[i].events);
        }
        do_posted();
        do_timers();
    }
}

}  // namespace dmu
