// SPDX-License-Identifier: GPL-2.0-or-later
// The numbers that Xen gives virtual disks (its docs/man/xen-vbd-interface.7).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dmu {

// 51712 -> "xvda", 51713 -> "xvda1", 768 -> "hda", 2048 -> "sda"; a number of no
// known kind comes back in decimal.
std::string vdev_name(std::uint32_t number);

struct BackendPath {
    unsigned domain = 0;       // the frontend's
    std::uint32_t device = 0;  // the virtual disk's number
};

// "backend/vbd/5/51712", or the same below "/local/domain/0/".
std::optional<BackendPath> parse_backend_path(const std::string& path);

}  // namespace dmu
