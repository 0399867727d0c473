// SPDX-License-Identifier: GPL-2.0-or-later
// The words of the control socket: one JSON object per line, each way. A request has
// "command"; a reply has "ok": true, or "ok": false with "code" and "error".
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/core/result.h"

namespace dmu::control {

using Json = nlohmann::json;

// A longer line ends the connection. Bytes.
inline constexpr std::size_t request_limit = 64 * 1024;
inline constexpr std::size_t reply_limit = 16 * 1024 * 1024;

// "busy", "not_found", ...: the spelling of a Code on the wire.
const char* code_name(Code code);
// Code::io for what this release does not know.
Code code_from_name(const std::string& name);

Json ok_reply();
Json error_reply(const Error& error);
// The error that a reply carries; ok where it says "ok": true.
Status reply_status(const Json& reply);

// One line with its newline. Code::invalid: a string in it is not UTF-8 (JSON has no
// other; a path in another encoding can't be named here).
Result<std::string> encode(const Json& value);
// Never fails: what is not UTF-8 is replaced. For replies and logs.
std::string encode_lossy(const Json& value);
// An object, or Code::invalid.
Result<Json> decode(const std::string& line);

// Cuts a byte stream into lines. One thread at a time.
class LineReader {
public:
    explicit LineReader(std::size_t limit) : limit_(limit) {}

    // The lines that data completes, without their newlines. Code::invalid: a line is
    // longer than the limit.
    Result<std::vector<std::string>> feed(const char* data, std::size_t length);

private:
    std::size_t limit_;
    std::string rest_;
};

}  // namespace dmu::control
