// SPDX-License-Identifier: GPL-2.0-or-later
#include <array>

#include "formats/core/endian.h"
#include "formats/core/units.h"
#include "formats/qcow/check.h"

namespace dmu::qcow {

namespace {

Result<std::uint64_t> append_copy(BlockFile& file, std::uint64_t from, std::uint64_t cluster_bytes) {
    const auto size = file.size();
    if (!size) return size.error();
    const auto at = align_up(*size, cluster_bytes);
    std::vector<std::byte> cluster(cluster_bytes);
    auto done = file.read(from, cluster);
    if (done) done = file.write(at, cluster);
    if (!done) return done.error();
    return at;
}

}  // namespace

// Copies are durable before anything points at them.
Status apply_fixes(BlockFile& file, std::uint64_t cluster_bytes, const std::vector<Fix>& fixes) {
    if (fixes.empty()) return ok();
    std::vector<std::uint64_t> values;
    for (const auto& fix : fixes) {
        if (fix.copy_from == 0) {
            values.push_back(0);
            continue;
        }
        const auto copy = append_copy(file, fix.copy_from, cluster_bytes);
        if (!copy) return copy.error();
        values.push_back(*copy);
    }
    auto done = file.sync();
    for (std::size_t i = 0; done && i < fixes.size(); i++) {
        std::array<std::byte, 8> raw;
        store_be<std::uint64_t>(raw, 0, values[i]);
        done = file.write(fixes[i].at, raw);
    }
    return done ? file.sync() : done;
}

Status cut_tail(BlockFile& file, std::uint64_t used_end) {
    const auto size = file.size();
    if (!size) return size.error();
    if (*size <= used_end) return ok();
    auto done = file.truncate(used_end);
    return done ? file.sync() : done;
}

}  // namespace dmu::qcow
