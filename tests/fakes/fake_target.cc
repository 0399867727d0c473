// SPDX-License-Identifier: GPL-2.0-or-later
// The guest's side of the model: requests run over the map, wait, miss, take places.
#include "tests/fakes/fake_target.h"

#include <algorithm>
#include <cstring>

namespace dmu::fake {

namespace {
constexpr std::uint64_t sector = DMU_SECTOR_SIZE;
}

// ------------------------------------------------------------------ requests

RequestPtr Target::submit(std::uint32_t op, std::uint64_t start, std::uint64_t length, std::vector<std::byte> bytes,
                          std::uint32_t flags) {
    auto request = std::make_shared<Request>();
    request->state = &owner_;
    request->keep = owner_.self.lock();
    request->op = op;
    request->start = request->position = start;
    request->end = start + length;
    request->bytes = std::move(bytes);
    request->flags = flags;
    if (table_.sectors == 0 || length > table_.sectors || start > table_.sectors - length) {
        finish(*request, EIO);
    } else if (table_.read_only && op != DMU_OP_READ) {
        finish(*request, EROFS);
    } else {
        requests_.push_back(request);
        advance();
        last_end_ = request->end;
    }
    return request;
}

void Target::finish(Request& request, int error) {
    if (error != 0) ++counters_.errors;
    if (error == 0 && !request.missed && request.kind == Request::Kind::io)
        ++(request.op == DMU_OP_READ ? counters_.hits_read : counters_.hits_write);
    request.result = error;
    request.finished = true;
    owner_.finished.notify_all();
}

void Target::advance() {
    bool progress = true;
    while (progress) {
        progress = false;
        // By copy: a step may complete others.
        for (const RequestPtr& request : std::vector<RequestPtr>(requests_.begin(), requests_.end()))
            if (!request->finished) progress = step(*request) || progress;
        requests_.remove_if([](const RequestPtr& request) { return request->finished; });
        // A place waits for room in the log.
        if (!hold_places_ && !places_.empty() && !log_full()) {
            const Place place = places_.front();
            places_.pop_front();
            complete(place);
            progress = true;
        }
    }
    // A miss that nobody waits for any more has ended.
    misses_.remove_if([this](const Miss& miss) {
        return std::none_of(requests_.begin(), requests_.end(), [&](const auto& r) { return r->miss == miss.id; });
    });
    finish_drained();
    press_log();
}

// True: something changed that others may wait for.
bool Target::step(Request& request) {
    if (request.kind == Request::Kind::flush) {
        const bool waits = request.asked || request.flush_sequence > committed_;
        if (waits && !fail_) return false;
        finish(request, waits ? EIO : 0);
        return true;
    }
    if (request.miss != 0) {
        const bool pending =
            std::any_of(misses_.begin(), misses_.end(), [&](const Miss& miss) { return miss.id == request.miss; });
        if (pending && !fail_) return false;
        if (pending) {
            finish(request, EIO);
            return true;
        }
        request.miss = 0;
    }
    const std::uint64_t before = request.position;
    while (!request.finished && request.position < request.end && request.miss == 0) {
        const bool moved =
            request.op == DMU_OP_DISCARD || request.op == DMU_OP_ZERO ? step_discard(request) : step_data(request);
        if (!moved) break;
    }
    if (!request.finished && request.position >= request.end) finish(request, 0);
    return request.finished || request.position != before;
}

bool Target::step_data(Request& request) {
    const std::uint64_t at = request.position;
    if (in_flight(grain_start(at), grain_end(at))) return false;
    std::optional<Extent> extent = find(at);
    const bool asked = !extent || extent->kind == DMU_KIND_ASK;
    if (request.once && request.once->start <= at && at < request.once->end())
        extent = request.once;
    else if (asked)
        extent.reset();

    if (extent && extent->kind == DMU_KIND_ERROR) {
        finish(request, EIO);
        return true;
    }
    if (!extent || (request.op != DMU_OP_READ && !extent->writable())) {
        if (take_lease(request)) return true;
        wait_for_mapper(request);
        return request.finished;
    }
    // Not into a grain that waits for its place.
    std::uint64_t end = std::min(extent->end(), request.end);
    for (const Place& place : places_)
        if (place.extent.start >= at) end = std::min(end, place.extent.start);
    const Outcome outcome = transfer(request, *extent, end);
    request.once.reset();
    request.has_data = false;
    if ((extent->flags & DMU_MAP_RETURN) || (outcome.error() != 0 && (extent->flags & DMU_MAP_TELL)))
        come_back(request, end, outcome);
    else if (outcome.error() != 0)
        finish(request, outcome.error());
    else
        request.position = end;
    return true;
}

// Its I/O has ended: what becomes of the request the mapper says.
void Target::come_back(Request& request, std::uint64_t end, const Outcome& outcome) {
    if (fail_) {
        finish(request, EIO);
        return;
    }
    Miss miss;
    miss.id = next_id_++;
    miss.start = request.position;
    miss.length = end - request.position;
    miss.op = request.op;
    miss.ask = true;
    miss.error = static_cast<std::uint32_t>(outcome.error());
    miss.flags = request.flags | DMU_MISS_RETURNED | (outcome.first != 0 ? DMU_MISS_FIRST_FAILED : 0) |
                 (outcome.second != 0 ? DMU_MISS_SECOND_FAILED : 0);
    misses_.push_back(miss);
    ++counters_.misses;
    request.has_data = outcome.error() == 0;
    request.miss = miss.id;
    request.missed = true;
    if (attached_) push(miss_event(miss));
}

int Target::failing(std::uint32_t destination) const {
    const auto found = failing_.find(destination);
    return found == failing_.end() ? 0 : found->second;
}

Target::Outcome Target::transfer(Request& request, const Extent& extent, std::uint64_t end) {
    const std::uint64_t at = request.position;
    const Extent part = extent.cut(at, end);
    const std::span<std::byte> bytes =
        std::span(request.bytes).subspan((at - request.start) * sector, (end - at) * sector);
    if (request.op == DMU_OP_READ) {
        std::fill(bytes.begin(), bytes.end(), std::byte{0});
        if (part.kind == DMU_KIND_ZERO) return {};
        const int error = failing(part.destination);
        return {error != 0 ? error : file_read(part.destination, part.physical, bytes)};
    }
    const auto write = [&](std::uint32_t destination, std::uint64_t physical) {
        const int error = failing(destination);
        return error != 0 ? error : file_write(destination, physical, bytes);
    };
    return {write(part.destination, part.physical),
            part.flags & DMU_MAP_MIRROR ? write(part.destination2, part.physical2) : 0};
}

// Discards and write-zeroes go grain by grain: a whole grain may become ZERO, a part is
// ignored or written as zeros.
bool Target::step_discard(Request& request) {
    const std::uint64_t at = request.position;
    const std::uint64_t end = std::min(grain_end(at), request.end);
    if (in_flight(grain_start(at), grain_end(at))) return false;
    const bool discard = request.op == DMU_OP_DISCARD;
    bool all_zero_policy = true;
    for (std::uint64_t next = at; next < end;) {
        const std::optional<Extent> extent = find(next);
        std::uint32_t policy = DMU_POLICY_ASK;
        if (extent && extent->kind != DMU_KIND_ASK) policy = discard ? extent->discard : extent->zeroes;
        if (extent && extent->kind == DMU_KIND_ERROR) {
            finish(request, EIO);
            return true;
        }
        if (policy == DMU_POLICY_ASK) {
            wait_for_mapper(request);
            return request.finished;
        }
        all_zero_policy = all_zero_policy && policy == DMU_POLICY_ZERO;
        next = extent->end();
    }
    if (all_zero_policy && at == grain_start(at) && end == grain_end(at)) return discard_run(request, end);

    const Extent extent = find(at)->cut(at, std::min(find(at)->end(), end));
    const std::uint32_t policy = discard ? extent.discard : extent.zeroes;
    if (extent.kind == DMU_KIND_LINEAR && policy == DMU_POLICY_PASS) {
        const std::vector<std::byte> zeros(extent.length * sector);
        if (const int error = file_write(extent.destination, extent.physical, zeros)) {
            finish(request, error);
            return true;
        }
    } else if (!discard && extent.kind != DMU_KIND_ZERO) {
        // Written as zeros. Its bytes are zeros, so it is a write like others.
        if (!extent.writable()) {
            wait_for_mapper(request);
            return request.finished;
        }
        if (const int error = transfer(request, extent, extent.end()).error()) {
            finish(request, error);
            return true;
        }
    }
    request.position = extent.end();
    return true;
}

// One whole grain becomes ZERO; logged unless it was.
bool Target::discard_run(Request& request, std::uint64_t end) {
    Extent zero = find(request.position)->cut(request.position, request.position);
    const bool was_zero = zero.kind == DMU_KIND_ZERO && find(request.position)->end() >= end;
    if (!was_zero) {
        if (log_full()) return false;
        zero.kind = DMU_KIND_ZERO;
        zero.flags = 0;
        zero.length = end - zero.start;
        zero.destination = zero.destination2 = DMU_NO_DESTINATION;
        zero.physical = zero.physical2 = 0;
        forget(zero.start, zero.end());
        put(zero);
        log_change(DMU_KIND_ZERO, zero);
    }
    request.position = end;
    return true;
}

bool Target::log_full() const {
    return log_.size() >= table_.log;
}

// The mapper is asked to commit before anybody must wait.
void Target::press_log() {
    if (press_id_ != 0 || log_.size() <= table_.log / 2) return;
    press_id_ = next_id_++;
    press_sequence_ = sequence_;
    push_flush(press_id_, press_sequence_);
}

void Target::push_flush(std::uint64_t id, std::uint64_t sequence, std::uint32_t flags) {
    dmu_event event{};
    event.flags = flags;
    event.type = DMU_EV_FLUSH;
    event.id = id;
    event.sequence = sequence;
    if (attached_) push(event);
}

// How far the answer is wanted: to where the request can go on by itself.
std::uint64_t Target::miss_end(const Request& request, std::uint32_t op) const {
    const auto stops = [op](const Extent& extent) {
        switch (op) {
            case DMU_OP_READ:
                return extent.kind != DMU_KIND_ASK;
            case DMU_OP_WRITE:
                return extent.kind == DMU_KIND_ERROR || extent.writable();
            default:
                return extent.kind != DMU_KIND_ASK &&
                       (op == DMU_OP_DISCARD ? extent.discard : extent.zeroes) != DMU_POLICY_ASK;
        }
    };
    std::uint64_t at = request.position;
    while (at < request.end) {
        const std::optional<Extent> extent = find(at);
        if (at != request.position && in_flight(grain_start(at), grain_end(at))) break;
        if (extent && stops(*extent)) break;
        at = extent ? extent->end() : gap_end(at, request.end);
    }
    return std::min(at, request.end);
}

void Target::wait_for_mapper(Request& request) {
    if (fail_) {
        finish(request, EIO);
        return;
    }
    const std::optional<Extent> extent = find(request.position);
    // A part of write-zeroes that has to be written wants a place like a write.
    const bool write = request.op == DMU_OP_WRITE || (request.op == DMU_OP_ZERO && extent &&
                                                      extent->kind != DMU_KIND_ASK && extent->zeroes != DMU_POLICY_ASK);
    const std::uint32_t op = write ? static_cast<std::uint32_t>(DMU_OP_WRITE) : request.op;
    for (const Miss& miss : misses_) {
        const bool covers = miss.start <= request.position && request.position < miss.end();
        if (covers && (!extent || miss.op == op)) {
            request.miss = miss.id;
            request.missed = true;
            return;
        }
    }
    // What is asked each time is for this request only; else misses are of whole grains.
    const bool ask = op == DMU_OP_DISCARD || op == DMU_OP_ZERO || (extent && extent->kind == DMU_KIND_ASK);
    Miss miss;
    miss.id = next_id_++;
    miss.start = ask ? request.position : grain_start(request.position);
    const std::uint64_t end = miss_end(request, op);
    miss.length = (ask ? end : grain_end(end - 1)) - miss.start;
    miss.op = op;
    miss.ask = ask;
    miss.flags = request.flags;
    miss.sequential = request.start == last_end_;
    misses_.push_back(miss);
    ++counters_.misses;
    request.miss = miss.id;
    request.missed = true;
    if (attached_) push(miss_event(miss));
}

// ------------------------------------------------------------------ first writes

// What the place will hold before the request's own data; known[i]: sector i has to be written.
std::vector<std::byte> Target::fill(const Place& place, std::vector<bool>& known) const {
    const Extent& whole = place.extent;
    std::vector<std::byte> bytes(whole.length * sector);
    known.assign(whole.length, !place.reads_zero);
    for (std::uint64_t at = whole.start; at < whole.end();) {
        const std::optional<Extent> extent = find(at);
        const Extent part = extent->cut(at, std::min(extent->end(), whole.end()));
        const std::uint64_t offset = at - whole.start;
        if (part.kind == DMU_KIND_COW) {
            if (file_read(part.destination, part.physical,
                          std::span(bytes).subspan(offset * sector, part.length * sector)) != 0)
                return {};
            std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(offset), part.length, true);
        }
        at = part.end();
    }
    return bytes;
}

void Target::complete(const Place& place) {
    const Extent& whole = place.extent;
    const auto waiter = std::find_if(requests_.begin(), requests_.end(), [&](const RequestPtr& r) {
        return !r->finished && r->kind == Request::Kind::io && (r->op == DMU_OP_WRITE || r->op == DMU_OP_ZERO) &&
               r->miss == 0 && whole.start <= r->position && r->position < whole.end();
    });
    if (waiter == requests_.end()) return lose(whole);
    Request& request = **waiter;

    // Grains past the request's end have no taker.
    const std::uint64_t end = std::min(whole.end(), grain_end(request.end - 1));
    Place taken{whole.cut(whole.start, end), place.reads_zero};
    std::vector<bool> known;
    std::vector<std::byte> bytes = fill(taken, known);
    int error = bytes.empty() ? EIO : 0;
    const std::uint64_t data_end = std::min(end, request.end);
    if (error == 0) {
        const std::uint64_t offset = request.position - whole.start;
        std::memcpy(bytes.data() + offset * sector, request.bytes.data() + (request.position - request.start) * sector,
                    (data_end - request.position) * sector);
        std::fill_n(known.begin() + static_cast<std::ptrdiff_t>(offset), data_end - request.position, true);
    }
    if (fail_places_ > 0) {
        --fail_places_;
        error = EIO;
    }
    for (std::uint64_t i = 0; i < taken.extent.length && error == 0; ++i)
        if (known[i])
            error = file_write(whole.destination, whole.physical + i, std::span(bytes).subspan(i * sector, sector));
    if (error != 0) {
        lose(whole);
        finish(request, error);
        return;
    }
    forget(taken.extent.start, end);
    put(taken.extent);
    log_change(DMU_KIND_LINEAR, taken.extent);
    ++counters_.first_writes;
    if (end < whole.end()) lose(whole.cut(end, whole.end()));
    request.position = data_end;
}

void Target::lose(const Extent& extent) {
    log_change(DMU_KIND_LOST, extent);
}

}  // namespace dmu::fake
