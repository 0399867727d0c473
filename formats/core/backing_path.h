// SPDX-License-Identifier: GPL-2.0-or-later
// Opening what a configuration or an image names, and no other file of the host.
#pragma once

#include <string>

#include "formats/core/block_file.h"
#include "formats/core/chain.h"

namespace dmu {

// The image of the configuration: as named, below policy.image_roots where there are any.
Result<std::unique_ptr<BlockFile>> open_image_path(const std::string& path, OpenMode mode, const PathPolicy& policy);

// What a name inside an image is for, for messages.
enum class NameUse { backing_file, data_file };

// The absolute path that a name inside the image at image_path stands for. Relative names
// start in the image's directory. Refuses "json:..." and "protocol:...". Opens nothing.
Result<std::string> resolve_backing_name(const std::string& name, const std::string& image_path,
                                         NameUse use = NameUse::backing_file);

// Opens such a path: below the image's directory a regular file, below a root
// of the policy also a block device. No symbolic link leads out of the directory, none
// is followed at the end (but to a block device below a root, as LVM names them).
Result<std::unique_ptr<BlockFile>> open_backing_path(const std::string& path, const std::string& image_path,
                                                     const PathPolicy& policy, OpenMode mode = {},
                                                     NameUse use = NameUse::backing_file);

// A fresh, empty file at such a path, below the image's directory only, and its directory
// entry durable. Code::busy: there is something of that name.
Result<std::unique_ptr<BlockFile>> create_data_file(const std::string& path, const std::string& image_path,
                                                    OpenMode mode);

}  // namespace dmu
