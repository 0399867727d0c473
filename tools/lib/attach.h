// SPDX-License-Identifier: GPL-2.0-or-later
// Devices without Xen, and commits.
#pragma once

#include <optional>
#include <string>

#include "tools/lib/ports.h"

namespace dmu {

struct AttachOptions {
    std::string spec = {};  // FORMAT:PATH; a relative path starts at the working directory
    std::string name = {};  // of the dm device
    bool read_only = false;
    std::string on_full = {};  // "wait", "error", or empty: as the configuration file says
};

// The device's path, "/dev/mapper/NAME". Blocks until it is usable.
Result<std::string> attach_disk(const Ports& ports, const AttachOptions& options);

enum class Detached { now, when_closed };
// Code::not_found: nothing of that name is attached.
Result<Detached> detach_disk(const Ports& ports, const std::string& name);

// All disks, or those of one device, domain name, domain number or instance. The
// number of mappers that committed. Code::not_found: no such one.
Result<unsigned> commit_disks(const Ports& ports, const std::optional<std::string>& which);

}  // namespace dmu
