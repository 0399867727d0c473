// SPDX-License-Identifier: GPL-2.0-or-later
// One task of libdevmapper, with its complaints gathered and udev waited for.
#pragma once

#include <libdevmapper.h>

#include <functional>
#include <string>

#include "formats/core/result.h"

namespace dmu {

struct DmRequest {
    int type = 0;           // DM_DEVICE_*
    std::string what = {};  // for the message: "cannot remove device-mapper device 'x'"
    std::string name = {};  // of the device; empty: none
    std::string uuid = {};  // instead of the name; in CREATE beside it
    bool cookie = false;
    // False: refused by the library.
    std::function<bool(dm_task*)> prepare = {};
    // Takes the answer out of a task that went well.
    std::function<void(dm_task*)> take = {};
};

// Once per process, before the first task: logging to us, udev only where there is one.
void prepare_library();
Status run_task(const DmRequest& request);

}  // namespace dmu
