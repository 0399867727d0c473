// SPDX-License-Identifier: GPL-2.0-or-later
// What /run/xen-dmu/disks/<key>.json holds: all that a successor of a killed mapper
// needs to carry on, and what a listing needs to find devices whose mapper is gone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::control {

struct DiskState {
    struct File {
        unsigned layer = 0;
        unsigned file = 0;
        std::string path;
        unsigned destination = 0;  // number in the kernel
        bool buffered = false;
        bool encrypted = false;  // the kernel reaches it by the devices of crypt_devices.h
    };

    std::string instance;
    std::string name;  // of the dm device
    std::string uuid;  // of the dm device: "DMU-<key>"
    std::string key;
    std::string spec;       // "qcow:/vm/disk.qcow"
    bool writable = false;  // "mode": "w" or "r"
    bool complete = false;  // the dm device was made; false: the mapper died while making it
    unsigned major = 0;     // of the dm device, once complete
    unsigned minor = 0;
    std::string on_full;             // "wait" or "error"
    std::uint32_t wait_seconds = 0;  // 0xffffffff: forever
    unsigned commit_seconds = 1;
    std::vector<std::string> users;  // "backend/vbd/5/51712", "name-..."
    std::vector<File> files;
};

// disks/ below the run directory.
std::string disks_directory();
std::string state_path(const std::string& key);

// Atomic: a reader or a successor sees the old file or the new one. Makes the
// directories (0700) where they are missing.
Status write_state(const DiskState& state);
// Missing is no error.
Status remove_state(const std::string& key);
Result<DiskState> read_state(const std::string& path);
// Every readable state, sorted by name; unreadable ones are named in problems.
std::vector<DiskState> all_states(std::vector<std::string>* problems = nullptr);

}  // namespace dmu::control
