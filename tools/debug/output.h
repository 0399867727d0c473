// SPDX-License-Identifier: GPL-2.0-or-later
// What the debugger says: lines for people, or one JSON object each.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "tools/debug/request.h"

namespace dmu::debug {

using Json = nlohmann::ordered_json;

class Output {
public:
    Output(std::ostream& out, bool json) : out_(out), json_(json) {}
    // kind: "stopped", "rule", "error", ...; text: for people; fields: for programs.
    void say(const std::string& kind, const std::string& text, Json fields = Json::object());
    // Called around each output: a prompt goes out of the way, and comes back.
    std::function<void()> before = {}, after = {};

private:
    std::ostream& out_;
    const bool json_;
};

Json json_of(const Request& request);
// "#12 write 2048+8 FUA  stopped 1.2 s"
std::string line_of(const Request& request, Time now);
// 16 bytes a line, with offsets and letters.
std::string hex_dump(std::span<const std::byte> data, std::uint64_t from);

}  // namespace dmu::debug
