// SPDX-License-Identifier: GPL-2.0-or-later
// Images that are not attached.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/core/chain.h"
#include "formats/core/image.h"
#include "formats/core/spec.h"
#include "xen-backend/control/control.h"

namespace dmu {

struct NamedImage {
    ImageSpec spec;
    const Format* format;
};
// "FORMAT[;key=value...]:PATH", of a format there is.
Result<NamedImage> named_image(const std::string& text);

// Code::busy: the image is attached for writing, also if its mapper is gone.
Status refuse_attached(const std::string& path);

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
    // The format's own; those of the specification come before them.
    std::vector<std::pair<std::string, std::string>> options = {};
};

// The reference that an image at path stores to a backing image "FORMAT:PATH", relative to
// the image's directory, and what it needs to know of it.
struct Backing {
    BackingReference reference;
    std::uint64_t size = 0;
};
Result<Backing> open_backing(const std::string& backing, const std::string& image_path);
// As open_backing() opens it.
Result<ImageSpec> backing_spec(const std::string& backing, const std::string& image_path);
// Of the administrator's own command: any directory.
PathPolicy open_policy();
// Nothing is left where it fails. Blocks.
Status create_image(const NewImage& image);

}  // namespace dmu
