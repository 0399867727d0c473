// SPDX-License-Identifier: GPL-2.0-or-later
// What the tools ask of the world, so that their logic is tested without mappers,
// device-mapper or Xen.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "xen-backend/control/control.h"
#include "xen-backend/devmapper/device_mapper.h"
#include "xen-backend/xenstore/xenstore.h"

namespace dmu {

struct Ports {
    // As the functions of these names in xen-backend/control.
    std::function<std::vector<std::string>()> instances;
    std::function<Result<control::Json>(const std::string& instance, const control::Json&, unsigned seconds)> call;
    std::function<Result<control::Json>(const std::string& instance, const control::Json&, unsigned seconds)>
        call_ensured;
    std::function<pid_t(const std::string& instance)> mapper_pid;
    std::function<std::vector<control::DiskState>(std::vector<std::string>* problems)> states;

    DeviceMapper* devices = nullptr;  // never null in use
    Xenstore* xenstore = nullptr;     // null: no Xen here
};

// The real ones, and what they stand on.
class RealPorts {
public:
    RealPorts();
    Ports& operator*() { return ports_; }
    const Ports& operator*() const { return ports_; }
    const Ports* operator->() const { return &ports_; }
    // Why there is no xenstore; ok where there is.
    const Status& xenstore_status() const { return xenstore_status_; }

private:
    std::unique_ptr<DeviceMapper> devices_;
    std::unique_ptr<Xenstore> xenstore_;
    Status xenstore_status_;
    Ports ports_;
};

}  // namespace dmu
