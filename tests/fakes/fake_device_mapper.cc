// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fakes/fake_device_mapper.h"

#include <algorithm>
#include <utility>

namespace dmu {

class FakeDmKernel::Handle final : public DeviceMapper {
public:
    explicit Handle(FakeDmKernel& kernel) : kernel_(kernel) {}

    Result<DmInfo> create(const std::string& name, const std::string& uuid, const DmTable& table) override {
        if (Status good = check(name); !good) return good.error();
        {
            const std::lock_guard guard(kernel_.lock_);
            for (const auto& [other, device] : kernel_.devices_)
                if (other == name || (!uuid.empty() && device.info.uuid == uuid))
                    return Error{Code::busy, "cannot create " + label(name) + ": name or uuid in use"};
            if (Status good = take_load_error(); !good) return good.error();
            Device& made = kernel_.devices_[name];
            kernel_.history_.push_back("+" + name);
            made.info.name = name;
            made.info.uuid = uuid;
            made.info.path = "/dev/mapper/" + name;
            made.info.major = 253;
            made.info.minor = kernel_.next_minor_++;
            made.info.suspended = true;
            made.inactive = table;
        }
        if (Status done = resume(name); !done) return done.error();
        return info(name);
    }

    Result<DmInfo> create_with_secret(const std::string& name, const std::string& uuid, const DmTable& table,
                                      const DmSecret& secret) override {
        auto made = create(name, uuid, table);
        if (!made) return made;
        const std::lock_guard guard(kernel_.lock_);
        kernel_.devices_[name].secret_description = secret.description;
        kernel_.devices_[name].secret.assign(secret.bytes.begin(), secret.bytes.end());
        return made;
    }

    Status remove(const std::string& name, bool) override {
        {
            const std::lock_guard guard(kernel_.lock_);
            const auto found = kernel_.devices_.find(name);
            if (found == kernel_.devices_.end()) return missing(name);
            if (found->second.info.open_count > 0)
                return Error{Code::busy, "cannot remove " + label(name) + ": Device or resource busy"};
        }
        kernel_.erase(name);
        return ok();
    }

    Status remove_deferred(const std::string& name) override {
        {
            const std::lock_guard guard(kernel_.lock_);
            const auto found = kernel_.devices_.find(name);
            if (found == kernel_.devices_.end()) return missing(name);
            found->second.remove_at_close = true;
            if (found->second.info.open_count > 0) return ok();
        }
        kernel_.erase(name);
        return ok();
    }

    Status reload(const std::string& name, const DmTable& table) override {
        const std::lock_guard guard(kernel_.lock_);
        const auto found = kernel_.devices_.find(name);
        if (found == kernel_.devices_.end()) return missing(name);
        if (Status good = take_load_error(); !good) return good;
        found->second.inactive = table;
        return ok();
    }

    Status suspend(const std::string& name, bool) override {
        const std::lock_guard guard(kernel_.lock_);
        const auto found = kernel_.devices_.find(name);
        if (found == kernel_.devices_.end()) return missing(name);
        found->second.info.suspended = true;
        return ok();
    }

    Status resume(const std::string& name) override {
        DmTable table;
        {
            const std::lock_guard guard(kernel_.lock_);
            const auto found = kernel_.devices_.find(name);
            if (found == kernel_.devices_.end()) return missing(name);
            Device& device = found->second;
            device.info.suspended = false;
            if (device.inactive.sectors == 0) return ok();
            table = device.active = std::exchange(device.inactive, {});
            device.info.has_table = true;
            device.info.read_only = table.read_only;
        }
        if (kernel_.on_table) kernel_.on_table(name, table);
        return ok();
    }

    Status message(const std::string& name, const std::string& text) override {
        const std::lock_guard guard(kernel_.lock_);
        const auto found = kernel_.devices_.find(name);
        if (found == kernel_.devices_.end()) return missing(name);
        found->second.messages.push_back(text);
        return ok();
    }

    Result<DmInfo> info(const std::string& name) override {
        const std::lock_guard guard(kernel_.lock_);
        const auto found = kernel_.devices_.find(name);
        if (found == kernel_.devices_.end()) return missing(name);
        return found->second.info;
    }

    Result<DmInfo> info_by_uuid(const std::string& uuid) override {
        const std::lock_guard guard(kernel_.lock_);
        for (const auto& [name, device] : kernel_.devices_)
            if (device.info.uuid == uuid) return device.info;
        return Error{Code::not_found, "there is no device-mapper device of uuid '" + uuid + "'"};
    }

    Result<std::vector<DmInfo>> list(const std::string& uuid_prefix) override {
        const std::lock_guard guard(kernel_.lock_);
        std::vector<DmInfo> devices;
        for (const auto& [name, device] : kernel_.devices_)
            if (device.info.uuid.compare(0, uuid_prefix.size(), uuid_prefix) == 0) devices.push_back(device.info);
        return devices;
    }

    Result<std::string> status(const std::string& name) override {
        const std::lock_guard guard(kernel_.lock_);
        const auto found = kernel_.devices_.find(name);
        if (found == kernel_.devices_.end()) return missing(name);
        return found->second.active.parameters;
    }

private:
    static std::string label(const std::string& name) { return "device-mapper device '" + name + "'"; }
    static Error missing(const std::string& name) { return {Code::not_found, "there is no " + label(name)}; }
    static Status check(const std::string& name) {
        if (!name.empty() && name.size() <= 127 && name.find_first_of("/ ") == std::string::npos) return ok();
        return Error{Code::invalid, "the name '" + name + "' is none for a device-mapper device"};
    }
    // Under the lock.
    Status take_load_error() {
        if (!kernel_.load_error_) return ok();
        return *std::exchange(kernel_.load_error_, nullptr);
    }

    FakeDmKernel& kernel_;
};

std::unique_ptr<DeviceMapper> FakeDmKernel::connect() {
    return std::make_unique<Handle>(*this);
}

void FakeDmKernel::erase(const std::string& name) {
    {
        const std::lock_guard guard(lock_);
        devices_.erase(name);
        history_.push_back("-" + name);
    }
    if (on_table) on_table(name, {});
}

bool FakeDmKernel::exists(const std::string& name) const {
    const std::lock_guard guard(lock_);
    return devices_.contains(name);
}

std::vector<std::string> FakeDmKernel::history() const {
    const std::lock_guard guard(lock_);
    return history_;
}

FakeDmKernel::Device FakeDmKernel::device(const std::string& name) const {
    const std::lock_guard guard(lock_);
    const auto found = devices_.find(name);
    return found == devices_.end() ? Device{} : found->second;
}

void FakeDmKernel::open(const std::string& name, int count) {
    bool last = false;
    {
        const std::lock_guard guard(lock_);
        const auto found = devices_.find(name);
        if (found == devices_.end()) return;
        unsigned& users = found->second.info.open_count;
        users = static_cast<unsigned>(std::max(0, static_cast<int>(users) + count));
        last = users == 0 && found->second.remove_at_close;
    }
    if (last) erase(name);
}

void FakeDmKernel::fail_next_load(Error error) {
    const std::lock_guard guard(lock_);
    load_error_ = std::make_unique<Error>(std::move(error));
}

}  // namespace dmu
