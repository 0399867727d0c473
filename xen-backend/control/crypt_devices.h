// SPDX-License-Identifier: GPL-2.0-or-later
// What the devices are called that stand between the map of an encrypted image and a file
// of it: a target "crypt" on a target "userspace" (the "base") on the file.
#pragma once

#include <string>
#include <vector>

#include "xen-backend/control/state_file.h"

namespace dmu::control {

// A dm device by both of its names.
struct DeviceName {
    std::string name;
    std::string uuid;
};

struct CryptNames {
    std::string base_key;  // that the base's mapper attaches by
    DeviceName base;
    DeviceName crypt;
};

// name, key: of the disk's own device.
CryptNames crypt_names(const std::string& name, const std::string& key, unsigned layer, unsigned file);
// Of all files, each before the one that it stands on.
std::vector<DeviceName> crypt_devices(const DiskState& state);
bool is_crypt(const std::string& uuid);
// A device's place in the order of removal: 0 first.
unsigned removal_rank(const std::string& uuid);

}  // namespace dmu::control
