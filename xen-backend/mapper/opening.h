// SPDX-License-Identifier: GPL-2.0-or-later
// From a specification to an open, locked image with an attached channel: afresh
// (opening.cc), or as the successor of a mapper that died (handover.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/core/chain.h"
#include "formats/core/spec.h"
#include "xen-backend/control/config.h"
#include "xen-backend/control/state_file.h"
#include "xen-backend/devmapper/device_mapper.h"
#include "xen-backend/libdmu/channel.h"

namespace dmu {

// The way to the kernel: dmu::hello and dmu::attach, or a test's.
struct KernelAccess {
    std::function<Result<dmu_hello>()> hello;
    std::function<Result<std::unique_ptr<Channel>>(const std::string& key, bool create)> attach;
    // Optional, for tests: puts faults between the top image and its file.
    std::function<std::unique_ptr<BlockFile>(std::unique_ptr<BlockFile>)> wrap = nullptr;
    // Does the work on the thread for libdevmapper, and waits for it. Any other thread that
    // serves no device.
    std::function<void(const std::function<void(DeviceMapper&)>&)> with_devices = nullptr;
    // Optional, for tests: opens a device's node.
    std::function<Result<int>(const std::string& path, bool writable)> open_device = nullptr;
};

// A destination's number and cookie tell layer and file, also to a successor.
inline constexpr unsigned files_per_layer = 16;
constexpr unsigned destination_number(unsigned layer, unsigned file) {
    return layer * files_per_layer + file;
}
constexpr unsigned destination_file(unsigned number) {
    return number % files_per_layer;
}
constexpr std::uint64_t destination_cookie(unsigned layer, unsigned file) {
    return static_cast<std::uint64_t>(layer) << 8 | file;
}

struct DiskFacts;

struct DiskSetup {
    std::string instance;
    std::string name;  // of the dm device
    ImageSpec spec;
    bool writable = false;
    Config config;
    // A successor's: what its predecessor wrote down.
    bool successor = false;
    std::string key;
    std::vector<control::DiskState::File> files;
    // Optional. Before devices are made beside the disk's own: writes down which, so that a
    // successor can take them away.
    std::function<Status(const DiskFacts&)> record = nullptr;
};

// How the guest's data is encrypted, see crypt_stack.h.
enum class Encryption { none, luks, aes };
// "luks"; empty: none.
const char* encryption_name(Encryption encryption);

// Key, number of options, options: as the target takes them.
std::string table_words(const std::string& key, const std::vector<std::string>& words);

// What is known once a disk is open; constant from then on, but for files that come.
struct DiskFacts {
    std::string key;
    std::string format;
    std::uint64_t virtual_size = 0;  // bytes
    std::uint64_t sectors = 0;       // of the dm device
    std::uint32_t grain = 0;         // sectors
    std::uint32_t discard = 0;       // sectors; 0: no discards
    std::uint32_t logical = 512;     // bytes
    bool read_only = false;
    // KiB that the kernel's map may have, 0: any; nothing: the module forgets nothing.
    std::optional<std::uint32_t> map_memory;
    Encryption encryption = Encryption::none;  // of the top image
    std::vector<control::DiskState::File> files;

    // What follows "userspace" in the table line.
    std::string table_parameters() const;
};

class CryptStack;

struct OpenDisk {
    OpenDisk();
    OpenDisk(OpenDisk&&) noexcept;
    OpenDisk& operator=(OpenDisk&&) noexcept;
    ~OpenDisk();

    std::unique_ptr<Chain> chain;
    std::vector<std::unique_ptr<CryptStack>> crypt;  // of the encrypted files
    std::unique_ptr<Channel> channel;
    DiskFacts facts;
    std::uint64_t features = 0;  // of the module

    // A file of the top image that it made, or had made, becomes a destination, if it is not
    // one yet.
    Status know_file(unsigned file);

    // The disk's own device is gone: removes those of the encryption, then lets go of the
    // image: others may lock it from now on, also while the kernel still has it open.
    Status release(const KernelAccess& kernel);
    // Leaves all of it to a successor.
    void drop();
};

// Blocks for as long as the files take. On an error nothing is held any more.
Result<OpenDisk> open_fresh(const DiskSetup& setup, const KernelAccess& kernel);
// Code::not_found: the kernel knows no such key any more. The channel's hand-over is
// still to be read (Disk does).
Result<OpenDisk> open_successor(const DiskSetup& setup, const KernelAccess& kernel);

// Of both, inside.
DiskFacts make_facts(const DiskSetup& setup, Chain& chain, std::uint64_t features);

}  // namespace dmu
