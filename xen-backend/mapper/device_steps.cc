// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/device_steps.h"

namespace dmu {

Status remove_own_device(DeviceMapper& devices, const std::string& name, const std::string& uuid, bool retry) {
    auto info = devices.info(name);
    if (!info) return info.error().code == Code::not_found ? ok() : Status(info.error());
    if (info->uuid != uuid) return ok();  // the name is somebody else's by now
    Status removed = devices.remove(name, retry);
    return !removed && removed.error().code == Code::not_found ? ok() : removed;
}

Status remove_crypt_devices(DeviceMapper& devices, const control::DiskState& state) {
    for (const auto& device : control::crypt_devices(state)) {
        if (Status removed = remove_own_device(devices, device.name, device.uuid, true); !removed) return removed;
    }
    return ok();
}

// A device that its maker left without a table is none.
Result<DmInfo> check_adopted_device(DeviceMapper& devices, const std::string& name) {
    auto info = devices.info(name);
    if (!info) return info;
    if (!info->has_table) {
        if (Status removed = devices.remove(name, true); !removed) return removed.error();
        return Error{Code::not_found, "the device " + name + " had no table"};
    }
    if (info->suspended) {
        if (Status resumed = devices.resume(name); !resumed) return resumed.error();
    }
    return info;
}

}  // namespace dmu
