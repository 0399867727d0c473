// SPDX-License-Identifier: GPL-2.0-or-later
// Several files of one image, recorded together: a sync of one orders nothing in another. A
// file may come later.
#pragma once

#include "tests/fakes/recording_file.h"
#include "tests/unit/formats/support.h"

namespace dmu {

class JointRecording {
public:
    using Files = std::map<std::string, Bytes>;  // by path

    // Once for each.
    void add(const std::string& path, const Bytes& start) {
        files_.try_emplace(path, Member{std::make_shared<Recording>(start), order_.size()});
    }

    // What MemoryDisks::wrap is to do; other files stay as they are.
    std::unique_ptr<BlockFile> wrap(std::unique_ptr<BlockFile> file) {
        const auto found = files_.find(file->name());
        if (found == files_.end()) return file;
        auto recorded = std::make_unique<RecordingFile>(std::move(file), found->second.recording);
        return std::make_unique<Counted>(std::move(recorded), found->first, *this);
    }

    std::size_t size() const { return order_.size(); }
    Files replay(std::size_t count) const {
        return each(count, [](const Recording& recording, std::size_t steps) { return recording.replay(steps); });
    }
    Files replay_crashed(std::size_t count, std::mt19937_64& random) const {
        return each(count, [&random](const Recording& recording, std::size_t steps) {
            return recording.replay_crashed(steps, random);
        });
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

    // Of the first count steps of all.
    template <typename Replay>
    Files each(std::size_t count, Replay replay) const {
        Files files;
        const auto end = order_.begin() + static_cast<std::ptrdiff_t>(count);
        for (const auto& [path, member] : files_)
            if (member.since <= count)
                files[path] =
                    replay(*member.recording, static_cast<std::size_t>(std::count(order_.begin(), end, path)));
        return files;
    }

    struct Member {
        std::shared_ptr<Recording> recording;
        std::size_t since;  // how many steps there had been
    };
    std::map<std::string, Member> files_;
    std::vector<std::string> order_;  // whose step each was
};

}  // namespace dmu
