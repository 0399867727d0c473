// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/request.h"

#include <array>
#include <cstring>
#include <string_view>

namespace dmu::debug {
namespace {

constexpr std::array<const char*, 8> actions{"through", "stop", "drop", "fail", "tear", "delay", "reorder", "corrupt"};
constexpr std::array<const char*, 6> states{"catching", "queued", "stopped", "delayed", "below", "held"};

}  // namespace

const char* name_of(Do what) {
    return actions[static_cast<std::size_t>(what)];
}

const char* name_of(State state) {
    return states[static_cast<std::size_t>(state)];
}

std::optional<Op> op_named(const std::string& name) {
    for (const Op op : {Op::read, Op::write, Op::discard, Op::zero, Op::flush})
        if (name == op_text(op)) return op;
    return std::nullopt;
}

std::string Action::text() const {
    std::string text = name_of(what);
    switch (what) {
        case Do::stop:
            return text + (after ? " after" : " before");
        case Do::fail:
            return text + " " + strerrorname_np(error);
        case Do::tear:
            return text + " " + std::to_string(part.start) + "+" + std::to_string(part.length);
        case Do::delay:
            return text + " " + std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(delay).count()) +
                   "ms";
        case Do::corrupt:
            return text + " " + std::to_string(bytes);
        default:
            return text;
    }
}

std::string Request::text() const {
    std::string text = (number() ? "#" + std::to_string(number()) + " " : "") + op_text(op);
    if (op != Op::flush) text += " " + std::to_string(range.start) + "+" + std::to_string(range.length);
    if (flags) text += " " + flags_text(flags);
    return text;
}

}  // namespace dmu::debug
