// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/control/protocol.h"

#include <utility>

namespace dmu::control {
namespace {

constexpr std::pair<Code, const char*> names[] = {
    {Code::invalid, "invalid"},         {Code::not_found, "not_found"},
    {Code::denied, "denied"},           {Code::busy, "busy"},
    {Code::unsupported, "unsupported"}, {Code::corrupt, "corrupt"},
    {Code::no_space, "no_space"},       {Code::io, "io"},
};

}  // namespace

const char* code_name(Code code) {
    for (const auto& [value, name] : names) {
        if (value == code) return name;
    }
    return "io";
}

Code code_from_name(const std::string& name) {
    for (const auto& [value, text] : names) {
        if (name == text) return value;
    }
    return Code::io;
}

Json ok_reply() {
    return Json{{"ok", true}};
}

Json error_reply(const Error& error) {
    return Json{{"ok", false}, {"code", code_name(error.code)}, {"error", error.message}};
}

Status reply_status(const Json& reply) {
    if (!reply.is_object() || !reply.contains("ok") || !reply["ok"].is_boolean()) {
        return Error{Code::io, "the mapper's reply is not understood: " + encode_lossy(reply)};
    }
    if (reply["ok"].get<bool>()) return ok();
    auto text = [&](const char* key) {
        auto found = reply.find(key);
        return found != reply.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    std::string message = text("error");
    return Error{code_from_name(text("code")), message.empty() ? "the mapper gave no reason" : message};
}

Result<std::string> encode(const Json& value) {
    try {
        return value.dump() + "\n";
    } catch (const Json::exception&) {
        return Error{Code::invalid, "a name in the request is not UTF-8; rename the file or link to it"};
    }
}

std::string encode_lossy(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Json> decode(const std::string& line) {
    Json value = Json::parse(line, nullptr, false);
    if (value.is_discarded()) return Error{Code::invalid, "not JSON"};
    if (!value.is_object()) return Error{Code::invalid, "not a JSON object"};
    return value;
}

Result<std::vector<std::string>> LineReader::feed(const char* data, std::size_t length) {
    std::vector<std::string> lines;
    rest_.append(data, length);
    std::size_t from = 0;
    for (std::size_t end; (end = rest_.find('\n', from)) != std::string::npos; from = end + 1) {
        if (end - from > limit_) return Error{Code::invalid, "a line is too long"};
        lines.push_back(rest_.substr(from, end - from));
    }
    rest_.erase(0, from);
    if (rest_.size() > limit_) return Error{Code::invalid, "a line is too long"};
    return lines;
}

}  // namespace dmu::control
