// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/listing.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

namespace dmu::debug {

namespace {

Error not_a(const std::string& what, const std::string& text, const std::string& say) {
    return {Code::invalid, "'" + text + "' is not " + what + "; say " + say};
}

template <typename Take>
bool each_word(const std::string& text, Take take) {
    for (std::size_t at = 0; at <= text.size();) {
        const auto comma = std::min(text.find(',', at), text.size());
        if (!take(text.substr(at, comma - at))) return false;
        at = comma + 1;
    }
    return true;
}

std::string outcome_words(const Record& record) {
    std::string text = outcome_text(record.outcome);
    if (record.outcome == Outcome::failed) {
        const char* name = ::strerrorname_np(static_cast<int>(record.error));
        text += " (" + (name != nullptr ? std::string(name) : std::to_string(record.error)) + ")";
    }
    if (record.outcome == Outcome::torn)
        text += " (" + std::to_string(record.torn_first) + "+" + std::to_string(record.torn_count) + " of it)";
    return text;
}

std::string wall_clock(std::uint64_t ns) {
    const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
    std::tm parts{};
    char text[32] = "";
    ::localtime_r(&seconds, &parts);
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    return text;
}

}  // namespace

bool Filter::takes(const Record& record) const {
    if (!kinds.empty() && kinds.count(record.op) == 0) return false;
    if (!outcomes.empty() && outcomes.count(record.outcome) == 0) return false;
    if ((record.flags & flags) != flags) return false;
    if (!numbers.has(record.number) || !times.has(record.time) || !sizes.has(record.sectors)) return false;
    return !range || (record.sectors > 0 && range->overlaps({record.sector, record.sectors}));
}

Result<std::set<Op>> parse_kinds(const std::string& text) {
    std::set<Op> kinds;
    const bool good = each_word(text, [&](const std::string& word) {
        for (auto op = Op::read; op <= Op::mark; op = static_cast<Op>(static_cast<int>(op) + 1))
            if (word == op_text(op)) return kinds.insert(op), true;
        return false;
    });
    if (!good) return not_a("a list of kinds", text, "some of read,write,discard,zero,flush,mark");
    return kinds;
}

Result<std::set<Outcome>> parse_outcomes(const std::string& text) {
    std::set<Outcome> outcomes;
    const bool good = each_word(text, [&](const std::string& word) {
        for (auto o = Outcome::pending; o <= Outcome::torn; o = static_cast<Outcome>(static_cast<int>(o) + 1))
            if (word == outcome_text(o)) return outcomes.insert(o), true;
        return false;
    });
    if (!good) return not_a("a list of outcomes", text, "some of pending,through,dropped,failed,torn");
    return outcomes;
}

Result<std::uint32_t> parse_flags(const std::string& text) {
    std::uint32_t flags = 0;
    const bool good = each_word(text, [&](const std::string& word) {
        const std::array<std::pair<const char*, std::uint32_t>, 3> names = {
            {{"fua", flag_fua}, {"meta", flag_meta}, {"sync", flag_sync}}};
        for (const auto& [name, flag] : names)
            if (word == name) return flags |= flag, true;
        return false;
    });
    if (!good) return not_a("a list of flags", text, "some of fua,meta,sync");
    return flags;
}

std::string time_text(std::uint64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%" PRIu64 ".%06" PRIu64, ns / 1'000'000'000, ns / 1000 % 1'000'000);
    return text;
}

std::string record_text(const Record& record, const std::string& hash, const std::string& explanation) {
    char text[160];
    const auto range =
        record.sectors == 0 ? std::string() : std::to_string(record.sector) + "+" + std::to_string(record.sectors);
    std::snprintf(text, sizeof text, "%7" PRIu64 " %12s %-7s %-18s %-13s ", record.number,
                  time_text(record.time).c_str(), op_text(record.op), range.c_str(), flags_text(record.flags).c_str());
    std::string line = text;
    line += record.op == Op::mark ? "\"" + record.label + "\"" : outcome_words(record);
    if (!hash.empty()) line += " " + hash;
    if (!explanation.empty()) line += "  # " + explanation;
    return line;
}

std::string record_json(const Record& record, const std::string& hash, const std::string& explanation) {
    nlohmann::ordered_json json = {{"number", record.number}, {"time", record.time}, {"kind", op_text(record.op)}};
    if (record.sectors != 0) json["sector"] = record.sector, json["sectors"] = record.sectors;
    auto& flags = json["flags"] = nlohmann::ordered_json::array();
    if (record.flags != 0)
        each_word(flags_text(record.flags), [&](const std::string& word) { return flags.push_back(word), true; });
    json["outcome"] = outcome_text(record.outcome);
    if (record.outcome == Outcome::failed) json["error"] = record.error;
    if (record.outcome == Outcome::torn) json["torn"] = {{"first", record.torn_first}, {"count", record.torn_count}};
    if (record.end != 0) json["end"] = record.end;
    if (record.order != 0) json["order"] = record.order;
    if (record.has_data()) json["data"] = record.data;
    if (record.op == Op::mark) json["label"] = record.label;
    if (!hash.empty()) json["hash"] = hash;
    if (!explanation.empty()) json["explanation"] = explanation;
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string summary_json(const LogReader& log) {
    nlohmann::ordered_json json = {{"source", log.header().source},
                                   {"sectors", log.header().sectors},
                                   {"started", log.header().started},
                                   {"records", log.records().size()}};
    for (const auto& record : log.records()) {
        auto& kind = json["kinds"][op_text(record.op)];
        if (kind.is_null()) kind = {{"count", 0}, {"sectors", 0}};
        kind["count"] = kind["count"].get<std::uint64_t>() + 1;
        kind["sectors"] = kind["sectors"].get<std::uint64_t>() + record.sectors;
    }
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string summary_text(const LogReader& log) {
    std::array<std::uint64_t, 6> counts{}, amounts{};
    std::uint64_t last = 0;
    for (const auto& record : log.records()) {
        counts.at(static_cast<std::size_t>(record.op))++;
        amounts.at(static_cast<std::size_t>(record.op)) += record.sectors;
        last = std::max({last, record.time, record.end});
    }
    const auto& header = log.header();
    std::string text = "log of " + header.source + ", " + std::to_string(header.sectors) + " sectors";
    if (header.started != 0) text += ", from " + wall_clock(header.started) + ", " + time_text(last) + " s";
    text += "\n" + std::to_string(log.records().size()) + " records:";
    for (std::size_t i = 0; i < counts.size(); i++) {
        if (counts.at(i) == 0) continue;
        text += " " + std::to_string(counts.at(i)) + " " + op_text(static_cast<Op>(i));
        if (amounts.at(i) != 0) text += " (" + std::to_string(amounts.at(i)) + " sectors)";
    }
    return text + "\n";
}

}  // namespace dmu::debug
