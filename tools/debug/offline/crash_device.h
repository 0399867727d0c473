// SPDX-License-Identifier: GPL-2.0-or-later
// What a crash left, as a device that can be written: reads come from the base and from
// the log's data, writes go to a scratch file, and neither base nor log is touched.
#pragma once

#include <memory>

#include "tools/debug/offline/image_file.h"
#include "xen-backend/devmapper/device_mapper.h"

namespace dmu::debug {

class CrashDevice {
public:
    // /dev/mapper/NAME, served by a thread of its own until the object goes. scratch: a
    // file that is made there and removed at once. log and base outlive it.
    static Result<std::unique_ptr<CrashDevice>> make(DeviceMapper& devices, const std::string& name,
                                                     const LogReader& log, Contents contents, const std::string& base,
                                                     const std::string& scratch);
    virtual ~CrashDevice() = default;
    virtual const std::string& path() const = 0;
    // Code::busy: it is open (mounted); it is served further.
    virtual Status remove() = 0;
};

}  // namespace dmu::debug
