// SPDX-License-Identifier: GPL-2.0-or-later
// Xenstore: the part that a backend needs. The real one stands on libxenstore; tests put
// a fake behind it. Paths are absolute, or relative to the own domain's directory. Values
// are bytes without NUL, to be kept under 2 KB. The guest can read a backend's directory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

// Reads and writes, outside or inside a transaction. Errors name the path and the cause.
// Each call waits for xenstored.
class XenstoreView {
public:
    virtual ~XenstoreView() = default;

    // Code::not_found: no such node.
    virtual Result<std::string> read(const std::string& path) = 0;
    // Makes missing parents.
    virtual Status write(const std::string& path, const std::string& value) = 0;
    // With everything below it; a node that is not there is removed already.
    virtual Status remove(const std::string& path) = 0;
    // Names of the children, without the path. Code::not_found: no such node.
    virtual Result<std::vector<std::string>> directory(const std::string& path) = 0;
    Result<bool> exists(const std::string& path) {
        const Result<std::string> found = read(path);
        if (found) return true;
        if (found.error().code == Code::not_found) return false;
        return found.error();
    }
};

struct XenstoreWatchEvent {
    std::string path;  // what changed: the watched node or one below it
    std::string token;
};

// Any thread for the calls of XenstoreView and transactions; watches on one thread.
class Xenstore : public XenstoreView {
public:
    // Runs work until its writes went in as one: again from the start when somebody else
    // changed what it had read, up to 100 times (then Code::busy). An error of work, or of
    // its calls, undoes all and is returned.
    virtual Status transaction(const std::function<Status(XenstoreView&)>& work) = 0;

    // Fires once when set. token: the caller's, comes back with each event.
    virtual Status watch(const std::string& path, const std::string& token) = 0;
    // Events not read yet may still come.
    virtual Status unwatch(const std::string& path, const std::string& token) = 0;
    // Readable when a watch has fired. Stays the object's.
    virtual int poll_descriptor() const = 0;
    // All that have fired; empty: none. Never blocks. Code::io: the connection is lost.
    virtual Result<std::vector<XenstoreWatchEvent>> fired() = 0;
};

// Connects; libxenstore honours XENSTORED_PATH. To be called after daemonising: the
// connection and its reader thread do not survive a fork.
// Code::not_found: no xenstored (this is no Xen domain, or it is not running).
Result<std::unique_ptr<Xenstore>> open_xenstore();

}  // namespace dmu
