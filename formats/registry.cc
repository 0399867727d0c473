// SPDX-License-Identifier: GPL-2.0-or-later
// Every format there is, a line each.
#include <array>

#include "formats/core/image.h"
#include "formats/qcow/qcow.h"
#include "formats/qcow2/qcow2.h"
#include "formats/raw/raw.h"
#include "formats/vmdk/vmdk.h"

namespace dmu {

namespace {

constexpr std::array formats{
    &qcow_format,
    &qcow2_format,
    &raw_format,
    &vmdk_format,
};

}  // namespace

const Format* find_format(const std::string& name) {
    for (const auto* format : formats)
        if (name == format->name) return format;
    return nullptr;
}

std::span<const Format* const> all_formats() {
    return formats;
}

std::string format_names() {
    std::string names;
    for (const auto* format : formats) names += (names.empty() ? "" : ", ") + std::string(format->name);
    return names;
}

}  // namespace dmu
