// SPDX-License-Identifier: GPL-2.0-or-later
// Devices without Xen, commits, and successors of mappers.
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

// As commit_disks(); each mapper makes way for a successor, the program as it is now
// installed, which has taken over all disks when this returns. Blocks, at most a minute for
// each; guests' I/O waits meanwhile where it needs an answer.
Result<unsigned> restart_mappers(const Ports& ports, const std::optional<std::string>& which);

}  // namespace dmu
