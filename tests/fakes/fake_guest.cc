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

void Target::shrink() {
    const std::lock_guard guard(owner_.lock);
    if (!attached_) return;
    const auto kept = [this](const Extent& extent) {
        const auto overlaps = [&](const auto& range) {
            return range.start < extent.end() && extent.start < range.start + range.length;
        };
        return std::any_of(log_.begin(), log_.end(), overlaps) ||
               std::any_of(misses_.begin(), misses_.end(), overlaps) || in_flight(extent.start, extent.end());
    };
    if (std::erase_if(map_, [&](const auto& entry) { return !kept(entry.second); }) != 0) invalidated_ = sequence_;
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
