// SPDX-License-Identifier: GPL-2.0-or-later
// Several files of one image, recorded together: a sync of one orders nothing in another.
#pragma once

#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {

class JointRecording {
public:
    using Files = std::map<std::string, Bytes>;  // by path

    void add(const std::string& path, const Bytes& start) { files_[path] = std::make_shared<Recording>(start); }

    // What MemoryDisks::wrap is to do; other files stay as they are.
    std::unique_ptr<BlockFile> wrap(std::unique_ptr<BlockFile> file) {
        const auto found = files_.find(file->name());
        if (found == files_.end()) return file;
        auto recorded = std::make_unique<RecordingFile>(std::move(file), found->second);
        return std::make_unique<Counted>(std::move(recorded), found->first, *this);
    }

    std::size_t size() const { return order_.size(); }
    Files replay(std::size_t count) const {
        Files files;
        for (const auto& [path, recording] : files_) files[path] = recording->replay(steps_of(path, count));
        return files;
    }
    Files replay_crashed(std::size_t count, std::mt19937_64& random) const {
        Files files;
        for (const auto& [path, recording] : files_)
            files[path] = recording->replay_crashed(steps_of(path, count), random);
        return files;
    }

private:
    class Counted final : public WrappedFile {
    public:
        Counted(std::unique_ptr<BlockFile> file, const std::string& path, JointRecording& all)
            : WrappedFile(std::move(file)), path_(path), all_(all) {}
        Status write(std::uint64_t offset, std::span<const std::byte> from) override {
            return count(WrappedFile::write(offset, from));
        }
        Status sync() override { return count(WrappedFile::sync()); }
        Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
            return count(WrappedFile::allocate(offset, length));
        }
        Status truncate(std::uint64_t size) override { return count(WrappedFile::truncate(size)); }

    private:
        template <typename T>
        T count(T done) {
            if (done) all_.order_.push_back(path_);
            return done;
        }
        const std::string path_;
        JointRecording& all_;
    };

    std::size_t steps_of(const std::string& path, std::size_t count) const {
        return static_cast<std::size_t>(
            std::count(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), path));
    }

    std::map<std::string, std::shared_ptr<Recording>> files_;
    std::vector<std::string> order_;  // whose step each was
};

}  // namespace dmu
