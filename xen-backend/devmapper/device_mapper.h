// SPDX-License-Identifier: GPL-2.0-or-later
// Device-mapper devices: made, reloaded, listed, removed. The real one stands on
// libdevmapper, which is not thread-safe: ALL calls of a process are to be made on
// one thread, and not on one that serves a target (a suspend waits for I/O that
// only the mapper can end): see DmThread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu {

// One table of one target, from sector 0.
struct DmTable {
    std::uint64_t sectors = 0;  // of 512 bytes, > 0
    std::string target;         // "userspace", "linear", "zero", ...
    std::string parameters;     // what follows the target's name in a table line
    bool read_only = false;
};

// What a table line names as ":BYTES:logon:DESCRIPTION"; never part of the line.
struct DmSecret {
    std::string description;
    std::span<const std::byte> bytes;
};

struct DmInfo {
    std::string name;
    std::string uuid;
    std::string path;  // of the node, "/dev/mapper/NAME"
    unsigned major = 0;
    unsigned minor = 0;
    unsigned open_count = 0;
    bool suspended = false;
    bool read_only = false;
    bool has_table = false;  // an active one
};

// A device is named by its name unless said otherwise. Every call blocks until the kernel
// and, where udevd runs, udev are done (udev for at most 15 s, then without it).
// Code::not_found: no such device. Messages name the device and hold what libdevmapper and
// the kernel's log said.
class DeviceMapper {
public:
    virtual ~DeviceMapper() = default;

    // Creates, loads and resumes; the node exists afterwards. Where a step fails nothing is
    // left behind. Letters, digits and "#+-.:=@_" make a name, up to 127 bytes; a uuid up to 128.
    // LVM and blkid are told to keep off. Code::busy: name or uuid in use.
    virtual Result<DmInfo> create(const std::string& name, const std::string& uuid, const DmTable& table) = 0;
    // The same; while the table is loaded, and not longer, the kernel has the secret.
    virtual Result<DmInfo> create_with_secret(const std::string& name, const std::string& uuid, const DmTable& table,
                                              const DmSecret& secret) = 0;
    // Code::busy: open. retry: tries for about 5 s before it says so.
    virtual Status remove(const std::string& name, bool retry) = 0;
    // Now if it is not open, else by the kernel at its last close.
    virtual Status remove_deferred(const std::string& name) = 0;

    // Loads table as the inactive one; resume() makes it the active one.
    virtual Status reload(const std::string& name, const DmTable& table) = 0;
    // noflush: held I/O stays held (requeued), file systems on it are not frozen.
    virtual Status suspend(const std::string& name, bool noflush) = 0;
    virtual Status resume(const std::string& name) = 0;
    // To the target at sector 0.
    virtual Status message(const std::string& name, const std::string& text) = 0;

    virtual Result<DmInfo> info(const std::string& name) = 0;
    virtual Result<DmInfo> info_by_uuid(const std::string& uuid) = 0;
    // Devices whose uuid begins so.
    virtual Result<std::vector<DmInfo>> list(const std::string& uuid_prefix = "DMU-") = 0;
    // The parameters of the first target's status line.
    virtual Result<std::string> status(const std::string& name) = 0;
};

// Needs no privilege; the calls do. Code::not_found of a call: device-mapper (dm_mod) is not in the kernel.
std::unique_ptr<DeviceMapper> open_device_mapper();

// ok(), or Code::invalid with the reason.
Status check_dm_name(const std::string& name);

}  // namespace dmu
