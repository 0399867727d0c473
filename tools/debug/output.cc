// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/output.h"

#include <cctype>
#include <cinttypes>
#include <cstdio>

namespace dmu::debug {

void Output::say(const std::string& kind, const std::string& text, Json fields) {
    if (before) before();
    if (json_) {
        Json line{{"kind", kind}};
        line.update(fields);
        if (fields.empty()) line["text"] = text;
        out_ << line.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    } else {
        out_ << text << (text.empty() || text.back() != '\n' ? "\n" : "") << std::flush;
    }
    if (after) after();
}

Json json_of(const Request& request) {
    Json json{{"number", request.number()}, {"op", op_text(request.op)}};
    if (request.op != Op::flush) {
        json["sector"] = request.range.start;
        json["sectors"] = request.range.length;
    }
    json["flags"] = flags_text(request.flags);
    json["state"] = name_of(request.state);
    json["done_below"] = request.done_below;
    if (request.done_below) json["error"] = request.error;
    return json;
}

std::string line_of(const Request& request, Time now) {
    char since[32];
    std::snprintf(since, sizeof since, "  %.3f s", std::chrono::duration<double>(now - request.arrived).count());
    return request.text() + "  " + name_of(request.state) + (request.done_below ? ", done below" : "") + since;
}

std::string hex_dump(std::span<const std::byte> data, std::uint64_t from) {
    std::string text;
    constexpr std::size_t width = 16;
    for (std::size_t line = 0; line < data.size(); line += width) {
        const auto part = data.subspan(line, std::min(width, data.size() - line));
        char piece[32];
        std::snprintf(piece, sizeof piece, "%08" PRIx64 " ", from + line);
        text += piece;
        for (std::size_t i = 0; i < width; ++i) {
            if (i < part.size())
                std::snprintf(piece, sizeof piece, " %02x", std::to_integer<unsigned>(part[i]));
            else
                std::snprintf(piece, sizeof piece, "   ");
            text += piece;
        }
        text += "  ";
        for (const auto byte : part) {
            const auto c = std::to_integer<unsigned char>(byte);
            text += std::isprint(c) ? static_cast<char>(c) : '.';
        }
        text += "\n";
    }
    return text;
}

}  // namespace dmu::debug
