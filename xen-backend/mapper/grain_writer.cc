// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/grain_writer.h"

#include <algorithm>

namespace dmu {
namespace {

constexpr std::uint64_t piece_bytes = 1 << 20;

dmu_command invalidate(std::uint64_t start, std::uint64_t length) {
    dmu_command command{};
    command.type = DMU_CMD_INVALIDATE;
    command.start = start;
    command.length = length;
    command.destination = DMU_NO_DESTINATION;
    return command;
}

}  // namespace

Status GrainWriter::write(const dmu_event& miss, const Place& place) {
    for (std::uint64_t done = 0; done < place.length; done += buffer_.size()) {
        const std::uint64_t at = place.start.bytes + done;
        buffer_.assign(std::min(piece_bytes, place.length - done), std::byte{});
        // The disk's end may cut the last grain; the rest of it is zeros.
        const std::uint64_t there = at < facts_.virtual_size ? facts_.virtual_size - at : 0;
        const auto inside = std::span(buffer_).first(std::min<std::uint64_t>(buffer_.size(), there));
        if (Status read = chain_.read({at}, inside); !read) return read;
        if (Status put = chain_.write_data(place.file, {place.host.bytes + done}, {at}, buffer_); !put) return put;
    }
    Change change;
    change.kind = ChangeKind::data;
    change.start = place.start;
    change.length = place.length;
    change.file = place.file;
    change.host = place.host;
    if (Status applied = chain_.top().apply(change); !applied) return applied;
    written_.push_back({miss.id, place});
    return ok();
}

void GrainWriter::finish(const Status& committed, std::uint64_t sequence) {
    for (const Written& one : written_) {
        if (committed)
            map(one, sequence);
        else
            out_.fail(one.id, committed.error().to_errno());
    }
    written_.clear();
}

// The base first: what the disk's map sends there must find its place.
void GrainWriter::map(const Written& one, std::uint64_t sequence) {
    const GuestRange range{one.place.start, one.place.length};
    for (const auto& stack : stacks_) {
        if (stack->layer() == 0 && stack->file() == one.place.file) stack->remap(range, one.place.host);
    }
    dmu_command command = invalidate(range.start.bytes / sector_size, 0);
    command.length = std::min<std::uint64_t>(range.length / sector_size, facts_.sectors - command.start);
    out_.add(command);
    command.type = DMU_CMD_MAP;
    command.id = one.id;
    command.sequence = sequence;
    command.kind = DMU_KIND_LINEAR;
    command.flags = DMU_MAP_WRITABLE;
    command.destination = destination_number(0, one.place.file);
    command.physical = command.start;
    out_.add(command);
}

void GrainWriter::forget(GuestRange range) {
    for (const auto& stack : stacks_) {
        if (stack->layer() == 0) stack->forget(range);
    }
    out_.add(invalidate(range.start.bytes / sector_size, range.length / sector_size));
}

}  // namespace dmu
