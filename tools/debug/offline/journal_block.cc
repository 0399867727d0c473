// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/journal_block.h"

#include <algorithm>

#include "formats/core/endian.h"

namespace dmu::debug {

namespace {

constexpr std::uint32_t magic = 0xc03b3998;
enum Kind : std::uint32_t { descriptor = 1, commit = 2, super_old = 3, super = 4, revocation = 5 };
constexpr std::uint32_t feature_wide = 2, feature_sum = 8, feature_wide_sum = 16;
constexpr std::uint32_t tag_same_uuid = 2, tag_last = 8;
constexpr std::size_t header_bytes = 12, uuid_bytes = 16, features_at = 40;

}  // namespace

JournalFormat JournalFormat::of_super(std::span<const std::byte> block) {
    JournalFormat format;
    if (block.size() < 1024 || load_be<std::uint32_t>(block, 0) != magic ||
        load_be<std::uint32_t>(block, 4) != Kind::super)
        return format;
    const auto features = load_be<std::uint32_t>(block, features_at);
    format.wide = (features & feature_wide) != 0;
    format.sum_in_tag = (features & feature_sum) != 0;
    format.wide_sum_in_tag = (features & feature_wide_sum) != 0;
    return format;
}

namespace {

std::vector<std::uint64_t> tags(const JournalFormat& format, std::span<const std::byte> block) {
    std::vector<std::uint64_t> blocks;
    const std::size_t size = format.wide_sum_in_tag ? 16 : 8 + (format.wide ? 4 : 0) + (format.sum_in_tag ? 2 : 0);
    const std::size_t tail = format.sum_in_tag || format.wide_sum_in_tag ? 4 : 0;
    for (auto at = header_bytes; at + size + tail <= block.size();) {
        const auto flags = format.wide_sum_in_tag ? load_be<std::uint32_t>(block, at + 4)
                                                  : std::uint32_t{load_be<std::uint16_t>(block, at + 6)};
        std::uint64_t number = load_be<std::uint32_t>(block, at);
        if (format.wide) number |= std::uint64_t{load_be<std::uint32_t>(block, at + 8)} << 32;
        blocks.push_back(number);
        if ((flags & tag_last) != 0) break;
        at += size + ((flags & tag_same_uuid) != 0 ? 0 : uuid_bytes);
    }
    return blocks;
}

std::vector<std::uint64_t> revoked(const JournalFormat& format, std::span<const std::byte> block) {
    std::vector<std::uint64_t> blocks;
    const std::size_t size = format.wide ? 8 : 4;
    // How many bytes are used, the header's among them.
    const auto end = std::min<std::size_t>(load_be<std::uint32_t>(block, header_bytes), block.size());
    for (auto at = header_bytes + 4; at + size <= end; at += size)
        blocks.push_back(format.wide ? load_be<std::uint64_t>(block, at)
                                     : std::uint64_t{load_be<std::uint32_t>(block, at)});
    return blocks;
}

}  // namespace

JournalBlock JournalFormat::examine(std::span<const std::byte> block) const {
    if (block.size() < 1024 || load_be<std::uint32_t>(block, 0) != magic) return {};
    const auto transaction = " of transaction " + std::to_string(load_be<std::uint32_t>(block, 8));
    switch (load_be<std::uint32_t>(block, 4)) {
        case descriptor:
            return {"descriptor" + transaction, tags(*this, block)};
        case commit:
            return {"commit" + transaction, {}};
        case super_old:
        case super: {
            const auto start = load_be<std::uint32_t>(block, 28);
            return {start == 0 ? "super block, empty"
                               : "super block, begins at block " + std::to_string(start) + " with transaction " +
                                     std::to_string(load_be<std::uint32_t>(block, 24)),
                    {}};
        }
        case revocation:
            return {"revocation" + transaction, revoked(*this, block)};
        default:
            return {};
    }
}

}  // namespace dmu::debug
