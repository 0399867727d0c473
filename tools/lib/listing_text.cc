// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "tools/lib/listing.h"
#include "tools/lib/sizes.h"

namespace dmu {
namespace {

using control::Json;

std::uint64_t number(const Json& facts, const char* member) {
    const auto found = facts.find(member);
    return found != facts.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

std::string text(const Json& facts, const char* member) {
    const auto found = facts.find(member);
    if (found == facts.end() || found->is_null()) return "-";
    return found->is_string() ? found->get<std::string>() : found->dump();
}

// A path may hold what would disturb a terminal.
std::string printable(std::string value) {
    for (char& c : value)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return value;
}

// "qcow2", "qcow2+luks"
std::string format_text(const Json& facts) {
    const std::string encryption = text(facts, "encryption");
    return text(facts, "format") + (encryption.empty() || encryption == "-" ? "" : "+" + encryption);
}

std::string domain_text(const ListedDisk& disk) {
    if (!disk.domain) return "-";
    return disk.domain_name.empty() ? "(" + std::to_string(*disk.domain) + ")" : disk.domain_name;
}

using Row = std::vector<std::string>;

// Columns as wide as their widest cell; those named are flush right.
std::string layout(const std::vector<Row>& rows, const std::string& right) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows)
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    std::string result;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string padding(widths[i] - row[i].size(), ' ');
            const bool last = i + 1 == row.size();
            line += right[i] == 'r' ? padding + row[i] : row[i] + (last ? "" : padding);
            if (!last) line += "  ";
        }
        result += line + "\n";
    }
    return result;
}

Row row_of(const ListedDisk& disk) {
    const Json& facts = disk.facts;
    const auto count = [&](const char* member) { return short_count(number(facts, member)); };
    return {printable(domain_text(disk)),
            disk.domain ? std::to_string(*disk.domain) : "-",
            disk.vdev.empty() ? "-" : disk.vdev,
            printable(text(facts, "name")),
            std::to_string(disk.mapper_pid),
            format_text(facts),
            text(facts, "mode"),
            short_size(number(facts, "virtual_size")),
            short_size(number(facts, "allocated")),
            count("hits"),
            count("misses"),
            count("pending"),
            printable(text(facts, "image"))};
}

Json stale_json(const StaleItem& item) {
    return {{"kind", stale_kind_name(item.kind)},
            {"name", item.name},
            {"instance", item.instance},
            {"key", item.key},
            {"user", item.user},
            {"problem", item.words},
            {"remedy", item.remedy}};
}

std::string alarms(const Listing& listing) {
    std::string result;
    for (const auto& disk : listing.disks)
        for (const auto& alarm : disk.facts.value("alarms", Json::array()))
            result += "alarm: " + printable(text(disk.facts, "name")) + ": " +
                      printable(alarm.is_string() ? alarm.get<std::string>() : alarm.dump()) + "\n";
    return result;
}

std::string members(const Json& object) {
    std::string result;
    for (const auto& [name, value] : object.items()) result += (result.empty() ? "" : ", ") + name + " " + value.dump();
    return result;
}

}  // namespace

std::string listing_table(const Listing& listing) {
    std::vector<Row> rows{{"Domain", "ID", "Vdev", "Device", "Mapper", "Format", "Mode", "Size", "Alloc", "Hits",
                           "Misses", "Pend", "Image"}};
    for (const auto& disk : listing.disks) rows.push_back(row_of(disk));
    return layout(rows, "lrllrllrrrrrl") + alarms(listing);
}

std::string listing_long(const Listing& listing) {
    std::string result;
    for (const auto& disk : listing.disks) {
        const auto line = [&](const std::string& name, const std::string& value) {
            std::string padded = "  " + name;
            padded.resize(std::max<std::size_t>(padded.size(), 18), ' ');
            result += padded + " " + printable(value) + "\n";
        };
        result += printable(text(disk.facts, "name")) + "\n";
        if (disk.domain) line("domain", domain_text(disk) + " (" + std::to_string(*disk.domain) + ")");
        if (!disk.vdev.empty()) line("vdev", disk.vdev);
        line("instance", disk.instance);
        line("mapper pid", std::to_string(disk.mapper_pid));
        for (const auto& [name, value] : disk.facts.items()) {
            if (name == "name" || name == "domain" || name == "vdev") continue;
            if (value.is_object()) {
                line(name, members(value));
                continue;
            }
            if (!value.is_array()) {
                line(name, value.is_string() ? value.get<std::string>() : value.dump());
                continue;
            }
            for (const auto& element : value)
                line(name, element.is_string() ? element.get<std::string>() : element.dump());
        }
    }
    return result;
}

Json listing_json(const Listing& listing) {
    Json result{{"disks", Json::array()}, {"stale", Json::array()}, {"notes", listing.notes}};
    for (const auto& disk : listing.disks) {
        Json one = disk.facts;
        one["instance"] = disk.instance;
        one["mapper_pid"] = disk.mapper_pid;
        one["domain"] = disk.domain ? Json(*disk.domain) : Json();
        one["domain_name"] = disk.domain_name.empty() ? Json() : Json(disk.domain_name);
        one["vdev"] = disk.vdev.empty() ? Json() : Json(disk.vdev);
        result["disks"].push_back(std::move(one));
    }
    for (const auto& item : listing.stale) result["stale"].push_back(stale_json(item));
    return result;
}

std::string stale_text(const Listing& listing) {
    std::string result;
    for (const auto& item : listing.stale) result += "stale: " + printable(item.words) + "; " + item.remedy + "\n";
    for (const auto& note : listing.notes) result += "note: " + note + "\n";
    return result;
}

}  // namespace dmu
