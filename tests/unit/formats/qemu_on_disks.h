// SPDX-License-Identifier: GPL-2.0-or-later
// The files of a test's disks, as qemu reads and writes them.
#pragma once

#include "tests/unit/formats/support.h"

namespace dmu {

class QemuOnDisks {
public:
    explicit QemuOnDisks(MemoryDisks& disks) : disks_(disks) {
        for (const auto& [path, store] : disks_.stores) write_file(directory_ / name_of(path), store->bytes);
    }
    Ran run(const std::string& command) const { return run_command("cd '" + directory_.path() + "' && " + command); }
    // What it reads of an image.
    Bytes content(const std::string& format, const std::string& name) const {
        const auto ran = run("qemu-img convert -f " + format + " -O raw '" + name + "' out.raw");
        EXPECT_EQ(ran.status, 0) << ran.output;
        return read_file(directory_ / "out.raw");
    }
    // Writes of whole units by it, into the disks and the model too.
    void write(const std::string& format, const std::string& name, std::uint64_t unit, int count, Bytes& model,
               std::mt19937_64& random) {
        std::string commands;
        const auto units = model.size() / unit;
        for (int i = 0; i < count; i++) {
            const auto first = random() % units, length = std::min<std::uint64_t>(1 + random() % 20, units - first);
            const auto byte = 1 + random() % 255;
            commands += " -c 'write -P " + std::to_string(byte) + " " + std::to_string(first * unit) + " " +
                        std::to_string(length * unit) + "'";
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first * unit), length * unit,
                        static_cast<std::byte>(byte));
        }
        const auto ran = run("qemu-io -f " + format + commands + " '" + name + "'");
        EXPECT_EQ(ran.status, 0) << ran.output;
        for (const auto& [path, store] : disks_.stores) store->bytes = read_file(directory_ / name_of(path));
    }

private:
    static std::string name_of(const std::string& path) { return std::filesystem::path(path).filename().string(); }

    MemoryDisks& disks_;
    TempDir directory_{std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp"};
};

}  // namespace dmu
