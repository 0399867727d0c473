// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/stand_in.h"

#include <algorithm>
#include <utility>

namespace dmu {

namespace {

constexpr std::uint64_t piece_bytes = 1 << 20;

std::uint64_t end_of(const Mapping& mapping) {
    return mapping.start.bytes + mapping.length;
}

// The part of a mapping in [start, end).
Mapping part_of(const Mapping& mapping, std::uint64_t start, std::uint64_t end) {
    Mapping part = mapping;
    start = std::max(start, mapping.start.bytes);
    end = std::min(end, end_of(mapping));
    part.start = {start};
    part.length = end - start;
    part.host.bytes += start - mapping.start.bytes;
    return part;
}

}  // namespace

// ------------------------------------------------------------- the map ---

void StandIn::insert_unknown(const Mapping& mapping) {
    auto at = mapping.start.bytes;
    const auto end = end_of(mapping);
    while (at < end) {
        auto next = map_.upper_bound(at);
        if (next != map_.begin()) {
            const auto& before = std::prev(next)->second;
            if (end_of(before) > at) {
                at = end_of(before);
                continue;
            }
        }
        const auto hole_end = next == map_.end() ? end : std::min(end, next->first);
        map_[at] = part_of(mapping, at, hole_end);
        at = hole_end;
    }
}

// Replaces, as only a completed first write does.
void StandIn::publish(const Mapping& mapping) {
    const auto start = mapping.start.bytes, end = end_of(mapping);
    auto it = map_.upper_bound(start);
    if (it != map_.begin()) --it;
    while (it != map_.end() && it->first < end) {
        const auto old = it->second;
        if (end_of(old) <= start) {
            ++it;
            continue;
        }
        it = map_.erase(it);
        if (old.start.bytes < start) map_[old.start.bytes] = part_of(old, old.start.bytes, start);
        if (end_of(old) > end) map_[end] = part_of(old, end, end_of(old));
    }
    map_[start] = mapping;
}

Status StandIn::learn(GuestRange range) {
    const auto mappings = chain_.look_up(range);
    if (!mappings) return mappings.error();
    for (const auto& mapping : *mappings) insert_unknown(mapping);
    return ok();
}

// What the map holds at a byte, cut to [at, end); asks where it holds nothing.
Result<Mapping> StandIn::find(std::uint64_t at, std::uint64_t end) {
    for (bool asked = false;; asked = true) {
        const auto next = map_.upper_bound(at);
        if (next != map_.begin() && end_of(std::prev(next)->second) > at)
            return part_of(std::prev(next)->second, at, end);
        if (asked) return Error{Code::corrupt, "a look-up did not answer for guest byte " + std::to_string(at)};
        auto learnt = learn({{at}, end - at});
        if (!learnt) return learnt.error();
    }
}

// ------------------------------------------------------ reads and writes ---

Status StandIn::read(GuestOffset start, std::span<std::byte> into) {
    if (start.bytes > size() || into.size() > size() - start.bytes)
        return Error{Code::invalid, "read past the end of the disk"};
    auto at = start.bytes;
    while (!into.empty()) {
        const auto mapping = find(at, at + into.size());
        if (!mapping) return mapping.error();
        auto done = chain_.read_mapping(*mapping, into.first(mapping->length));
        if (!done) return done;
        into = into.subspan(mapping->length);
        at += mapping->length;
    }
    return ok();
}

Status StandIn::write(GuestOffset start, std::span<const std::byte> from) {
    if (start.bytes > size() || from.size() > size() - start.bytes)
        return Error{Code::invalid, "write past the end of the disk"};
    if (from.empty()) return ok();
    const auto first = align_down(start.bytes, sector_size);
    const auto end = start.bytes + from.size();
    if (first == start.bytes && end % sector_size == 0) return write_sectors(start.bytes, from);
    std::vector<std::byte> whole(align_up(end, sector_size) - first);
    auto done = read({first}, whole);
    if (!done) return done;
    std::copy(from.begin(), from.end(), whole.begin() + static_cast<std::ptrdiff_t>(start.bytes - first));
    return write_sectors(first, whole);
}

Status StandIn::begin_writing() {
    if (!chain_.writable()) return Error{Code::denied, "the disk is open for reading only"};
    if (!chain_.top().write_protected()) return ok();
    auto done = chain_.top().begin_writing();
    if (done) map_.clear();
    return done;
}

Status StandIn::write_sectors(std::uint64_t at, std::span<const std::byte> from) {
    auto begun = begin_writing();
    if (!begun) return begun;
    while (!from.empty()) {
        const auto mapping = find(at, at + from.size());
        if (!mapping) return mapping.error();
        std::uint64_t written = mapping->length;
        if (mapping->kind == MappingKind::linear) {
            if (!mapping->writable) return Error{Code::denied, "the disk is open for reading only"};
            auto done = chain_.write_data(mapping->file, mapping->host, {at}, from.first(written));
            if (!done) return done;
        } else {
            // All that follows and needs a place too, so that it gets one piece.
            while (written < from.size()) {
                const auto next = find(at + written, at + from.size());
                if (!next) return next.error();
                if (next->kind == MappingKind::linear || next->leasable != mapping->leasable) break;
                written += next->length;
            }
            const auto taken = first_write(at, from.first(written), mapping->leasable);
            if (!taken) return taken.error();
            written = *taken;
        }
        from = from.subspan(written);
        at += written;
    }
    return ok();
}

// From the lease, of which there is a new one when it is used up, else by asking.
Result<Place> StandIn::find_place(GuestRange range, bool leasable) {
    auto& image = chain_.top();
    if (!leasable || lease_bytes_ == 0) return image.reserve(range);
    if (!lease_) {
        const auto lease = image.reserve_any(lease_bytes_);
        if (!lease) return image.reserve(range);
        lease_ = *lease;
    }
    const std::uint64_t grain = image.info().grain;
    auto place = *lease_;
    place.start = {align_down(range.start.bytes, grain)};
    place.length = std::min(lease_->length, align_up(range.end(), grain) - place.start.bytes);
    lease_->host.bytes += place.length;
    lease_->length -= place.length;
    if (lease_->length == 0) lease_.reset();
    return place;
}

Status StandIn::give_back() {
    if (!lease_) return ok();
    return chain_.top().give_back(*std::exchange(lease_, std::nullopt));
}

Result<std::uint64_t> StandIn::first_write(std::uint64_t at, std::span<const std::byte> from, bool leasable) {
    auto& image = chain_.top();
    const auto place = find_place({{at}, from.size()}, leasable);
    if (!place) return place.error();
    const auto place_end = std::min(place->start.bytes + place->length, size());
    const auto bytes = std::min<std::uint64_t>(from.size(), place_end - at);

    Change change{ChangeKind::data, place->start, place->length, place->file, place->host};
    auto done = fill_place(*place, at, from.first(bytes));
    if (!done) {
        change.kind = ChangeKind::lost;
        auto lost = image.apply(change);
        return lost ? done.error() : lost.error();
    }
    log_.push_back(change);
    done = image.apply(change);
    if (!done) return done.error();
    publish({place->start, place_end - place->start.bytes, MappingKind::linear, 0, place->file, place->host, true});
    return bytes;
}

Status StandIn::fill_place(const Place& place, std::uint64_t at, std::span<const std::byte> from) {
    const auto end = at + from.size();
    const auto place_end = place.start.bytes + place.length;
    auto done = fill(place, place.start.bytes, at);
    if (done) done = fill(place, end, std::min(place_end, size()));
    // The last grain may reach past the end of the disk; nothing of another's stays there.
    if (done && place_end > size()) done = write_zeros(place, size(), place_end);
    const auto host = place.host.bytes + (at - place.start.bytes);
    if (done) done = chain_.write_data(place.file, {host}, {at}, from);
    return done;
}

// What the request does not cover of its grains, from what the map holds there.
Status StandIn::fill(const Place& place, std::uint64_t start, std::uint64_t end) {
    std::vector<std::byte> buffer;
    while (start < end) {
        const auto mapping = find(start, std::min(end, start + piece_bytes));
        if (!mapping) return mapping.error();
        const auto host = place.host.bytes + (start - place.start.bytes);
        if (mapping->kind == MappingKind::zero) {
            auto done = write_zeros(place, start, start + mapping->length);
            if (!done) return done;
        } else {
            buffer.resize(mapping->length);
            auto done = chain_.read_mapping(*mapping, buffer);
            if (done) done = chain_.write_data(place.file, {host}, {start}, buffer);
            if (!done) return done;
        }
        start += mapping->length;
    }
    return ok();
}

// Fresh space reads as zeros only where it is not deciphered.
Status StandIn::write_zeros(const Place& place, std::uint64_t start, std::uint64_t end) {
    if (place.reads_as_zero && chain_.top().cipher() == nullptr) return ok();
    const std::vector<std::byte> zeros(std::min(end - start, piece_bytes));
    while (start < end) {
        const auto bytes = std::min<std::uint64_t>(end - start, zeros.size());
        const auto host = place.host.bytes + (start - place.start.bytes);
        auto done = chain_.write_data(place.file, {host}, {start}, std::span(zeros).first(bytes));
        if (!done) return done;
        start += bytes;
    }
    return ok();
}

// ------------------------------------------------- flush, discard, adopt ---

Status StandIn::flush() {
    for (auto* file : chain_.top().files()) {
        if (file == nullptr || file->read_only()) continue;
        auto done = file->sync();
        if (!done) return done;
    }
    auto done = chain_.top().commit(DataState::durable);
    if (!done) return done;
    log_.clear();
    chain_.top().recycle();
    return ok();
}

Status StandIn::discard(GuestRange range) {
    const auto& info = chain_.top().info();
    if (range.start.bytes > size() || range.length > size() - range.start.bytes)
        return Error{Code::invalid, "discard past the end of the disk"};
    if (!info.discards_to_zero) return ok();
    const auto start = align_up(range.start.bytes, info.grain);
    const auto end = range.end() == size() ? size() : align_down(range.end(), info.grain);
    if (start >= end) return ok();
    auto begun = begin_writing();
    if (!begun) return begun;
    const Change change{ChangeKind::zero, {start}, end - start, 0, {}};
    log_.push_back(change);
    auto done = chain_.top().apply(change);
    if (done) publish({{start}, end - start, MappingKind::zero, 0, 0, {}, false});
    return done;
}

Status StandIn::adopt(const std::vector<Change>& log, const std::optional<Place>& lease) {
    chain_.top().take_over();
    auto begun = log.empty() ? ok() : begin_writing();
    if (!begun) return begun;
    for (const auto& change : log) {
        auto done = chain_.top().apply(change);
        if (!done) return done;
        log_.push_back(change);
    }
    return lease ? chain_.top().give_back(*lease) : ok();
}

}  // namespace dmu
