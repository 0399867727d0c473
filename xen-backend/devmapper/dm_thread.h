// SPDX-License-Identifier: GPL-2.0-or-later
// The one thread that talks to libdevmapper.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace dmu {

// A queue with a thread. Work is done in the order given. Destruction finishes what is queued.
class DmThread {
public:
    DmThread();
    ~DmThread();
    DmThread(const DmThread&) = delete;
    DmThread& operator=(const DmThread&) = delete;

    // Any thread. The future's destruction waits for nothing; do not wait for it on this thread.
    template <typename Work>
    auto run(Work work) -> std::future<std::invoke_result_t<Work&>> {
        using Answer = std::invoke_result_t<Work&>;
        auto task = std::make_shared<std::packaged_task<Answer()>>(std::move(work));
        auto future = task->get_future();
        post([task] { (*task)(); });
        return future;
    }

    // Any thread; nobody hears how it ended, so it must not throw.
    void post(std::function<void()> work);

    // Whether the caller is the thread itself.
    bool is_current() const { return std::this_thread::get_id() == thread_.get_id(); }

private:
    void loop();

    std::mutex lock_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> queue_;  // under lock_
    bool stopping_ = false;                    // under lock_
    std::thread thread_;
};

}  // namespace dmu
