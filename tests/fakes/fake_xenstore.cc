// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fakes/fake_xenstore.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <deque>

namespace dmu {

namespace {

std::string parent_of(const std::string& path) {
    const auto slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
}

bool below(const std::string& path, const std::string& top) {
    return path == top ||
           (path.size() > top.size() && path.compare(0, top.size(), top) == 0 && path[top.size()] == '/');
}

Error missing(const std::string& what, const std::string& path) {
    return {Code::not_found, "xenstore: cannot " + what + " '" + path + "': No such file or directory"};
}

}  // namespace

Status FakeXenstore::write_to(Nodes& nodes, const std::string& path, const std::string& value) {
    if (path.empty() || path.back() == '/' || path.find("//") != std::string::npos)
        return Error{Code::invalid, "xenstore: cannot write '" + path + "': Invalid argument"};
    for (std::string up = parent_of(path); !up.empty(); up = parent_of(up)) nodes.try_emplace(up, "");
    nodes[path] = value;
    return ok();
}

void FakeXenstore::remove_from(Nodes& nodes, const std::string& path) {
    std::erase_if(nodes, [&](const auto& node) { return below(node.first, path); });
}

Result<std::string> FakeXenstore::read_from(const Nodes& nodes, const std::string& path) {
    const auto found = nodes.find(path);
    if (found == nodes.end()) return missing("read", path);
    return found->second;
}

Result<std::vector<std::string>> FakeXenstore::directory_of(const Nodes& nodes, const std::string& path) {
    const std::string top = path == "/" ? "" : path;
    if (!nodes.contains(path)) return missing("list", path);
    std::vector<std::string> names;
    for (const auto& [node, value] : nodes)
        if (node != path && node != "/" && parent_of(node) == top) names.push_back(node.substr(top.size() + 1));
    return names;
}

Status FakeXenstore::gone(const std::string& what, const std::string& path) const {
    if (!disconnected_) return ok();
    return Error{Code::io, "xenstore: cannot " + what + " '" + path + "': Bad file descriptor"};
}

// A copy of the nodes; what it changed goes in at the end. Under the store's lock.
class FakeXenstore::Transaction final : public XenstoreView {
public:
    explicit Transaction(const Nodes& nodes) : nodes_(nodes) {}
    Result<std::string> read(const std::string& path) override { return read_from(nodes_, path); }
    Status write(const std::string& path, const std::string& value) override {
        changed_.push_back(path);
        return write_to(nodes_, path, value);
    }
    Status remove(const std::string& path) override {
        changed_.push_back(path);
        remove_from(nodes_, path);
        return ok();
    }
    Result<std::vector<std::string>> directory(const std::string& path) override { return directory_of(nodes_, path); }

    Nodes nodes_;
    std::vector<std::string> changed_;
};

class FakeXenstore::Handle final : public Xenstore {
public:
    explicit Handle(FakeXenstore& store) : store_(store), event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        const std::lock_guard guard(store_.lock_);
        store_.handles_.insert(this);
    }
    ~Handle() override {
        const std::lock_guard guard(store_.lock_);
        store_.handles_.erase(this);
        close(event_fd_);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    Result<std::string> read(const std::string& path) override {
        const std::lock_guard guard(store_.lock_);
        if (Status there = store_.gone("read", path); !there) return there.error();
        return read_from(store_.nodes_, path);
    }

    Status write(const std::string& path, const std::string& value) override {
        const std::lock_guard guard(store_.lock_);
        if (Status there = store_.gone("write", path); !there) return there;
        Status done = write_to(store_.nodes_, path, value);
        if (done) store_.fire(path);
        return done;
    }

    Status remove(const std::string& path) override {
        const std::lock_guard guard(store_.lock_);
        if (Status there = store_.gone("remove", path); !there) return there;
        remove_from(store_.nodes_, path);
        store_.fire(path);
        return ok();
    }

    Result<std::vector<std::string>> directory(const std::string& path) override {
        const std::lock_guard guard(store_.lock_);
        if (Status there = store_.gone("list", path); !there) return there.error();
        return directory_of(store_.nodes_, path);
    }

    Status transaction(const std::function<Status(XenstoreView&)>& work) override {
        for (unsigned i = 0; i < 100; ++i) {
            std::unique_lock guard(store_.lock_);
            if (Status there = store_.gone("start", "a transaction"); !there) return there;
            const Nodes before = store_.nodes_;
            guard.unlock();
            Transaction view(before);
            if (Status done = work(view); !done) return done;
            guard.lock();
            const bool conflict = store_.conflicts_ > 0 || store_.nodes_ != before;
            if (store_.conflicts_ > 0) --store_.conflicts_;
            if (conflict) continue;
            store_.nodes_ = std::move(view.nodes_);
            for (const std::string& path : view.changed_) store_.fire(path);
            return ok();
        }
        return Error{Code::busy, "xenstore: a transaction met other writers 100 times and was given up"};
    }

    Status watch(const std::string& path, const std::string& token) override {
        const std::lock_guard guard(store_.lock_);
        if (Status there = store_.gone("watch", path); !there) return there;
        if (!watches_.insert({path, token}).second)
            return Error{Code::io, "xenstore: cannot watch '" + path + "': File exists"};
        add({path, token});
        return ok();
    }

    Status unwatch(const std::string& path, const std::string& token) override {
        const std::lock_guard guard(store_.lock_);
        if (watches_.erase({path, token}) == 0) return missing("stop watching", path);
        return ok();
    }

    int poll_descriptor() const override { return event_fd_; }

    Result<std::vector<XenstoreWatchEvent>> fired() override {
        const std::lock_guard guard(store_.lock_);
        std::uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = ::read(event_fd_, &count, sizeof(count));
        std::vector<XenstoreWatchEvent> events = std::exchange(events_, {});
        if (events.empty() && store_.disconnected_)
            return Error{Code::io, "xenstore: cannot read fired watches; the connection to xenstored is lost"};
        return events;
    }

    // Under the store's lock. As xenstored: a change below a watched node fires, and so does the removal of one above.
    void changed(const std::string& path) {
        for (const auto& [watched, token] : watches_) {
            if (below(path, watched))
                add({path, token});
            else if (below(watched, path))
                add({watched, token});
        }
    }
    void wake() {
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t put = ::write(event_fd_, &one, sizeof(one));
    }

private:
    void add(XenstoreWatchEvent event) {
        events_.push_back(std::move(event));
        wake();
    }

    FakeXenstore& store_;
    const int event_fd_;
    std::set<std::pair<std::string, std::string>> watches_;
    std::vector<XenstoreWatchEvent> events_;
};

std::unique_ptr<Xenstore> FakeXenstore::connect() {
    return std::make_unique<Handle>(*this);
}

void FakeXenstore::fire(const std::string& path) {
    for (Handle* handle : handles_) handle->changed(path);
}

void FakeXenstore::set(const std::string& path, const std::string& value) {
    const std::lock_guard guard(lock_);
    if (write_to(nodes_, path, value)) fire(path);
}

void FakeXenstore::remove(const std::string& path) {
    const std::lock_guard guard(lock_);
    remove_from(nodes_, path);
    fire(path);
}

std::string FakeXenstore::get(const std::string& path) const {
    const std::lock_guard guard(lock_);
    const auto found = nodes_.find(path);
    return found == nodes_.end() ? "" : found->second;
}

bool FakeXenstore::exists(const std::string& path) const {
    const std::lock_guard guard(lock_);
    return nodes_.contains(path);
}

void FakeXenstore::conflict_next(unsigned count) {
    const std::lock_guard guard(lock_);
    conflicts_ = count;
}

void FakeXenstore::disconnect() {
    const std::lock_guard guard(lock_);
    disconnected_ = true;
    for (Handle* handle : handles_) handle->wake();
}

}  // namespace dmu
