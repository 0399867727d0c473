// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/control/crypt_devices.h"

namespace dmu::control {
namespace {

constexpr char crypt_word[] = "+crypt-", base_word[] = "+base-";

}  // namespace

CryptNames crypt_names(const std::string& name, const std::string& key, unsigned layer, unsigned file) {
    const std::string place = std::to_string(layer) + "." + std::to_string(file);
    const std::string base = base_word + place, crypt = crypt_word + place;
    return {key + base, {name + base, "DMU-" + key + base}, {name + crypt, "DMU-" + key + crypt}};
}

std::vector<DeviceName> crypt_devices(const DiskState& state) {
    std::vector<DeviceName> devices;
    for (const auto& file : state.files) {
        if (!file.encrypted) continue;
        const auto names = crypt_names(state.name, state.key, file.layer, file.file);
        devices.push_back(names.crypt);
        devices.push_back(names.base);
    }
    return devices;
}

bool is_crypt(const std::string& uuid) {
    return uuid.find(crypt_word) != std::string::npos;
}

unsigned removal_rank(const std::string& uuid) {
    if (uuid.find(base_word) != std::string::npos) return 2;
    return is_crypt(uuid) ? 1 : 0;
}

}  // namespace dmu::control
