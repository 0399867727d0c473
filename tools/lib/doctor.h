// SPDX-License-Identifier: GPL-2.0-or-later
// Is everything there that a disk needs?
#pragma once

#include <string>
#include <vector>

#include "tools/lib/ports.h"

namespace dmu {

struct Finding {
    bool good = true;
    std::string what;    // "module dm-userspace: version 1"
    std::string advice;  // what to do; empty where good
};

// Where to look; tests look elsewhere.
struct DoctorPlaces {
    std::string device = "/dev/dmu";
    std::string device_mapper = "/dev/mapper/control";
    std::string blkback = "/sys/module/xen_blkback";
    std::string capabilities = "/proc/xen/capabilities";
    std::string script;  // /etc/xen/scripts/block-dmu
    std::string mapper;  // /usr/libexec/xen-dmu/xen-dmu-mapper
    std::string configuration;
    std::string run_directory;
};
DoctorPlaces real_places();

std::vector<Finding> examine_host(const Ports& ports, const Status& xenstore, const DoctorPlaces& places);

}  // namespace dmu
