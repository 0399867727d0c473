// SPDX-License-Identifier: GPL-2.0-or-later
// Notices that a backend directory in xenstore is gone although no script said "remove":
// after xl destroy, block-detach -f, a toolstack that was killed. The event loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "xen-backend/mapper/event_loop.h"
#include "xen-backend/xenstore/xenstore.h"

namespace dmu {

class BackendWatches {
public:
    using Opener = std::function<Result<std::unique_ptr<Xenstore>>()>;

    // gone is called for a path that is no longer there; it is not watched any more then.
    BackendWatches(EventLoop& loop, Opener open, std::function<void(const std::string& path)> gone);
    ~BackendWatches();
    BackendWatches(const BackendWatches&) = delete;
    BackendWatches& operator=(const BackendWatches&) = delete;

    // Paths as in XENBUS_PATH; one that is gone already is reported soon. Without xenstored
    // it is tried again every few seconds.
    void add(const std::string& path);
    void remove(const std::string& path);

private:
    void connect();
    void lose(const Error& error);
    void on_ready();
    void check(const std::string& path);

    EventLoop& loop_;
    Opener open_;
    std::function<void(const std::string&)> gone_;
    std::unique_ptr<Xenstore> store_;
    std::set<std::string> paths_;
    EventLoop::TimerId retry_ = 0;
};

}  // namespace dmu
