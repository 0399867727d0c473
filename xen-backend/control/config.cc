// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/control/config.h"

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace dmu {
namespace {

std::string trimmed(const std::string& text) {
    std::size_t first = text.find_first_not_of(" \t\r");
    if (first == std::string::npos) return "";
    return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

Result<std::uint32_t> parse_number(const std::string& text, std::uint32_t least, std::uint32_t most) {
    std::uint32_t value = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return value;
    return Error{Code::invalid,
                 "'" + text + "' is not a number from " + std::to_string(least) + " to " + std::to_string(most)};
}

Result<std::vector<std::string>> parse_directories(const std::string& text) {
    std::vector<std::string> directories;
    std::stringstream stream(text);
    for (std::string one; std::getline(stream, one, ':');) {
        if (one.empty()) continue;
        if (one.front() != '/') return Error{Code::invalid, "'" + one + "' is not an absolute path"};
        directories.push_back(one);
    }
    return directories;
}

Status set_directories(std::vector<std::string>& into, const std::string& value) {
    auto parsed = parse_directories(value);
    if (!parsed) return parsed.error();
    into = std::move(*parsed);
    return ok();
}

Status set_number(std::uint32_t& into, const std::string& value, std::uint32_t least, std::uint32_t most) {
    auto parsed = parse_number(value, least, most);
    if (!parsed) return parsed.error();
    into = *parsed;
    return ok();
}

Status set_on_full(OnFull& into, const std::string& value) {
    auto parsed = parse_on_full(value);
    if (!parsed) return parsed.error();
    into = *parsed;
    return ok();
}

Status set_lease_ahead(LeaseAhead& into, const std::string& value) {
    auto parsed = parse_lease_ahead(value);
    if (!parsed) return parsed.error();
    into = *parsed;
    return ok();
}

Status set(Config& config, const std::string& name, const std::string& value) {
    if (name == "roots") return set_directories(config.paths.roots, value);
    if (name == "image-roots") return set_directories(config.paths.image_roots, value);
    if (name == "on-full") return set_on_full(config.on_full, value);
    if (name == "commit-seconds") return set_number(config.commit_seconds, value, 1, 3600);
    if (name == "lease-ahead") return set_lease_ahead(config.lease_ahead, value);
    if (name == "metadata-mib") {
        std::uint32_t mib = 0;
        auto done = set_number(mib, value, 1, 65536);
        if (done) config.paths.cache_bytes = static_cast<std::uint64_t>(mib) << 20;
        return done;
    }
    if (name == "scratch-mib") return set_number(config.scratch_mib, value, 1, 65536);
    if (name == "map-mib") return set_number(config.map_mib, value, 0, 65536);
    if (name == "wait-seconds" && value == "forever") {
        config.wait_seconds = 0xffffffffu;
        return ok();
    }
    if (name == "wait-seconds") return set_number(config.wait_seconds, value, 0, 0xfffffffeu);
    return Error{Code::invalid, "unknown name '" + name +
                                    "'; known are roots, image-roots, on-full, wait-seconds, commit-seconds, "
                                    "lease-ahead, scratch-mib, metadata-mib, map-mib"};
}

Status parse_line(Config& config, const std::string& line) {
    std::string text = trimmed(line.substr(0, line.find('#')));
    if (text.empty()) return ok();
    std::size_t equals = text.find('=');
    if (equals == std::string::npos) return Error{Code::invalid, "'" + text + "' is not of the form name = value"};
    return set(config, trimmed(text.substr(0, equals)), trimmed(text.substr(equals + 1)));
}

}  // namespace

const char* on_full_name(OnFull policy) {
    return policy == OnFull::wait ? "wait" : "error";
}

Result<OnFull> parse_on_full(const std::string& text) {
    if (text == "wait") return OnFull::wait;
    if (text == "error") return OnFull::error;
    return Error{Code::invalid, "on-full is 'wait' or 'error', not '" + text + "'"};
}

Result<LeaseAhead> parse_lease_ahead(const std::string& text) {
    if (text == "auto") return LeaseAhead::automatic;
    if (text == "yes") return LeaseAhead::yes;
    if (text == "no") return LeaseAhead::no;
    return Error{Code::invalid, "lease-ahead is 'auto', 'yes' or 'no', not '" + text + "'"};
}

std::string config_path() {
    const char* path = std::getenv("XEN_DMU_CONFIG");
    return path && *path ? path : DMU_CONFIG_FILE;
}

Result<Config> read_config(const std::string& path) {
    Config config;
    std::ifstream file(path);
    if (!file) {
        if (errno == ENOENT) return config;
        return system_error("reading the configuration " + path);
    }
    unsigned number = 0;
    for (std::string line; std::getline(file, line);) {
        ++number;
        if (Status parsed = parse_line(config, line); !parsed) {
            return parsed.error().in(path + ", line " + std::to_string(number));
        }
    }
    return config;
}

}  // namespace dmu
