// SPDX-License-Identifier: GPL-2.0-or-later
// What the mapper has the DmThread do beside plain calls. They block; only there.
#pragma once

#include <string>

#include "xen-backend/control/crypt_devices.h"
#include "xen-backend/devmapper/device_mapper.h"

namespace dmu {

// Removes the device if the uuid is its; gone already, or the name somebody else's by now,
// is fine. Code::busy: open. retry: tries for some seconds before it says so.
Status remove_own_device(DeviceMapper& devices, const std::string& name, const std::string& uuid, bool retry = false);
// What an encrypted image has below its own device, which is gone.
Status remove_crypt_devices(DeviceMapper& devices, const control::DiskState& state);

// A predecessor's device, running. Code::not_found: there is none; one that its maker left
// without a table is removed.
Result<DmInfo> check_adopted_device(DeviceMapper& devices, const std::string& name);

}  // namespace dmu
