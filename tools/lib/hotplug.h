// SPDX-License-Identifier: GPL-2.0-or-later
// What block-dmu does: between the toolstack's words in xenstore and a mapper.
#pragma once

#include <string>

#include "formats/core/result.h"
#include "tools/lib/ports.h"

namespace dmu {

// Both block, together well below the toolstack's 40 s. backend is XENBUS_PATH.

// Makes the device and writes physical-device-path, physical-device (last and once:
// blkback opens it at once) and hotplug-status=connected. Called again for the same
// backend it changes nothing. Where it fails nothing is left behind.
Status hotplug_add(const Ports& ports, const std::string& backend);

// Fails on nothing that is missing: not the mapper, the device, nor the backend's nodes.
Status hotplug_remove(const Ports& ports, const std::string& backend);

// hotplug-error and hotplug-status=error: what xl prints as the cause.
Status report_hotplug_error(XenstoreView& xenstore, const std::string& backend, const Error& error);

}  // namespace dmu
