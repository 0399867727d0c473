// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/core/image.h"

namespace dmu {

Status Image::read_compressed(GuestOffset start, std::span<std::byte>) {
    return Error{Code::unsupported, "image '" + files()[0]->name() + "': the cluster at guest byte " +
                                        std::to_string(start.bytes) + " is compressed, which this release can't read"};
}

namespace {

Error can_not(Image& image, const std::string& what) {
    return {Code::unsupported,
            "image '" + image.files()[0]->name() + "': images of format " + image.info().format + " can't " + what};
}

}  // namespace

Result<Place> Image::reserve_any(std::uint64_t) {
    return can_not(*this, "lease space");
}

Status Image::give_back(const Place&) {
    return can_not(*this, "lease space");
}

Status Image::resize(std::uint64_t) {
    return can_not(*this, "be resized");
}

Status Image::write_compressed(GuestOffset, std::span<const std::byte>) {
    return can_not(*this, "be written compressed");
}

Status Image::set_backing(const std::optional<BackingReference>&) {
    return can_not(*this, "change their backing file");
}

}  // namespace dmu
