// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/check.h"
#include "formats/vmdk/create.h"
#include "formats/vmdk/vmdk.h"
#include "formats/vmdk/vmdk_image.h"

namespace dmu {

namespace {

bool looks_like_vmdk(std::span<const std::byte> head) {
    const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
    return vmdk::is_hosted(head) || text.starts_with("COWD") || vmdk::is_descriptor(text.substr(0, 512));
}

}  // namespace

const Format vmdk_format{"vmdk", vmdk::VmdkImage::open, vmdk::create_image, vmdk::check_image, looks_like_vmdk};

}  // namespace dmu
