// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fakes/recording_file.h"

#include <algorithm>

namespace dmu {

namespace {

void put(std::vector<std::byte>& file, std::uint64_t offset, std::span<const std::byte> data) {
    if (file.size() < offset + data.size()) file.resize(offset + data.size());
    std::copy(data.begin(), data.end(), file.begin() + static_cast<std::ptrdiff_t>(offset));
}

}  // namespace

void Recording::perform(const Step& step, std::vector<std::byte>& file) {
    switch (step.kind) {
        case Kind::write:
            return put(file, step.offset, step.data);
        case Kind::allocate:
            return file.resize(std::max<std::uint64_t>(file.size(), step.offset + step.length));
        case Kind::truncate:
            return file.resize(step.offset);
        case Kind::sync:
            return;
    }
}

void Recording::perform_in_part(const Step& step, std::vector<std::byte>& file, std::mt19937_64& random) {
    if (step.kind != Kind::write) {
        if (random() & 1) perform(step, file);
        return;
    }
    // Sectors are written whole or not at all; now and then none or all of a write.
    const auto fate = random() % 4;
    for (std::size_t at = 0; at < step.data.size();) {
        const auto sector_end = (step.offset + at) / 512 * 512 + 512;
        const auto bytes = std::min<std::size_t>(step.data.size() - at, sector_end - (step.offset + at));
        const bool there = fate == 0 ? false : fate == 1 ? true : (random() & 1) != 0;
        if (there) put(file, step.offset + at, std::span(step.data).subspan(at, bytes));
        at += bytes;
    }
}

std::vector<std::byte> Recording::replay(std::size_t count) const {
    auto file = start_;
    for (std::size_t i = 0; i < count; i++) perform(steps_[i], file);
    return file;
}

std::vector<std::byte> Recording::replay_crashed(std::size_t count, std::mt19937_64& random) const {
    std::size_t synced = 0;
    for (std::size_t i = 0; i < count; i++)
        if (steps_[i].kind == Kind::sync) synced = i + 1;
    auto file = replay(synced);
    for (std::size_t i = synced; i < count; i++) perform_in_part(steps_[i], file, random);
    return file;
}

Status RecordingFile::write(std::uint64_t offset, std::span<const std::byte> from) {
    auto done = WrappedFile::write(offset, from);
    if (done) recording_->steps_.push_back({Recording::Kind::write, offset, 0, {from.begin(), from.end()}});
    return done;
}

Status RecordingFile::sync() {
    auto done = WrappedFile::sync();
    if (done) recording_->steps_.push_back({Recording::Kind::sync, 0, 0, {}});
    return done;
}

Result<bool> RecordingFile::allocate(std::uint64_t offset, std::uint64_t length) {
    auto done = WrappedFile::allocate(offset, length);
    if (done) recording_->steps_.push_back({Recording::Kind::allocate, offset, length, {}});
    return done;
}

Status RecordingFile::truncate(std::uint64_t size) {
    auto done = WrappedFile::truncate(size);
    if (done) recording_->steps_.push_back({Recording::Kind::truncate, size, 0, {}});
    return done;
}

}  // namespace dmu
