// SPDX-License-Identifier: GPL-2.0-or-later
// Leases of the model: first writes that ask nobody.
#include <algorithm>

#include "tests/fakes/fake_target.h"

namespace dmu::fake {

int Target::pool_command(const dmu_command& c) {
    if (!(owner_.features & DMU_FEATURE_LEASES)) return EOPNOTSUPP;
    const bool power_of_two = c.length != 0 && (c.length & (c.length - 1)) == 0;
    if (c.pool == DMU_NO_POOL || !power_of_two || c.physical != c.length) return EINVAL;
    Pool& pool = pools_[c.pool];
    if (pool.grain != 0 && pool.grain != c.length) return EINVAL;
    pool.grain = c.length;
    pool.low = c.sequence;
    return 0;
}

int Target::lease_command(const dmu_command& c) {
    if (!(owner_.features & DMU_FEATURE_LEASES)) return EOPNOTSUPP;
    if (c.flags & ~DMU_READS_ZERO) return EINVAL;
    if (const int error = check_space(c.destination, c.physical, c.length, true)) return error;
    const auto pool = pools_.find(c.pool);
    if (pool == pools_.end()) return ENOENT;
    if (c.length == 0 || c.length % pool->second.grain != 0) return EINVAL;
    pool->second.leases.push_back({c.destination, c.physical, c.length, c.flags});
    if (pool->second.left() >= pool->second.low) pool->second.low_told = false;
    return 0;
}

dmu_event Target::lease_event(std::uint32_t type, std::uint32_t pool, const Lease& lease) {
    dmu_event event{};
    event.type = type;
    event.pool = pool;
    event.destination = lease.destination;
    event.physical = lease.physical;
    event.length = lease.length;
    event.flags = lease.flags;
    return event;
}

int Target::revoke_command(const dmu_command& c) {
    if (!(owner_.features & DMU_FEATURE_LEASES)) return EOPNOTSUPP;
    const auto pool = pools_.find(c.pool);
    if (pool == pools_.end()) return ENOENT;
    for (const Lease& lease : pool->second.leases) push(lease_event(DMU_EV_REVOKED, c.pool, lease));
    pool->second.leases.clear();
    return 0;
}

void Target::replay_leases() {
    for (auto& [number, pool] : pools_) {
        pool.low_told = false;
        for (const Lease& lease : pool.leases) push(lease_event(DMU_EV_LEASED, number, lease));
    }
}

// True: the request has a place, which is on its way.
bool Target::take_lease(const Request& request) {
    const std::optional<Extent> ground = find(request.position);
    if (request.op != DMU_OP_WRITE || !ground || !ground->needs_place() || log_full()) return false;
    const auto found = pools_.find(ground->pool);
    if (found == pools_.end() || found->second.leases.empty() || found->second.grain != table_.grain) return false;
    Pool& pool = found->second;
    Lease& lease = pool.leases.front();

    Place place;
    place.extent = *ground;
    place.extent.start = grain_start(request.position);
    const std::uint64_t wanted = grain_end(request.end - 1), room = place.extent.start + lease.length;
    std::uint64_t end = place.extent.start;
    while (end < wanted && end < room && takes_from(ground->pool, end)) end = grain_end(end);
    if (end <= request.position) return false;
    place.extent.length = end - place.extent.start;
    place.extent.kind = DMU_KIND_LINEAR;
    place.extent.flags = DMU_MAP_WRITABLE;
    place.extent.destination = lease.destination;
    place.extent.physical = lease.physical;
    place.reads_zero = (lease.flags & DMU_READS_ZERO) != 0;
    // The device's end may cut the last grain; what it takes is whole.
    const std::uint64_t taken = (place.extent.length + pool.grain - 1) / pool.grain * pool.grain;
    lease.physical += taken;
    lease.length -= taken;
    if (lease.length == 0) pool.leases.pop_front();
    places_.push_back(place);
    if (pool.left() < pool.low && !pool.low_told && attached_) {
        pool.low_told = true;
        dmu_event event{};
        event.type = DMU_EV_LEASE_LOW;
        event.pool = ground->pool;
        event.length = pool.left();
        push(event);
    }
    return true;
}

// The whole grain is ground for first writes from the pool.
bool Target::takes_from(std::uint32_t pool, std::uint64_t grain) const {
    if (in_flight(grain, grain_end(grain))) return false;
    for (std::uint64_t at = grain; at < grain_end(grain);) {
        const std::optional<Extent> extent = find(at);
        if (!extent || !extent->needs_place() || extent->pool != pool) return false;
        at = extent->end();
    }
    return true;
}

}  // namespace dmu::fake
