// SPDX-License-Identifier: GPL-2.0-or-later
// Commands on their way to the kernel, sent in one write. The disk's thread only.
#pragma once

#include <dm-userspace.h>

#include <string>
#include <vector>

#include "xen-backend/libdmu/channel.h"

namespace dmu {

// Extents sent beyond what was asked for, per miss: a fragmented table is not worth more.
inline constexpr std::size_t ahead_limit = 1024;

class Outbox {
public:
    void add(const dmu_command& command) { commands_.push_back(command); }
    void fail(std::uint64_t id, int error);
    void committed(std::uint64_t sequence);
    std::size_t size() const { return commands_.size(); }

    // Sends and empties. Where the kernel refuses one, the others still go out, and a miss
    // that it would have answered ends in an error: none is left waiting.
    void send(Channel& channel, const std::string& disk);

private:
    static void fail_refused(Channel& channel, const dmu_command& refused);

    std::vector<dmu_command> commands_;
};

}  // namespace dmu
