// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <vector>

#include "formats/core/image.h"

namespace dmu::vmdk {

// Appends, or makes the last one longer where the next only goes on with it.
inline void append_extent(std::vector<Extent>& out, const Extent& extent) {
    if (!out.empty()) {
        auto& last = out.back();
        const bool is_data = extent.kind == ExtentKind::data;
        if (last.kind == extent.kind && last.writable == extent.writable && last.leasable == extent.leasable &&
            (!is_data || (last.file == extent.file && last.host.bytes + last.length == extent.host.bytes))) {
            last.length += extent.length;
            return;
        }
    }
    out.push_back(extent);
}

}  // namespace dmu::vmdk
