// SPDX-License-Identifier: GPL-2.0-or-later
// The mapper's side of the model: commands, checked as strictly as the wire's header allows.
#include <algorithm>

#include "tests/fakes/fake_target.h"

namespace dmu::fake {

// 0, or why a range of a destination can't be used.
int Target::check_space(std::uint32_t number, std::uint64_t physical, std::uint64_t length, bool write) const {
    const auto found = destinations_.find(number);
    if (found == destinations_.end()) return ENOENT;
    dmu_destination now{};
    now.number = number;
    if (const int error = get_destination(now)) return error;
    if (now.flags & DMU_DEST_HOLD) return EINVAL;
    if (write && (now.flags & DMU_DEST_READ_ONLY)) return EINVAL;
    return length > now.sectors || physical > now.sectors - length ? ERANGE : 0;
}

int Target::check_map(const dmu_command& c) const {
    constexpr std::uint32_t watched = DMU_MAP_RETURN | DMU_MAP_TELL;
    constexpr std::uint32_t flags = DMU_MAP_WRITABLE | DMU_MAP_ONCE | DMU_MAP_MIRROR | watched;
    if (c.length == 0 || c.kind < DMU_KIND_LINEAR || c.kind > DMU_KIND_ERROR || (c.flags & ~flags)) return EINVAL;
    if (c.length > table_.sectors || c.start > table_.sectors - c.length) return ERANGE;
    if (c.discard > DMU_POLICY_ASK || c.zeroes > DMU_POLICY_ASK) return EINVAL;
    // A change that was not read can't have been applied.
    if (c.sequence > std::max(delivered_, committed_)) return EINVAL;
    if (c.pool != DMU_NO_POOL && pools_.count(c.pool) == 0) return ENOENT;
    if ((c.flags & DMU_MAP_WRITABLE) && c.kind != DMU_KIND_LINEAR) return EINVAL;
    if ((c.flags & (DMU_MAP_MIRROR | watched)) && c.kind != DMU_KIND_LINEAR) return EINVAL;
    if ((c.flags & DMU_MAP_RETURN) && !(c.flags & DMU_MAP_ONCE)) return EINVAL;
    if ((c.flags & watched) && !(owner_.features & DMU_FEATURE_RETURN)) return EINVAL;
    if ((c.flags & DMU_MAP_ONCE) && c.id == 0) return EINVAL;
    if ((c.flags & DMU_MAP_ONCE) && !(owner_.features & DMU_FEATURE_ONCE)) return EOPNOTSUPP;
    if ((c.flags & DMU_MAP_MIRROR) && !(owner_.features & DMU_FEATURE_MIRROR)) return EOPNOTSUPP;
    if (c.kind == DMU_KIND_LINEAR || c.kind == DMU_KIND_COW) {
        if (const int error = check_space(c.destination, c.physical, c.length, c.flags & DMU_MAP_WRITABLE))
            return error;
    }
    if (c.flags & DMU_MAP_MIRROR) return check_space(c.destination2, c.physical2, c.length, true);
    return 0;
}

int Target::map_command(const dmu_command& c) {
    if (const int error = check_map(c)) return error;
    Extent extent;
    extent.start = c.start;
    extent.length = c.length;
    extent.kind = c.kind;
    extent.flags = c.flags & ~DMU_MAP_ONCE;
    extent.destination = c.kind == DMU_KIND_LINEAR || c.kind == DMU_KIND_COW ? c.destination : DMU_NO_DESTINATION;
    extent.physical = c.physical;
    extent.destination2 = c.destination2;
    extent.physical2 = c.physical2;
    extent.discard = c.discard;
    extent.zeroes = c.zeroes;
    extent.pool = c.pool;

    if (c.flags & DMU_MAP_ONCE) {
        for (const RequestPtr& request : requests_)
            if (request->miss == c.id) request->once = extent;
    } else if (c.sequence >= invalidated_) {
        for (std::uint64_t at = extent.start; at < extent.end();) {
            const std::optional<Extent> known = find(at);
            const std::uint64_t stop = known ? std::min(known->end(), extent.end()) : gap_end(at, extent.end());
            if (!known) put(extent.cut(at, stop));
            at = stop;
        }
    }
    // Made from metadata older than an invalidation, it may lack changes that the map no longer holds: the miss comes
    // again.
    if (c.id != 0) misses_.remove_if([&](const Miss& miss) { return miss.id == c.id; });
    return 0;
}

int Target::place_command(const dmu_command& c) {
    if (c.id == 0 || c.length == 0 || (c.flags & ~DMU_READS_ZERO)) return EINVAL;
    if (c.length > table_.sectors || c.start > table_.sectors - c.length) return ERANGE;
    if (c.start != grain_start(c.start) || c.start + c.length != grain_end(c.start + c.length - 1)) return EINVAL;
    if (c.discard > DMU_POLICY_ASK || c.zeroes > DMU_POLICY_ASK) return EINVAL;
    if (c.pool != DMU_NO_POOL && pools_.count(c.pool) == 0) return ENOENT;
    if (const int error = check_space(c.destination, c.physical, c.length, true)) return error;

    Extent extent;
    extent.start = c.start;
    extent.length = c.length;
    extent.kind = DMU_KIND_LINEAR;
    extent.flags = DMU_MAP_WRITABLE;
    extent.destination = c.destination;
    extent.physical = c.physical;
    extent.discard = c.discard;
    extent.zeroes = c.zeroes;
    extent.pool = c.pool;
    const auto miss = std::find_if(misses_.begin(), misses_.end(), [&](const Miss& m) { return m.id == c.id; });
    if (miss == misses_.end()) {
        lose(extent);
        return 0;
    }
    if (miss->op != DMU_OP_WRITE || c.start != miss->start || extent.end() > miss->end()) return EINVAL;
    bool linear = false;
    for (std::uint64_t at = c.start; at < extent.end();) {
        const std::optional<Extent> known = find(at);
        if (!known || (!known->needs_place() && !known->writable())) return EINVAL;
        linear = linear || known->writable();
        at = known->end();
    }
    misses_.erase(miss);
    if (linear)
        lose(extent);
    else
        places_.push_back({extent, (c.flags & DMU_READS_ZERO) != 0});
    return 0;
}

int Target::end_flush(Request& flush, const dmu_command& c) {
    const bool done = c.type == DMU_CMD_DONE;
    if (done && flush.flush_sequence > committed_) return EINVAL;
    finish(flush, done ? 0 : static_cast<int>(c.error));
    return 0;
}

// FAIL and DONE.
int Target::end_command(const dmu_command& c) {
    const bool fail = c.type == DMU_CMD_FAIL;
    if (c.id == 0 || (fail && (c.error == 0 || c.error > 4095))) return EINVAL;
    const auto miss = std::find_if(misses_.begin(), misses_.end(), [&](const Miss& m) { return m.id == c.id; });
    if (miss == misses_.end()) {
        for (const RequestPtr& request : requests_)
            if (request->flush_id == c.id && !request->finished) return end_flush(*request, c);
        if (fail && press_id_ == c.id) press_id_ = 0;
        return 0;
    }
    if (!fail && !miss->ask) return EINVAL;
    const std::uint64_t end = miss->end();
    misses_.erase(miss);
    for (const RequestPtr& request : requests_) {
        if (request->miss != c.id) continue;
        request->miss = 0;
        if (fail) {
            finish(*request, static_cast<int>(c.error));
            continue;
        }
        const auto from = static_cast<std::ptrdiff_t>((request->position - request->start) * DMU_SECTOR_SIZE);
        const auto to = static_cast<std::ptrdiff_t>((end - request->start) * DMU_SECTOR_SIZE);
        if (request->op == DMU_OP_READ && !request->has_data)
            std::fill(request->bytes.begin() + from, request->bytes.begin() + to, std::byte{0});
        request->has_data = false;
        request->position = std::min(request->end, end);
    }
    return 0;
}

int Target::committed_command(const dmu_command& c) {
    if (c.sequence > std::max(delivered_, committed_)) return EINVAL;
    committed_ = std::max<std::uint64_t>(committed_, c.sequence);
    while (!log_.empty() && log_.front().sequence <= committed_) log_.pop_front();
    if (press_id_ != 0 && press_sequence_ <= committed_) press_id_ = 0;
    return 0;
}

int Target::invalidate_command(const dmu_command& c) {
    if (c.length > table_.sectors || c.start > table_.sectors - c.length) return ERANGE;
    forget(c.start, c.start + c.length);
    if (c.length != 0) invalidated_ = sequence_;
    invalidations_.push_back({c.id, c.start, c.length});
    return 0;
}

// Nothing but a place under way is ever in flight here.
void Target::finish_drained() {
    for (auto it = invalidations_.begin(); it != invalidations_.end();) {
        const bool waits = it->length == 0 ? !places_.empty() : in_flight(it->start, it->start + it->length);
        if (waits) {
            ++it;
            continue;
        }
        dmu_event event{};
        event.type = DMU_EV_INVALIDATED;
        event.id = it->id;
        if (attached_) push(event);
        it = invalidations_.erase(it);
    }
}

int Target::command(const dmu_command& c) {
    int error = EINVAL;
    if (c.reserved != 0) return error;
    switch (c.type) {
        case DMU_CMD_MAP:
            error = map_command(c);
            break;
        case DMU_CMD_PLACE:
            error = place_command(c);
            break;
        case DMU_CMD_FAIL:
        case DMU_CMD_DONE:
            error = end_command(c);
            break;
        case DMU_CMD_COMMITTED:
            error = committed_command(c);
            break;
        case DMU_CMD_INVALIDATE:
            error = invalidate_command(c);
            break;
        case DMU_CMD_LEASE:
            error = lease_command(c);
            break;
        case DMU_CMD_REVOKE:
            error = revoke_command(c);
            break;
        case DMU_CMD_POOL:
            error = pool_command(c);
            break;
        default:
            break;
    }
    if (error == 0) advance();
    return error;
}

void Target::refuse(const dmu_command& c, int error) {
    refusals_.push_back("command type " + std::to_string(c.type) + " id " + std::to_string(c.id) + " start " +
                        std::to_string(c.start) + " length " + std::to_string(c.length) + " kind " +
                        std::to_string(c.kind) + " sequence " + std::to_string(c.sequence) + " destination " +
                        std::to_string(c.destination) + " physical " + std::to_string(c.physical) + ": " +
                        system_error("refused", error).message);
}

void Target::set_fail(bool fail) {
    fail_ = fail;
    advance();
}

}  // namespace dmu::fake
