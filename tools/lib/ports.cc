// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/ports.h"

namespace dmu {

RealPorts::RealPorts() : devices_(open_device_mapper()) {
    if (auto opened = open_xenstore())
        xenstore_ = std::move(*opened);
    else
        xenstore_status_ = opened.error();
    ports_.instances = control::instances;
    ports_.call = control::call;
    ports_.call_ensured = control::call_ensured;
    ports_.mapper_pid = control::mapper_pid;
    ports_.states = control::all_states;
    ports_.devices = devices_.get();
    ports_.xenstore = xenstore_.get();
}

}  // namespace dmu
