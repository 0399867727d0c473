// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace dmu::debug {
namespace {

// Of the device below, so that a successor finds it.
constexpr std::uint64_t below_cookie = 0x64627567;
// Of a file of no other use: the device has been left, and does not ask any more.
constexpr std::uint64_t left_cookie = 0x6c656674;
constexpr unsigned last_destination = 64;

std::string key_of(const std::string& name) {
    return "dmu-debug-" + name;
}

}  // namespace

Status check_module() {
    const auto module = hello();
    if (!module) return module.error();
    constexpr std::uint64_t wanted = DMU_FEATURE_ONCE | DMU_FEATURE_RETURN | DMU_FEATURE_ASK_FLUSH;
    if ((module->features & wanted) != wanted)
        return Error{Code::unsupported,
                     "the loaded module dm-userspace can't give requests back to a debugger; install the module and "
                     "the programs of the same release"};
    return ok();
}

Result<std::unique_ptr<Device>> Device::open(const std::string& name, OnDeath on_death) {
    if (auto status = check_dm_name(name); !status) return status.error();
    if (auto status = check_module(); !status) return status.error();
    std::unique_ptr<Device> device(new Device(name));
    const auto there = device->devices_->info(name);
    if (there && !there->uuid.starts_with("DMUDEBUG-"))
        return Error{Code::busy, "there is a device '" + name + "' already, and it is not a debugger's"};
    auto channel = attach(key_of(name), true);
    if (!channel) return channel.error();
    device->channel_ = std::move(*channel);
    device->taken_over_ = static_cast<bool>(there);
    for (unsigned number = 1; number < last_destination; ++number)
        if (const auto known = device->channel_->get_destination(number); known && known->cookie == left_cookie)
            return Error{Code::busy, "/dev/mapper/" + name +
                                         " has been left to pass everything through until it is "
                                         "closed: unmount or close it first"};
    if (auto status = device->channel_->set_wait(on_death == OnDeath::fail ? 0 : DMU_WAIT_FOREVER); !status)
        return status.error();
    return device;
}

// The channel first: what its thread still does must not wait for it.
Device::~Device() {
    channel_.reset();
}

Result<std::unique_ptr<BlockDevice>> Device::open_below(const std::string& path) {
    for (unsigned number = 1; taken_over_ && number < last_destination; ++number) {
        const auto known = channel_->get_destination(number);
        if (!known || known->cookie != below_cookie) continue;
        const auto fd = channel_->destination_descriptor(number);
        if (!fd) return fd.error();
        below_ = number;
        return BlockDevice::adopt(path, *fd);
    }
    auto opened = BlockDevice::open(path);
    if (!opened) return opened;
    const auto number = add_destination((*opened)->descriptor(), below_cookie);
    if (!number) return number.error().in(path);
    below_ = *number;
    return opened;
}

Result<unsigned> Device::add_destination(int fd, std::uint64_t cookie) {
    for (unsigned number = 1; number < last_destination; ++number) {
        if (channel_->get_destination(number)) continue;
        const auto added = channel_->add_destination(number, fd, 0, cookie);
        if (!added) return added.error();
        return number;
    }
    return Error{Code::busy, "the device has had too many debuggers that were killed; remove it once"};
}

DmTable Device::table(const BelowShape& shape, bool ask_flush) const {
    std::string options = "grain 8 logical " + std::to_string(shape.logical) + " physical " +
                          std::to_string(std::max(shape.physical, shape.logical));
    unsigned count = 6;
    const auto add = [&](const std::string& option, unsigned words) {
        options += " " + option;
        count += words;
    };
    if (shape.discard) add("discard " + std::to_string(std::max<std::uint64_t>(1, shape.discard / sector_bytes)), 2);
    if (shape.write_zeroes) add("write_zeroes", 1);
    if (shape.read_only) add("read_only", 1);
    if (ask_flush) add("ask_flush", 1);
    return {.sectors = shape.sectors,
            .target = "userspace",
            .parameters = key_of(name_) + " " + std::to_string(count) + " " + options,
            .read_only = shape.read_only};
}

std::future<Result<DmInfo>> Device::create(const BelowShape& shape) {
    return thread_.run([this, table = table(shape, true)] { return make(table); });
}

Result<DmInfo> Device::make(const DmTable& table) {
    if (!taken_over_) return devices_->create(name_, "DMUDEBUG-" + name_, table);
    return devices_->info(name_);
}

std::future<Result<Device::Removed>> Device::remove(const BelowShape& shape) {
    return thread_.run([this, plain = table(shape, false)] { return take_away(plain); });
}

Result<Device::Removed> Device::take_away(const DmTable& plain) {
    // udev may have it open for a moment.
    constexpr int turns = 4;
    for (int turn = 0; turn < turns; ++turn) {
        const Status removed = devices_->remove(name_, false);
        if (removed || removed.error().code == Code::not_found) return Removed::now;
        if (removed.error().code != Code::busy) return removed.error();
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    // From now on it gets along without us.
    if (auto status = leave(plain); !status) return status.error();
    if (auto status = devices_->remove_deferred(name_); !status) return status.error();
    return Removed::when_closed;
}

// Nothing is flushed or frozen: that would be for a file system's sake, which sees no change.
Status Device::leave(const DmTable& plain) {
    const int mark = memfd_create("dmu-debug-left", MFD_CLOEXEC);
    if (mark < 0) return system_error("marking the device as left");
    const auto added = add_destination(mark, left_cookie);
    close(mark);
    if (!added) return added.error();
    if (auto status = devices_->reload(name_, plain); !status) return status;
    if (auto status = devices_->suspend(name_, true); !status) return status;
    return devices_->resume(name_);
}

}  // namespace dmu::debug
