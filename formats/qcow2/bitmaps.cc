// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/bitmaps.h"

#include <algorithm>

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

constexpr std::size_t fixed_bytes = 24;
constexpr std::size_t flags_at = 12;
constexpr std::uint64_t max_bitmap_bytes = 512 << 20;  // of bits

}  // namespace

Result<std::vector<BitmapEntry>> read_bitmaps(BlockFile& file, const Header& header) {
    std::vector<BitmapEntry> entries;
    const auto extension = bitmaps_of(header, file.name());
    if (!extension) return extension.error();
    if (!*extension) return entries;
    const auto wrong = [&](const std::string& what) {
        return Error{Code::corrupt, "qcow2 image '" + file.name() + "': " + what};
    };
    std::vector<std::byte> raw((*extension)->directory_bytes);
    auto done = file.read((*extension)->directory_offset, raw);
    if (!done) return done.error();
    for (std::size_t at = 0; at < raw.size();) {
        if (raw.size() - at < fixed_bytes) return wrong("the directory of bitmaps is cut");
        BitmapEntry entry{at,
                          load_be<std::uint64_t>(raw, at),
                          load_be<std::uint32_t>(raw, at + 8),
                          load_be<std::uint32_t>(raw, at + flags_at),
                          "",
                          std::to_integer<unsigned>(raw[at + 17])};
        const std::uint64_t name = load_be<std::uint16_t>(raw, at + 18), extra = load_be<std::uint32_t>(raw, at + 20);
        const auto bytes = align_up(fixed_bytes + extra + name, 8);
        if (bytes > raw.size() - at) return wrong("the directory of bitmaps is cut");
        if (name > max_name_bytes) return wrong("the name of a bitmap has " + std::to_string(name) + " bytes");
        for (auto i = at + fixed_bytes + extra; i < at + fixed_bytes + extra + name; i++)
            entry.name += std::to_integer<char>(raw[i]);
        if (std::uint64_t{entry.table_entries} << header.cluster_bits > max_bitmap_bytes)
            return wrong("bitmap '" + entry.name + "' has " + std::to_string(entry.table_entries) +
                         " clusters; 512 MiB are allowed");
        entries.push_back(std::move(entry));
        at += bytes;
    }
    if (entries.size() != (*extension)->count) return wrong("the directory of bitmaps has another number of them");
    return entries;
}

Status describe_bitmaps(BlockFile& file, const Header& header, std::vector<ImageInfo::Detail>& details) {
    const auto entries = read_bitmaps(file, header);
    if (!entries) return entries.error();
    for (std::size_t i = 0; i < entries->size(); i++) {
        const auto& entry = (*entries)[i];
        if (entry.granularity_bits > 63)
            return Error{Code::corrupt, "qcow2 image '" + file.name() + "': the granularity of bitmap '" + entry.name +
                                            "' is 2^" + std::to_string(entry.granularity_bits)};
        const auto place = "bitmaps/" + std::to_string(i) + "/";
        details.push_back({place + "name", entry.name});
        details.push_back({place + "granularity", std::uint64_t{1} << entry.granularity_bits});
        unsigned flags = 0;
        const auto flag = [&](std::uint32_t bit, const char* word) {
            if ((entry.flags & bit) != 0)
                details.push_back({place + "flags/" + std::to_string(flags++), std::string(word)});
        };
        flag(1, "in-use");
        flag(2, "auto");
    }
    return ok();
}

Result<bool> bitmaps_need_mark(BlockFile& file, const Header& header) {
    const auto entries = read_bitmaps(file, header);
    if (!entries) return entries.error();
    return std::any_of(entries->begin(), entries->end(), [](const auto& entry) { return !entry.in_use(); });
}

Status mark_bitmaps_in_use(BlockFile& file, const Header& header) {
    const auto entries = read_bitmaps(file, header);
    if (!entries) return entries.error();
    if (entries->empty()) return ok();
    const auto directory = (*bitmaps_of(header, file.name()))->directory_offset;
    for (const auto& entry : *entries) {
        std::byte raw[4];
        store_be<std::uint32_t>(raw, 0, entry.flags | 1);
        auto done = file.write(directory + entry.at + flags_at, raw);
        if (!done) return done;
    }
    return ok();
}

}  // namespace dmu::qcow2
