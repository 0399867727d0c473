// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/outbox.h"

#include "xen-backend/mapper/log.h"

namespace dmu {

void Outbox::fail(std::uint64_t id, int error) {
    dmu_command command{};
    command.type = DMU_CMD_FAIL;
    command.id = id;
    command.error = static_cast<std::uint32_t>(error);
    add(command);
}

void Outbox::committed(std::uint64_t sequence) {
    dmu_command command{};
    command.type = DMU_CMD_COMMITTED;
    command.sequence = sequence;
    add(command);
}

void Outbox::send(Channel& channel, const std::string& disk) {
    if (commands_.empty()) return;
    std::vector<dmu_command> batch;
    batch.swap(commands_);
    std::span<const dmu_command> left(batch);
    while (!left.empty()) {
        auto sent = channel.write_some(left);
        if (sent && *sent != 0) {
            left = left.subspan(*sent);
            continue;
        }
        log_error(disk + ": " + (sent ? "the kernel takes no commands" : sent.error().message));
        fail_refused(channel, left.front());
        left = left.subspan(1);
    }
}

void Outbox::fail_refused(Channel& channel, const dmu_command& refused) {
    if (refused.id == 0) return;
    dmu_command failure{};
    failure.type = DMU_CMD_FAIL;
    failure.id = refused.id;
    failure.error = EIO;
    (void)static_cast<bool>(channel.write({&failure, 1}));
}

}  // namespace dmu
