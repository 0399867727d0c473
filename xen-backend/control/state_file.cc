// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/control/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "xen-backend/control/control.h"

namespace dmu::control {
namespace {

constexpr unsigned state_version = 1;

// The system's paths are bytes, JSON's strings are UTF-8: a path that is not stands as an
// array of its bytes, so that every path comes back whole.
bool is_utf8(const std::string& text) {
    try {
        (void)Json(text).dump();
        return true;
    } catch (const Json::exception&) {
        return false;
    }
}

Json path_to_json(const std::string& path) {
    if (is_utf8(path)) return path;
    std::vector<unsigned> bytes(path.begin(), path.end());
    for (unsigned& byte : bytes) byte &= 0xff;
    return bytes;
}

std::string path_from_json(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    std::string path;
    for (unsigned byte : value.get<std::vector<unsigned>>()) path.push_back(static_cast<char>(byte));
    return path;
}

Json to_json(const DiskState& state) {
    Json files = Json::array();
    for (const auto& file : state.files) {
        files.push_back({{"layer", file.layer},
                         {"file", file.file},
                         {"path", path_to_json(file.path)},
                         {"destination", file.destination},
                         {"buffered", file.buffered},
                         {"encrypted", file.encrypted}});
    }
    return {
        {"version", state_version},
        {"instance", state.instance},
        {"name", state.name},
        {"uuid", state.uuid},
        {"key", state.key},
        {"spec", path_to_json(state.spec)},
        {"mode", state.writable ? "w" : "r"},
        {"complete", state.complete},
        {"major", state.major},
        {"minor", state.minor},
        {"options",
         {{"on_full", state.on_full}, {"wait_seconds", state.wait_seconds}, {"commit_seconds", state.commit_seconds}}},
        {"users", state.users},
        {"files", files}};
}

DiskState from_json(const Json& value) {
    DiskState state;
    state.instance = value.at("instance").get<std::string>();
    state.name = value.at("name").get<std::string>();
    state.uuid = value.at("uuid").get<std::string>();
    state.key = value.at("key").get<std::string>();
    state.spec = path_from_json(value.at("spec"));
    state.writable = value.at("mode").get<std::string>() == "w";
    state.complete = value.value("complete", true);
    state.major = value.value("major", 0u);
    state.minor = value.value("minor", 0u);
    const Json options = value.value("options", Json::object());
    state.on_full = options.value("on_full", "wait");
    state.wait_seconds = options.value("wait_seconds", 0xffffffffu);
    state.commit_seconds = options.value("commit_seconds", 1u);
    state.users = value.value("users", std::vector<std::string>());
    for (const Json& file : value.at("files")) {
        state.files.push_back({file.at("layer").get<unsigned>(), file.at("file").get<unsigned>(),
                               path_from_json(file.at("path")), file.at("destination").get<unsigned>(),
                               file.value("buffered", false), file.value("encrypted", false)});
    }
    return state;
}

Status make_directory(const std::string& path) {
    if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return ok();
    return system_error("making the directory " + path);
}

Status write_whole(const std::string& path, const std::string& text) {
    int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) return system_error("writing the state file " + path);
    std::size_t done = 0;
    while (done < text.size()) {
        ssize_t now = write(file, text.data() + done, text.size() - done);
        if (now < 0 && errno == EINTR) continue;
        if (now < 0) {
            Error error = system_error("writing the state file " + path);
            close(file);
            unlink(path.c_str());
            return error;
        }
        done += static_cast<std::size_t>(now);
    }
    close(file);
    return ok();
}

}  // namespace

std::string disks_directory() {
    return run_directory() + "/disks";
}
std::string state_path(const std::string& key) {
    return disks_directory() + "/" + key + ".json";
}

Status write_state(const DiskState& state) {
    if (Status made = make_directory(run_directory()); !made) return made;
    if (Status made = make_directory(disks_directory()); !made) return made;
    std::string path = state_path(state.key), fresh = path + ".new";
    if (Status written = write_whole(fresh, encode_lossy(to_json(state))); !written) return written;
    if (rename(fresh.c_str(), path.c_str()) == 0) return ok();
    Error error = system_error("renaming " + fresh);
    unlink(fresh.c_str());
    return error;
}

Status remove_state(const std::string& key) {
    std::string path = state_path(key);
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return ok();
    return system_error("removing the state file " + path);
}

Result<DiskState> read_state(const std::string& path) {
    std::ifstream file(path);
    if (!file) return system_error("reading the state file " + path);
    std::stringstream text;
    text << file.rdbuf();
    auto value = decode(text.str());
    if (!value) return value.error().in("the state file " + path);
    try {
        return from_json(*value);
    } catch (const Json::exception& problem) {
        return Error{Code::corrupt, "the state file " + path + " is not understood: " + problem.what()};
    }
}

std::vector<DiskState> all_states(std::vector<std::string>* problems) {
    std::vector<DiskState> states;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(disks_directory(), none)) {
        if (entry.path().extension() != ".json") continue;
        auto state = read_state(entry.path().string());
        if (state) {
            states.push_back(std::move(*state));
        } else if (problems && state.error().code != Code::not_found) {
            problems->push_back(state.error().message);
        }
    }
    std::sort(states.begin(), states.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return states;
}

}  // namespace dmu::control
