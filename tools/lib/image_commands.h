// SPDX-License-Identifier: GPL-2.0-or-later
// Images that are not attached.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "formats/core/image.h"
#include "xen-backend/control/control.h"

namespace dmu {

// force: also where the image is attached for writing (its metadata is then in motion).
// Code::busy: attached. Blocks; reads all metadata.
Result<CheckReport> check_image(const std::string& spec, bool force);

// Exit status of "xen-dmu check" for a report: 0, 2 corrupt, 3 leaks only.
int check_status(const CheckReport& report);
std::string check_text(const CheckReport& report);
control::Json check_json(const CheckReport& report);

struct NewImage {
    std::string spec = {};                   // FORMAT:PATH, of a file that does not exist
    std::optional<std::uint64_t> size = {};  // bytes; nothing: the backing image's
    std::uint32_t cluster_size = 0;          // bytes, 0: the format's default
    std::string backing = {};                // FORMAT:PATH, or empty
};
// Nothing is left where it fails. Blocks.
Status create_image(const NewImage& image);

}  // namespace dmu
