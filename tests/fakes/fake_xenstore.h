// SPDX-License-Identifier: GPL-2.0-or-later
// Xenstore in memory: one store, as many handles on it as wanted.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "xen-backend/xenstore/xenstore.h"

namespace dmu {

// Thread-safe. Outlives its handles.
class FakeXenstore {
public:
    std::unique_ptr<Xenstore> connect();

    // As another client would. Watches fire.
    void set(const std::string& path, const std::string& value);
    void remove(const std::string& path);
    // Empty: no such node (or an empty one).
    std::string get(const std::string& path) const;
    bool exists(const std::string& path) const;
    // The next count ends of transactions fail as if somebody else had been faster.
    void conflict_next(unsigned count);
    // From now on every call fails as if xenstored had gone.
    void disconnect();

private:
    class Handle;
    class Transaction;
    using Nodes = std::map<std::string, std::string>;

    static Status write_to(Nodes& nodes, const std::string& path, const std::string& value);
    static void remove_from(Nodes& nodes, const std::string& path);
    static Result<std::string> read_from(const Nodes& nodes, const std::string& path);
    static Result<std::vector<std::string>> directory_of(const Nodes& nodes, const std::string& path);
    Status gone(const std::string& what, const std::string& path) const;
    void fire(const std::string& path);

    mutable std::mutex lock_;
    Nodes nodes_{{"/", ""}};
    std::set<Handle*> handles_;
    unsigned conflicts_ = 0;
    bool disconnected_ = false;
};

}  // namespace dmu
