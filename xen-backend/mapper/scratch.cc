// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/scratch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>

namespace dmu {
namespace {

constexpr std::uint64_t smallest_slot = 64 << 10;
constexpr std::uint64_t largest_slot = 2 << 20;  // qcow2's largest cluster
constexpr std::size_t fewest_slots = 16;
constexpr const char* scratch_name = "scratch file of decompressed clusters";

std::uint64_t choose_slot(const Chain& chain) {
    std::uint64_t bytes = smallest_slot;
    for (unsigned layer = 0; layer < chain.depth(); ++layer) {
        const ImageInfo& info = chain.layer(layer).info();
        while (bytes < std::max(info.cluster_size, info.grain) && bytes < largest_slot) bytes *= 2;
    }
    return bytes;
}

// Another mapper's answers, still on their way to its successor, must not be taken for ours.
std::uint64_t fresh_base() {
    return static_cast<std::uint64_t>(std::random_device{}() | 1) << 32;
}

}  // namespace

Scratch::Scratch(Chain& chain, const DiskFacts& facts, Channel& channel, Outbox& out, std::uint64_t bytes)
    : chain_(chain),
      facts_(facts),
      channel_(channel),
      out_(out),
      slot_bytes_(choose_slot(chain)),
      slots_(std::max<std::size_t>(bytes / slot_bytes_, fewest_slots)),
      id_base_(fresh_base()) {
}

void Scratch::use_file(std::uint64_t bytes) {
    slots_ = bytes / slot_bytes_;
    for (std::size_t slot = slots_; slot-- > 0;) free_.push_back(slot);
}

Status Scratch::make_file() {
    const int descriptor = memfd_create("dmu-scratch", MFD_CLOEXEC);
    if (descriptor < 0) return system_error("making the " + std::string(scratch_name));
    auto file = adopt_file(descriptor, scratch_name, {.writable = true, .direct = false});
    if (!file) return file.error();
    if (Status sized = (*file)->truncate(slots_ * slot_bytes_); !sized) return sized;
    auto added = channel_.add_destination(destination_number(scratch_layer, scratch_file), (*file)->descriptor(),
                                          DMU_DEST_READ_ONLY | DMU_DEST_BUFFERED,
                                          destination_cookie(scratch_layer, scratch_file));
    if (!added) return added.error().in("handing the " + std::string(scratch_name) + " to the kernel");
    use_file(slots_ * slot_bytes_);
    file_ = std::move(*file);
    return ok();
}

Status Scratch::take_over() {
    const unsigned number = destination_number(scratch_layer, scratch_file);
    if (auto known = channel_.get_destination(number); !known)
        return known.error().code == Code::not_found ? ok() : known.error();
    auto descriptor = channel_.destination_descriptor(number);
    if (!descriptor) return descriptor.error();
    auto file = adopt_file(*descriptor, scratch_name, {.writable = true, .direct = false});
    if (!file) return file.error();
    const auto bytes = (*file)->size();
    if (!bytes) return bytes.error();
    file_ = std::move(*file);
    slots_ = *bytes / slot_bytes_;
    if (slots_ == 0) return Error{Code::corrupt, "the " + std::string(scratch_name) + " is too small"};
    resetting_ = true;
    dmu_command forget{};
    forget.type = DMU_CMD_INVALIDATE;
    forget.id = id_base_ + slots_;
    forget.length = facts_.sectors;
    forget.destination = DMU_NO_DESTINATION;
    out_.add(forget);
    return ok();
}

bool Scratch::is_freed(std::uint64_t id) {
    if (id < id_base_ || id > id_base_ + slots_) return false;
    const std::size_t slot = id - id_base_;
    if (slot == slots_) {
        if (!resetting_) return false;
        resetting_ = false;
        use_file(slots_ * slot_bytes_);
        return true;
    }
    --evicting_;
    free_.push_back(slot);
    return true;
}

void Scratch::evict() {
    const std::size_t low = slots_ / 8;
    if (free_.size() + evicting_ >= low) return;
    for (std::size_t count = low; count != 0 && !oldest_.empty(); --count) {
        const std::uint64_t window = oldest_.front();
        oldest_.pop_front();
        const auto found = windows_.find(window);
        dmu_command forget{};
        forget.type = DMU_CMD_INVALIDATE;
        forget.id = id_base_ + found->second;
        forget.start = window * slot_bytes_ / sector_size;
        forget.length = std::min<std::uint64_t>(slot_bytes_ / sector_size, facts_.sectors - forget.start);
        forget.destination = DMU_NO_DESTINATION;
        out_.add(forget);
        windows_.erase(found);
        ++evicting_;
    }
}

std::size_t Scratch::slot_of(std::uint64_t window) {
    if (const auto found = windows_.find(window); found != windows_.end()) return found->second;
    if (free_.empty()) return slots_;
    const std::size_t slot = free_.back();
    free_.pop_back();
    windows_[window] = slot;
    oldest_.push_back(window);
    return slot;
}

Status Scratch::add_window(const Mapping& mapping, std::uint64_t at, std::uint64_t end, std::size_t slot,
                           Ready& ready) {
    Mapping part = mapping;
    part.start = {at};
    part.host = {mapping.host.bytes + (at - mapping.start.bytes)};
    part.length = end - at;
    buffer_.resize(part.length);
    if (Status read = chain_.read_mapping(part, buffer_); !read) return read;
    part.kind = MappingKind::cow;
    part.layer = scratch_layer;
    part.file = scratch_file;
    part.host = {slot * slot_bytes_ + at % slot_bytes_};
    if (Status written = file_->write(part.host.bytes, buffer_); !written) return written;
    ready.mappings.push_back(part);
    return ok();
}

// By the kernel, where it lies.
bool Scratch::is_readable(const Mapping& mapping) const {
    if (mapping.kind == MappingKind::opaque) return false;
    if (mapping.kind == MappingKind::zero || mapping.layer == 0) return true;
    const Cipher* cipher = chain_.layer(mapping.layer).cipher();
    return cipher == nullptr || cipher->by() == CipherBy::host_offset;
}

Result<Scratch::Ready> Scratch::resolve(const std::vector<Mapping>& found, GuestRange range) {
    Ready ready{{}, range.end()};
    for (const Mapping& mapping : found) {
        if (is_readable(mapping)) {
            ready.mappings.push_back(mapping);
            continue;
        }
        if (mapping.start.bytes >= range.end()) continue;  // decompressed when it is asked for
        if (!file_) {
            if (Status made = make_file(); !made) return made.error();
        }
        const std::uint64_t mapping_end = mapping.start.bytes + mapping.length;
        for (std::uint64_t at = mapping.start.bytes; at < std::min(mapping_end, range.end());) {
            const std::uint64_t window = at / slot_bytes_;
            const std::uint64_t end = std::min((window + 1) * slot_bytes_, mapping_end);
            const std::size_t slot = slot_of(window);
            if (slot == slots_) {
                evict();
                ready.end = at;
                return ready;
            }
            if (Status added = add_window(mapping, at, end, slot, ready); !added) return added.error();
            at = end;
        }
    }
    evict();
    return ready;
}

}  // namespace dmu
