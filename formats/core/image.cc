// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/image.h"

namespace dmu {

Status Image::read_compressed(GuestOffset start, std::span<std::byte>) {
    return Error{Code::unsupported, "image '" + files()[0]->name() + "': the cluster at guest byte " +
                                        std::to_string(start.bytes) + " is compressed, which this release can't read"};
}

}  // namespace dmu
