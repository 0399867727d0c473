// SPDX-License-Identifier: GPL-2.0-or-later
#include "xenstore.h"

#include <cerrno>
#include <cstdlib>

extern "C" {  // which the header does not say
#include <xenstore.h>
}

namespace dmu {
namespace {

constexpr unsigned transaction_tries = 100;

Error failure(const std::string& what, const std::string& path, int number = errno) {
    Error error = system_error("xenstore: cannot " + what + " '" + path + "'", number);
    if (number == EINVAL) error.code = Code::invalid;
    if (number == EPERM) error.code = Code::denied;
    return error;
}

// What libxenstore allocates.
template <typename T>
struct Owned {
    T* value;
    explicit Owned(T* given) : value(given) {}
    ~Owned() { std::free(value); }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
};

// The four calls inside transaction, or outside one (XBT_NULL).
class View final : public XenstoreView {
public:
    View(xs_handle* handle, xs_transaction_t transaction) : handle_(handle), transaction_(transaction) {}

    Result<std::string> read(const std::string& path) override {
        unsigned length = 0;
        const Owned<void> value(xs_read(handle_, transaction_, path.c_str(), &length));
        if (value.value == nullptr) return failure("read", path);
        return std::string(static_cast<const char*>(value.value), length);
    }

    Status write(const std::string& path, const std::string& value) override {
        if (xs_write(handle_, transaction_, path.c_str(), value.data(), static_cast<unsigned>(value.size())))
            return ok();
        return failure("write", path);
    }

    Status remove(const std::string& path) override {
        if (xs_rm(handle_, transaction_, path.c_str()) || errno == ENOENT) return ok();
        return failure("remove", path);
    }

    Result<std::vector<std::string>> directory(const std::string& path) override {
        unsigned count = 0;
        const Owned<char*> names(xs_directory(handle_, transaction_, path.c_str(), &count));
        if (names.value == nullptr) return failure("list", path);
        return std::vector<std::string>(names.value, names.value + count);
    }

private:
    xs_handle* handle_;
    xs_transaction_t transaction_;
};

class LibXenstore final : public Xenstore {
public:
    explicit LibXenstore(xs_handle* handle) : handle_(handle), plain_(handle, XBT_NULL) {}
    ~LibXenstore() override { xs_close(handle_); }
    LibXenstore(const LibXenstore&) = delete;
    LibXenstore& operator=(const LibXenstore&) = delete;

    Result<std::string> read(const std::string& path) override { return plain_.read(path); }
    Status write(const std::string& path, const std::string& value) override { return plain_.write(path, value); }
    Status remove(const std::string& path) override { return plain_.remove(path); }
    Result<std::vector<std::string>> directory(const std::string& path) override { return plain_.directory(path); }

    Status transaction(const std::function<Status(XenstoreView&)>& work) override {
        for (unsigned i = 0; i < transaction_tries; ++i) {
            const xs_transaction_t id = xs_transaction_start(handle_);
            if (id == XBT_NULL) return system_error("xenstore: cannot start a transaction");
            View view(handle_, id);
            if (Status done = work(view); !done) {
                xs_transaction_end(handle_, id, true);
                return done;
            }
            if (xs_transaction_end(handle_, id, false)) return ok();
            if (errno != EAGAIN) return system_error("xenstore: cannot end a transaction");
        }
        return Error{Code::busy, "xenstore: a transaction met other writers " + std::to_string(transaction_tries) +
                                     " times and was given up"};
    }

    Status watch(const std::string& path, const std::string& token) override {
        if (xs_watch(handle_, path.c_str(), token.c_str())) return ok();
        return failure("watch", path);
    }

    Status unwatch(const std::string& path, const std::string& token) override {
        if (xs_unwatch(handle_, path.c_str(), token.c_str())) return ok();
        return failure("stop watching", path);
    }

    int poll_descriptor() const override { return xs_fileno(handle_); }

    Result<std::vector<XenstoreWatchEvent>> fired() override {
        std::vector<XenstoreWatchEvent> events;
        for (;;) {
            const Owned<char*> event(xs_check_watch(handle_));
            if (event.value != nullptr) {
                events.push_back({event.value[XS_WATCH_PATH], event.value[XS_WATCH_TOKEN]});
                continue;
            }
            // What has come is told before what has gone wrong.
            if (errno == EAGAIN || !events.empty()) return events;
            Error error = system_error("xenstore: cannot read fired watches; the connection to xenstored is lost");
            error.code = Code::io;
            return error;
        }
    }

private:
    xs_handle* handle_;
    View plain_;
};

}  // namespace

Result<std::unique_ptr<Xenstore>> open_xenstore() {
    xs_handle* handle = xs_open(0);
    if (handle != nullptr) return std::unique_ptr<Xenstore>(std::make_unique<LibXenstore>(handle));
    Error error = system_error("cannot connect to xenstore");
    const char* path = std::getenv("XENSTORED_PATH");
    if (path != nullptr) error.message += " (XENSTORED_PATH is '" + std::string(path) + "')";
    error.message += "; this has to be a Xen domain with xenstored running";
    if (error.code == Code::io) error.code = Code::not_found;
    return error;
}

}  // namespace dmu
