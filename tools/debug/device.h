// SPDX-License-Identifier: GPL-2.0-or-later
// The device that is made over the one below: made, served, taken away.
#pragma once

#include <future>
#include <memory>
#include <string>

#include "tools/debug/below.h"
#include "xen-backend/devmapper/device_mapper.h"
#include "xen-backend/devmapper/dm_thread.h"
#include "xen-backend/libdmu/channel.h"

namespace dmu::debug {

enum class OnDeath { fail, wait };

// What the module has to be able to do for this; Code::unsupported, Code::not_found.
Status check_module();

class Device {
public:
    // Attaches to the key. A killed predecessor's device of this name is taken over.
    static Result<std::unique_ptr<Device>> open(const std::string& name, OnDeath on_death);
    ~Device();

    Channel& channel() { return *channel_; }
    // The device below as a destination; of a predecessor its very open file.
    Result<std::unique_ptr<BlockDevice>> open_below(const std::string& path);
    bool taken_over() const { return taken_over_; }
    // A destination of the lowest free number.
    Result<unsigned> add_destination(int fd, std::uint64_t cookie);
    unsigned below() const { return below_; }

    // Makes /dev/mapper/NAME, on another thread: who makes it has to serve it meanwhile.
    std::future<Result<DmInfo>> create(const BelowShape& shape);
    enum class Removed { now, when_closed };
    // With nobody asked any more: takes it away, or leaves it as plain pass-through that goes
    // at its last close. On another thread, too.
    std::future<Result<Removed>> remove(const BelowShape& shape);

private:
    explicit Device(std::string name) : name_(std::move(name)), devices_(open_device_mapper()) {}
    DmTable table(const BelowShape& shape, bool ask_flush) const;
    Result<DmInfo> make(const DmTable& table);
    Result<Removed> take_away(const DmTable& plain);
    Status leave(const DmTable& plain);

    const std::string name_;
    std::unique_ptr<DeviceMapper> devices_;
    std::unique_ptr<Channel> channel_;
    bool taken_over_ = false;
    unsigned below_ = 0;
    DmThread thread_;
};

}  // namespace dmu::debug
