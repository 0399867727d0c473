// SPDX-License-Identifier: GPL-2.0-or-later
// Device-mapper in memory, for the mapper's tests: devices with tables, nothing below them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "xen-backend/devmapper/device_mapper.h"

namespace dmu {

// The "kernel": thread-safe, outlives the handles, so that a successor finds the devices.
class FakeDmKernel {
public:
    struct Device {
        DmInfo info;
        DmTable active;
        DmTable inactive;
        bool remove_at_close = false;
        std::vector<std::string> messages;
        std::string secret_description;
        std::vector<std::byte> secret;  // the kernel's copy
    };

    std::unique_ptr<DeviceMapper> connect();

    // Called (without a lock held) when a table becomes the active one, and with 0 sectors when its device goes:
    // hook a FakeKernel's load_table() and remove_table() here.
    std::function<void(const std::string& name, const DmTable& table)> on_table;

    bool exists(const std::string& name) const;
    Device device(const std::string& name) const;
    // Names as they were made, and as they were removed: "+name", "-name".
    std::vector<std::string> history() const;
    // As somebody who opens the node, count times; a negative count closes it.
    void open(const std::string& name, int count);
    // The next create() or reload() fails so.
    void fail_next_load(Error error);

private:
    class Handle;
    void erase(const std::string& name);

    mutable std::mutex lock_;
    std::map<std::string, Device> devices_;
    std::vector<std::string> history_;
    std::unique_ptr<Error> load_error_;
    unsigned next_minor_ = 0;
};

}  // namespace dmu
