// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests do to a target of the model: tables, requests, faults.
#include <algorithm>

#include "tests/fakes/fake_target.h"

namespace dmu::fake {

namespace {
constexpr std::uint64_t sector = DMU_SECTOR_SIZE;
}

bool Request::done() const {
    const std::lock_guard guard(state->lock);
    return finished;
}

bool Request::wait(std::chrono::milliseconds limit) const {
    std::unique_lock guard(state->lock);
    return state->finished.wait_for(guard, limit, [this] { return finished; });
}

int Request::error() const {
    const std::lock_guard guard(state->lock);
    return result;
}

void Target::load_table(const FakeTable& table) {
    const std::lock_guard guard(owner_.lock);
    table_ = table;
    if (attached_) {
        dmu_event event{};
        event.type = DMU_EV_RESIZED;
        event.length = table.sectors;
        push(event);
    }
    advance();
}

void Target::remove_table() {
    const std::lock_guard guard(owner_.lock);
    for (const RequestPtr& request : requests_) finish(*request, EIO);
    requests_.clear();
    misses_.clear();
    table_ = FakeTable{};
    if (!exists()) reset();
}

FakeRequestPtr Target::read(std::uint64_t start, std::uint64_t length) {
    const std::lock_guard guard(owner_.lock);
    return submit(DMU_OP_READ, start, length, std::vector<std::byte>(length * sector));
}

FakeRequestPtr Target::write(std::uint64_t start, std::span<const std::byte> data, std::uint32_t flags) {
    const std::lock_guard guard(owner_.lock);
    return submit(DMU_OP_WRITE, start, data.size() / sector, {data.begin(), data.end()}, flags);
}

FakeRequestPtr Target::discard(std::uint64_t start, std::uint64_t length) {
    const std::lock_guard guard(owner_.lock);
    return submit(DMU_OP_DISCARD, start, length, {});
}

FakeRequestPtr Target::write_zeroes(std::uint64_t start, std::uint64_t length) {
    const std::lock_guard guard(owner_.lock);
    return submit(DMU_OP_ZERO, start, length, std::vector<std::byte>(length * sector));
}

FakeRequestPtr Target::flush() {
    const std::lock_guard guard(owner_.lock);
    auto request = std::make_shared<Request>();
    request->state = &owner_;
    request->keep = owner_.self.lock();
    request->kind = Request::Kind::flush;
    ++counters_.flushes;
    file_sync();
    if (!log_.empty()) {
        request->flush_sequence = sequence_;
        request->flush_id = next_id_++;
        push_flush(request->flush_id, sequence_);
    } else if (table_.ask_flush) {
        request->asked = true;
        request->flush_sequence = sequence_;
        request->flush_id = next_id_++;
        push_flush(request->flush_id, sequence_, DMU_FLUSH_ASKED);
    }
    requests_.push_back(request);
    advance();
    return request;
}

void Target::hold_places(bool hold) {
    const std::lock_guard guard(owner_.lock);
    hold_places_ = hold;
    advance();
}

void Target::fail_places(unsigned count) {
    const std::lock_guard guard(owner_.lock);
    fail_places_ = count;
}

void Target::fail_destination(unsigned number, int error) {
    const std::lock_guard guard(owner_.lock);
    failing_[number] = error;
}

void Target::shrink(std::uint64_t start, std::uint64_t length) {
    const std::lock_guard guard(owner_.lock);
    if (!attached_ || fail_ || !table_.map_memory) return;
    const std::uint64_t end = std::min(length, table_.sectors - start) + start;
    std::map<std::uint64_t, std::uint64_t> kept;
    const auto keep = [&](const auto& range) {
        std::uint64_t& kept_end = kept[grain_start(range.start)];
        kept_end = std::max(kept_end, grain_end(range.start + range.length - 1));
    };
    for (const dmu_event& change : log_) keep(change);
    for (const Miss& miss : misses_) keep(miss);
    for (const Place& place : places_) keep(place.extent);
    const std::size_t before = map_.size();
    std::uint64_t at = start == grain_start(start) ? start : grain_end(start);
    const auto forget_to = [&](std::uint64_t stop) {
        if (at < stop) forget(at, stop);
    };
    for (const auto& [kept_start, kept_end] : kept) {
        forget_to(std::min(kept_start, end));
        at = std::max(at, kept_end);
    }
    forget_to(end == table_.sectors ? end : grain_start(end));
    if (map_.size() < before) counters_.forgotten += before - map_.size();
    invalidated_ = std::max(invalidated_, committed_);
}

bool Target::attached() const {
    const std::lock_guard guard(owner_.lock);
    return attached_;
}

std::vector<dmu_event> Target::log() const {
    const std::lock_guard guard(owner_.lock);
    return {log_.begin(), log_.end()};
}

std::vector<std::string> Target::refusals() const {
    const std::lock_guard guard(owner_.lock);
    return refusals_;
}

}  // namespace dmu::fake
