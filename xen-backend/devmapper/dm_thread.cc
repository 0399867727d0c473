// SPDX-License-Identifier: GPL-2.0-or-later
#include "dm_thread.h"

namespace dmu {

DmThread::DmThread() : thread_([this] { loop(); }) {
}

DmThread::~DmThread() {
    {
        const std::lock_guard guard(lock_);
        stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
}

void DmThread::post(std::function<void()> work) {
    {
        const std::lock_guard guard(lock_);
        queue_.push_back(std::move(work));
    }
    wake_.notify_one();
}

void DmThread::loop() {
    std::unique_lock guard(lock_);
    for (;;) {
        wake_.wait(guard, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        const std::function<void()> work = std::move(queue_.front());
        queue_.pop_front();
        guard.unlock();
        work();
        guard.lock();
    }
}

}  // namespace dmu
