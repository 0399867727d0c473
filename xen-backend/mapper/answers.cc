// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/answers.h"

#include <algorithm>

#include "xen-backend/mapper/log.h"

namespace dmu {
namespace {

bool needs_place(const Mapping& mapping) {
    return mapping.kind == MappingKind::zero || mapping.kind == MappingKind::cow;
}

Mapping cut(Mapping mapping, std::uint64_t from, std::uint64_t to) {
    std::uint64_t start = std::max(mapping.start.bytes, from);
    std::uint64_t end = std::min(mapping.start.bytes + mapping.length, to);
    mapping.host.bytes += start - mapping.start.bytes;
    mapping.start.bytes = start;
    mapping.length = end - start;
    return mapping;
}

}  // namespace

void Answers::answer(const dmu_event& miss, std::uint64_t sequence) {
    if (miss.length == 0 || miss.start >= facts_.sectors || miss.length > facts_.sectors - miss.start) {
        out_.fail(miss.id, EIO);
        return;
    }
    const bool writes = miss.op == DMU_OP_WRITE || miss.op == DMU_OP_ZERO;
    if (writes && !frozen_ && !facts_.read_only && chain_.top().write_protected() && !begin_writing(miss)) return;
    GuestRange range{{miss.start * sector_size}, miss.length * sector_size};
    const LookAhead ahead = wants_ahead(miss, range) ? LookAhead::table : LookAhead::none;
    auto found = look_up_mappable(range, ahead);
    if (found && found->end == range.start.bytes) {
        deferred_.push_back(miss);
    } else if (found) {
        // What there was no slot for misses again.
        range.length = found->end - range.start.bytes;
        answer_known(miss, range, ahead, found->mappings, sequence);
    } else if (found.error().code == Code::corrupt) {
        answer_damaged(miss, range, sequence, found.error());
    } else {
        alarms_.raise("read", found.error().message);
        out_.fail(miss.id, found.error().to_errno());
    }
}

bool Answers::begin_writing(const dmu_event& miss) {
    if (Status begun = chain_.top().begin_writing(); !begun) {
        alarms_.raise("first-write", begun.error().message);
        out_.fail(miss.id, begun.error().to_errno());
        return false;
    }
    alarms_.clear("first-write");
    dmu_command forget{};
    forget.type = DMU_CMD_INVALIDATE;
    forget.length = facts_.sectors;
    forget.destination = DMU_NO_DESTINATION;
    out_.add(forget);
    return true;
}

Result<std::vector<Mapping>> Answers::look_up(GuestRange range, LookAhead ahead) {
    auto found = chain_.look_up(range, ahead);
    if (!found) return found;
    for (const Mapping& mapping : *found) {
        bool lies = mapping.kind == MappingKind::linear || mapping.kind == MappingKind::cow;
        if (lies && mapping.host.bytes % sector_size != 0) {
            return Error{Code::corrupt, facts_.format + " image: guest byte " + std::to_string(mapping.start.bytes) +
                                            " lies at byte " + std::to_string(mapping.host.bytes) +
                                            ", within a sector"};
        }
    }
    return found;
}

Result<Scratch::Ready> Answers::look_up_mappable(GuestRange range, LookAhead ahead) {
    auto found = look_up(range, ahead);
    if (!found) return found.error();
    return scratch_.resolve(*found, range);
}

void Answers::go_on(std::uint64_t sequence) {
    std::deque<dmu_event> again;
    again.swap(deferred_);
    while (!again.empty() && deferred_.empty()) {
        answer(again.front(), sequence);
        again.pop_front();
    }
    deferred_.insert(deferred_.end(), again.begin(), again.end());
}

void Answers::answer_known(const dmu_event& miss, GuestRange range, LookAhead look, const std::vector<Mapping>& found,
                           std::uint64_t sequence) {
    const std::uint64_t device_end = facts_.sectors * sector_size;
    std::vector<dmu_command> asked;
    std::uint64_t to_place = 0;  // bytes from range.start that need a place
    std::size_t ahead = look == LookAhead::table ? 0 : ahead_limit;
    for (const Mapping& mapping : found) {
        std::uint64_t end = mapping.start.bytes + mapping.length;
        if (mapping.start.bytes < range.end()) {
            Mapping inside = cut(mapping, range.start.bytes, range.end());
            asked.push_back(to_map(inside, sequence));
            if (needs_place(inside) && to_place == inside.start.bytes - range.start.bytes) to_place += inside.length;
        }
        if (end > range.end() && ahead < ahead_limit) {
            Mapping beyond = cut(mapping, range.end(), device_end);
            if (beyond.start.bytes >= device_end) break;
            out_.add(to_map(beyond, sequence));
            ahead_end_ = beyond.start.bytes + beyond.length;
            ++ahead;
        }
    }
    bool placing = miss.op == DMU_OP_WRITE && to_place != 0;
    if (!placing && !asked.empty()) asked.back().id = miss.id;
    // A place that the kernel was not told of: a MAP alone would not replace what it holds.
    const bool stale = !placing && miss.op == DMU_OP_WRITE && (miss.flags & DMU_MISS_MAPPED);
    if (stale && facts_.encryption == Encryption::aes) grains_.forget(range);
    for (const dmu_command& command : asked) out_.add(command);
    if (asked.empty()) out_.fail(miss.id, EIO);
    if (placing) place(miss, {range.start, to_place});
}

// Not what the kernel has: it only wants a place, or an answer before was of that already.
bool Answers::wants_ahead(const dmu_event& miss, GuestRange range) {
    if (miss.flags & DMU_MISS_MAPPED) return false;
    if (ahead_start_ <= range.start.bytes && range.end() <= ahead_end_) return false;
    ahead_start_ = range.start.bytes;
    ahead_end_ = range.end();
    return true;
}

void Answers::place(const dmu_event& miss, GuestRange range) {
    if (frozen_ || facts_.read_only) {
        out_.fail(miss.id, facts_.read_only ? EROFS : EIO);
        return;
    }
    const std::uint64_t grain = static_cast<std::uint64_t>(facts_.grain) * sector_size;
    auto place = chain_.top().reserve({range.start, align_up(range.length, grain)});
    if (!place) {
        if (place.error().code == Code::no_space) return no_space(miss, place.error());
        if (place.error().code == Code::corrupt) freeze();
        alarms_.raise(place.error().code == Code::corrupt ? "corrupt" : "allocate", place.error().message);
        out_.fail(miss.id, place.error().to_errno());
        return;
    }
    if (Status known = know_file_(place->file); !known) {
        alarms_.raise("allocate", known.error().message);
        out_.fail(miss.id, EIO);
        return;
    }
    if (waiting_.empty()) alarms_.clear("full");
    if (facts_.encryption == Encryption::aes) return fill(miss, *place);
    dmu_command command{};
    command.type = DMU_CMD_PLACE;
    command.id = miss.id;
    command.start = place->start.bytes / sector_size;
    // The last grain may be cut by the device's end.
    command.length = std::min(place->length, range.length) / sector_size;
    command.physical = place->host.bytes / sector_size;
    command.destination = destination_number(0, place->file);
    command.flags = place->reads_as_zero && facts_.encryption == Encryption::none ? DMU_READS_ZERO : 0u;
    set_policies(command, true);
    out_.add(command);
    leases_.first_write(Leases::Clock::now());
}

void Answers::fill(const dmu_event& miss, const Place& place) {
    if (Status filled = grains_.write(miss, place); !filled) {
        alarms_.raise("first-write", filled.error().message);
        out_.fail(miss.id, filled.error().to_errno());
        return;
    }
    alarms_.clear("first-write");
}

void Answers::freeze() {
    frozen_ = true;
    leases_.revoke();
    leases_.stop();
}

void Answers::no_space(const dmu_event& miss, const Error& error) {
    alarms_.raise("full", error.message + (on_full_ == OnFull::wait ? "; the guest's writes wait until there is space"
                                                                    : "; the guest's writes end in an error"));
    if (on_full_ == OnFull::error) {
        out_.fail(miss.id, ENOSPC);
    } else {
        waiting_.push_back(miss);
    }
}

void Answers::retry(std::uint64_t sequence) {
    std::deque<dmu_event> again;
    again.swap(waiting_);
    while (!again.empty()) {
        dmu_event miss = again.front();
        again.pop_front();
        answer(miss, sequence);
        // Still full: the others need not ask.
        if (!waiting_.empty()) break;
    }
    waiting_.insert(waiting_.end(), again.begin(), again.end());
}

void Answers::stop_waiting() {
    on_full_ = OnFull::error;
    for (const dmu_event& miss : waiting_) out_.fail(miss.id, ENOSPC);
    waiting_.clear();
}

void Answers::answer_damaged(const dmu_event& miss, GuestRange range, std::uint64_t sequence, const Error& error) {
    alarms_.raise("corrupt", error.message);
    freeze();
    std::vector<dmu_command> asked = look_up_around_damage(range, sequence);
    if (asked.empty()) {
        deferred_.push_back(miss);
        return;
    }
    if (miss.op == DMU_OP_WRITE) {
        // What has its place may still be written; the rest has none coming.
        bool written_in_place = std::all_of(asked.begin(), asked.end(), [](const dmu_command& command) {
            return (command.flags & DMU_MAP_WRITABLE) || command.kind == DMU_KIND_ERROR;
        });
        if (!written_in_place) {
            for (const dmu_command& command : asked) out_.add(command);
            out_.fail(miss.id, EIO);
            return;
        }
    }
    asked.back().id = miss.id;
    for (const dmu_command& command : asked) out_.add(command);
}

std::vector<dmu_command> Answers::look_up_around_damage(GuestRange range, std::uint64_t sequence) {
    std::vector<dmu_command> commands;
    const std::uint64_t grain = static_cast<std::uint64_t>(facts_.grain) * sector_size;
    for (std::uint64_t at = range.start.bytes; at < range.end();) {
        std::uint64_t end = std::min(align_down(at, grain) + grain, range.end());
        auto found = look_up_mappable({{at}, end - at}, LookAhead::none);
        if (!found) {
            commands.push_back(error_map({{at}, end - at}, sequence));
        } else {
            end = found->end;
            if (end == at) break;
            for (const Mapping& mapping : found->mappings) {
                if (mapping.start.bytes < end) commands.push_back(to_map(cut(mapping, at, end), sequence));
            }
        }
        at = end;
    }
    return commands;
}

dmu_command Answers::error_map(GuestRange range, std::uint64_t sequence) const {
    dmu_command command{};
    command.type = DMU_CMD_MAP;
    command.start = range.start.bytes / sector_size;
    command.length = range.length / sector_size;
    command.sequence = sequence;
    command.kind = DMU_KIND_ERROR;
    command.destination = DMU_NO_DESTINATION;
    return command;
}

dmu_command Answers::to_map(const Mapping& mapping, std::uint64_t sequence) const {
    dmu_command command = error_map({mapping.start, mapping.length}, sequence);
    switch (mapping.kind) {
        case MappingKind::linear:
            command.kind = DMU_KIND_LINEAR;
            if (mapping.writable && mapping.layer == 0 && !facts_.read_only) command.flags = DMU_MAP_WRITABLE;
            break;
        case MappingKind::zero:
            command.kind = DMU_KIND_ZERO;
            break;
        case MappingKind::cow:
            command.kind = DMU_KIND_COW;
            break;
        case MappingKind::opaque:
            return command;  // there is none behind look_up_mappable()
    }
    if (mapping.kind != MappingKind::zero) {
        command.destination = destination_number(mapping.layer, mapping.file);
        const bool by_guest = facts_.encryption == Encryption::aes && mapping.layer == 0;
        command.physical = (by_guest ? mapping.start.bytes : mapping.host.bytes) / sector_size;
    }
    bool leasable = leases_.usable() && mapping.leasable && needs_place(mapping);
    if (leasable) command.pool = Leases::pool;
    // What takes a lease there keeps these.
    set_policies(command, leasable || mapping.kind == MappingKind::linear);
    return command;
}

// What discards and write-zeroes become: nothing is asked, whole grains become ZERO where
// the format can say so.
void Answers::set_policies(dmu_command& command, bool allocated) const {
    // Until the first write is recorded nothing may change without asking.
    bool can_zero = facts_.discard != 0 && !facts_.read_only && !chain_.top().write_protected();
    command.discard = can_zero && (allocated || command.kind == DMU_KIND_COW) ? DMU_POLICY_ZERO : DMU_POLICY_IGNORE;
    command.zeroes = can_zero ? DMU_POLICY_ZERO : DMU_POLICY_IGNORE;
}

}  // namespace dmu
