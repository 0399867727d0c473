// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/leases.h"

#include <algorithm>

namespace dmu {
namespace {

// More than a guest has requests under way.
constexpr std::uint64_t smallest = 1 << 20;
constexpr std::uint64_t fewest_grains = 256;
constexpr std::uint64_t largest = 64 << 20;
// Metadata is kept ready for each of them.
constexpr std::uint64_t most_grains = 4096;
constexpr unsigned most_pieces = 64;
constexpr std::chrono::seconds quickly{2};
constexpr std::chrono::seconds lasting{10};

}  // namespace

Leases::Leases(Image& image, const DiskFacts& facts, bool offered, Alarms& alarms, Outbox& out)
    : image_(image), facts_(facts), alarms_(alarms), out_(out) {
    const std::uint64_t grain = static_cast<std::uint64_t>(facts.grain) * sector_size;
    usable_ = offered && !facts.read_only && image.info().can_allocate && facts.encryption != Encryption::aes;
    // A killed mapper's leases are leaked at worst: not more than an eighth of the disk.
    largest_ = std::min({largest, most_grains * grain, align_down(facts.virtual_size / 8, grain)});
    largest_ = std::max(largest_, grain);
    smallest_ = std::min(std::max(smallest, fewest_grains * grain), largest_);
    size_ = smallest_;
}

void Leases::start() {
    if (usable_) set_pool();
}

void Leases::set_pool() {
    dmu_command command{};
    command.type = DMU_CMD_POOL;
    command.destination = DMU_NO_DESTINATION;
    command.pool = pool;
    command.length = facts_.grain;
    command.physical = facts_.grain;
    command.sequence = size_ / 2 / sector_size;
    out_.add(command);
}

void Leases::first_write(Clock::time_point now) {
    if (!usable_ || leasing_) return;
    lease(size_);
    last_ = now;
}

void Leases::low(Clock::time_point now) {
    if (!usable_) return;
    if (now - last_ < quickly) size_ = std::min(size_ * 4, largest_);
    if (now - last_ > lasting) size_ = std::max(size_ / 2, smallest_);
    last_ = now;
    set_pool();
    lease(size_);
}

// In pieces, where what was given back is in pieces.
void Leases::lease(std::uint64_t bytes) {
    leasing_ = true;
    for (unsigned pieces = 0; bytes != 0 && leasing_ && pieces < most_pieces; ++pieces) {
        auto space = image_.reserve_any(bytes);
        if (space) {
            hand_out(*space);
            bytes -= std::min(bytes, space->length);
        } else {
            refused(space.error());
        }
    }
}

void Leases::hand_out(const Place& space) {
    leased_ += space.length;
    dmu_command command{};
    command.type = DMU_CMD_LEASE;
    command.pool = pool;
    command.destination = destination_number(0, space.file);
    command.physical = space.host.bytes / sector_size;
    command.length = space.length / sector_size;
    // What dm-crypt makes of zeros is no zeros.
    const bool zeros = space.reads_as_zero && facts_.encryption == Encryption::none;
    command.flags = zeros ? DMU_READS_ZERO : 0u;
    out_.add(command);
}

void Leases::refused(const Error& error) {
    leasing_ = false;
    // Of no space a first write will tell, when it asks.
    if (error.code == Code::no_space) return;
    if (error.code == Code::unsupported || error.code == Code::corrupt) usable_ = false;
    if (error.code != Code::unsupported)
        alarms_.raise(error.code == Code::corrupt ? "corrupt" : "allocate", error.message);
}

// Also where none are to be had any more: the predecessor's configuration was another.
void Leases::handed_over() {
    if (found_) send_revoke();
    found_ = false;
}

void Leases::revoke() {
    if (usable_) send_revoke();
}

void Leases::send_revoke() {
    dmu_command command{};
    command.type = DMU_CMD_REVOKE;
    command.destination = DMU_NO_DESTINATION;
    command.pool = pool;
    out_.add(command);
    leasing_ = false;
}

void Leases::returned(const dmu_event& event) {
    if (event.destination >= files_per_layer) return;
    Place unused{{},
                 event.length * sector_size,
                 destination_file(event.destination),
                 {event.physical * sector_size},
                 (event.flags & DMU_READS_ZERO) != 0};
    // Not given back it is leaked, no more.
    if (Status done = image_.give_back(unused); !done) alarms_.raise("allocate", done.error().message);
}

}  // namespace dmu
