// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/pieces.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "tools/img/copying.h"
#include "tools/lib/sizes.h"

namespace dmu::img {

namespace {

std::string path_of(const Chain& chain, const Mapping& mapping) {
    return chain.layer(mapping.layer).files()[mapping.file]->name();
}

bool has_place(const Mapping& mapping) {
    return mapping.kind == MappingKind::linear || mapping.kind == MappingKind::cow;
}

bool joins(const Mapping& a, const Mapping& b) {
    return a.kind == b.kind && a.layer == b.layer && a.file == b.file &&
           (!has_place(a) || a.host.bytes + a.length == b.host.bytes);
}

std::string hex(std::uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// ------------------------------------------------------------------ SVG ---

constexpr unsigned columns = 1000, margin = 20, lane_height = 36, lane_step = 66, top = 40;

// What a column of a lane holds, the strongest of what falls into it.
enum class Mark : unsigned char { nothing, data, compressed };

struct Lane {
    std::array<Mark, columns> marks{};
};

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (c == '&')
            out += "&amp;";
        else if (c == '<')
            out += "&lt;";
        else if (c == '>')
            out += "&gt;";
        else if (c == '"')
            out += "&quot;";
        else
            out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
    return out;
}

std::vector<Lane> lanes_of(const Chain& chain, const std::vector<Mapping>& mappings, std::uint64_t size) {
    std::vector<Lane> lanes(chain.depth());
    const auto column = [&](std::uint64_t at) {
        return std::min<std::uint64_t>(
            columns - 1, static_cast<std::uint64_t>(static_cast<double>(at) * columns / static_cast<double>(size)));
    };
    for (const auto& mapping : mappings) {
        if (mapping.kind == MappingKind::zero) continue;
        const auto mark = mapping.kind == MappingKind::opaque ? Mark::compressed : Mark::data;
        for (auto c = column(mapping.start.bytes); c <= column(mapping.start.bytes + mapping.length - 1); c++)
            lanes[mapping.layer].marks[c] = std::max(lanes[mapping.layer].marks[c], mark);
    }
    return lanes;
}

std::string rectangle(std::uint64_t x, unsigned y, std::uint64_t width, const char* colour) {
    return "<rect x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" width=\"" + std::to_string(width) +
           "\" height=\"" + std::to_string(lane_height) + "\" fill=\"" + colour + "\"/>\n";
}

std::string text_at(unsigned x, unsigned y, const std::string& text, const char* anchor = "start") {
    return "<text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" text-anchor=\"" + anchor + "\">" +
           escaped(text) + "</text>\n";
}

std::string lane_svg(const Lane& lane, unsigned y) {
    std::string svg = rectangle(margin, y, columns, "#e8e8e8");
    for (unsigned start = 0; start < columns;) {
        unsigned end = start + 1;
        while (end < columns && lane.marks[end] == lane.marks[start]) end++;
        if (lane.marks[start] != Mark::nothing)
            svg += rectangle(margin + start, y, end - start, lane.marks[start] == Mark::data ? "#2c6fbb" : "#d9822b");
        start = end;
    }
    return svg;
}

}  // namespace

Result<std::vector<Mapping>> all_mappings(Chain& chain, GuestRange range) {
    std::vector<Mapping> all;
    for (auto at = range.start.bytes; at < range.end();) {
        const auto some = chain.look_up({{at}, std::min(range.end() - at, look_bytes)});
        if (!some) return some.error();
        for (auto mapping : *some) {
            if (at >= range.end()) break;
            mapping.length = std::min(mapping.length, range.end() - at);
            at += mapping.length;
            if (!all.empty() && joins(all.back(), mapping))
                all.back().length += mapping.length;
            else
                all.push_back(mapping);
        }
    }
    return all;
}

std::string map_text(const Chain& chain, const std::vector<Mapping>& mappings) {
    char line[96];
    std::snprintf(line, sizeof line, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    std::string text = line;
    for (const auto& mapping : mappings) {
        if (mapping.kind == MappingKind::zero) continue;
        const auto place = has_place(mapping) ? hex(mapping.host.bytes) : std::string("compressed");
        std::snprintf(line, sizeof line, "%-16s%-16s%-16s", hex(mapping.start.bytes).c_str(),
                      hex(mapping.length).c_str(), place.c_str());
        text += line + path_of(chain, mapping) + "\n";
    }
    return text;
}

std::string map_svg(const Chain& chain, const std::vector<Mapping>& mappings) {
    const auto size = chain.top().info().virtual_size;
    const auto lanes = lanes_of(chain, mappings, size);
    const auto height = top + lane_step * static_cast<unsigned>(lanes.size()) + 50;
    std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + std::to_string(columns + 2 * margin) +
                      "\" height=\"" + std::to_string(height) + "\" font-family=\"sans-serif\" font-size=\"13\">\n";
    svg += text_at(margin, 24, "What lies where, of " + short_size(size) + ", by layer of the chain");
    for (unsigned i = 0; i < lanes.size(); i++) {
        const auto y = top + i * lane_step;
        const auto& image = chain.layer(i);
        svg += text_at(margin, y + 14, image.info().format + ": " + image.files()[0]->name());
        svg += lane_svg(lanes[i], y + 20);
    }
    const auto y = height - 26;
    for (unsigned quarter = 0; quarter <= 4; quarter++)
        svg += text_at(margin + columns * quarter / 4, y, short_size(size / 4 * quarter),
                       quarter == 0   ? "start"
                       : quarter == 4 ? "end"
                                      : "middle");
    svg += text_at(margin, height - 8, "blue: data; orange: compressed; grey: nothing, what is below shows, or zeros");
    return svg + "</svg>\n";
}

}  // namespace dmu::img
