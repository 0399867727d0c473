// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/text.h"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <iostream>
#include <sstream>

#include "tools/img/commands.h"
#include "tools/lib/program.h"
#include "tools/lib/sizes.h"

namespace dmu::img {

int failed(const Error& error) {
    const int status = fail(program, error);
    return error.code == Code::corrupt ? exit_corrupt : status;
}

int ended(const Status& status) {
    return status ? 0 : failed(status.error());
}

Result<OptionList> parse_options(const std::vector<std::string>& texts) {
    OptionList all;
    for (const auto& text : texts) {
        for (std::size_t at = 0; at <= text.size();) {
            const auto end = std::min(text.find(',', at), text.size());
            const auto option = text.substr(at, end - at);
            const auto equals = option.find('=');
            if (equals == 0 || equals == std::string::npos)
                return Error{Code::invalid, "option '" + option + "' is not key=value"};
            all.emplace_back(option.substr(0, equals), option.substr(equals + 1));
            at = end + 1;
        }
    }
    return all;
}

std::string size_text(std::uint64_t bytes) {
    return short_size(bytes) + " (" + std::to_string(bytes) + " bytes)";
}

namespace {

std::string detail_text(const std::variant<bool, std::uint64_t, std::string>& value) {
    if (const auto* yes = std::get_if<bool>(&value)) return *yes ? "true" : "false";
    if (const auto* number = std::get_if<std::uint64_t>(&value)) return std::to_string(*number);
    return std::get<std::string>(value);
}

}  // namespace

std::string details_text(const std::vector<ImageInfo::Detail>& details) {
    std::string text;
    std::vector<std::string> above;
    for (const auto& [key, value] : details) {
        std::vector<std::string> parts;
        std::istringstream words(key);
        for (std::string word; std::getline(words, word, '/');) parts.push_back(word);
        const auto same = std::mismatch(parts.begin(), parts.end(), above.begin(), above.end()).first - parts.begin();
        for (auto i = static_cast<std::size_t>(same); i < parts.size(); i++) {
            const bool is_number = parts[i].find_first_not_of("0123456789") == std::string::npos;
            text += std::string(4 * (i + 1), ' ') + (is_number ? "[" + parts[i] + "]:" : parts[i] + ":");
            if (i + 1 < parts.size()) text += "\n";
        }
        text += " " + detail_text(value) + "\n";
        above = std::move(parts);
    }
    return text;
}

std::string snapshot_table(const std::vector<Snapshot>& snapshots) {
    char line[160];
    std::snprintf(line, sizeof line, "%-9s %-20s %8s  %-19s  %s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK");
    std::string text = line;
    for (const auto& snapshot : snapshots) {
        const auto seconds = static_cast<std::time_t>(snapshot.created_seconds);
        std::tm local{};
        char date[32] = "-";
        if (::localtime_r(&seconds, &local) != nullptr) std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
        const auto clock = snapshot.guest_nanoseconds / 1000000;
        std::snprintf(line, sizeof line, "  %8s  %-19s  %02u:%02u:%02u.%03u\n",
                      short_size(snapshot.vm_state_bytes).c_str(), date, static_cast<unsigned>(clock / 3600000),
                      static_cast<unsigned>(clock / 60000 % 60), static_cast<unsigned>(clock / 1000 % 60),
                      static_cast<unsigned>(clock % 1000));
        std::string id = snapshot.id, name = snapshot.name;
        id.resize(std::max<std::size_t>(id.size(), 9), ' ');
        name.resize(std::max<std::size_t>(name.size(), 20), ' ');
        text.append(id).append(" ").append(name).append(line + 1);
    }
    return text;
}

void print_json(const control::Json& json) {
    std::cout << json.dump(4, ' ', false, control::Json::error_handler_t::replace) << "\n";
}

Result<std::uint64_t> parse_number(const std::string& text) {
    if (!text.starts_with("0x")) return parse_size(text);
    std::uint64_t value = 0;
    const auto* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + 2, end, value, 16);
    if (parsed.ec == std::errc() && parsed.ptr == end && text.size() > 2) return value;
    return Error{Code::invalid, "'" + text + "' is not a number"};
}

}  // namespace dmu::img
