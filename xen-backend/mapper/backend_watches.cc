// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/backend_watches.h"

#include <sys/epoll.h>

#include "xen-backend/mapper/log.h"

namespace dmu {
namespace {

constexpr std::chrono::seconds reconnect_interval{5};

}  // namespace

BackendWatches::BackendWatches(EventLoop& loop, Opener open, std::function<void(const std::string&)> gone)
    : loop_(loop), open_(std::move(open)), gone_(std::move(gone)) {
}

BackendWatches::~BackendWatches() {
    loop_.cancel(retry_);
    if (store_) loop_.unwatch(store_->poll_descriptor());
}

void BackendWatches::add(const std::string& path) {
    if (!paths_.insert(path).second) return;
    if (!store_) {
        if (retry_ == 0) connect();
        return;
    }
    if (Status set = store_->watch(path, path); !set) lose(set.error());
}

void BackendWatches::remove(const std::string& path) {
    if (paths_.erase(path) == 0 || !store_) return;
    if (Status ended = store_->unwatch(path, path); !ended) lose(ended.error());
}

void BackendWatches::connect() {
    retry_ = 0;
    if (paths_.empty()) return;
    auto store = open_();
    if (!store) return lose(store.error());
    store_ = std::move(*store);
    loop_.watch(store_->poll_descriptor(), EPOLLIN, [this](std::uint32_t) { on_ready(); });
    for (const std::string& path : paths_) {
        if (Status set = store_->watch(path, path); !set) return lose(set.error());
    }
}

void BackendWatches::lose(const Error& error) {
    log_warning("xenstore can't be watched for devices that go: " + error.message);
    if (store_) loop_.unwatch(store_->poll_descriptor());
    store_.reset();
    if (retry_ == 0) retry_ = loop_.after(reconnect_interval, [this] { connect(); });
}

void BackendWatches::on_ready() {
    auto fired = store_->fired();
    if (!fired) return lose(fired.error());
    std::set<std::string> changed;
    for (const auto& event : *fired) changed.insert(event.token);
    for (const std::string& path : changed) {
        if (store_ && paths_.count(path)) check(path);
    }
}

void BackendWatches::check(const std::string& path) {
    auto there = store_->exists(path);
    if (!there) return lose(there.error());
    if (*there) return;
    remove(path);
    gone_(path);
}

}  // namespace dmu
