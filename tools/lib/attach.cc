// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/attach.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "formats/core/spec.h"
#include "tools/lib/listing.h"

namespace dmu {
namespace {

using control::Json;

constexpr unsigned attach_seconds = 60;

std::string instance_of(const std::string& name) {
    return "name-" + name;
}

bool matches(const ListedDisk& disk, const std::string& which) {
    return disk.instance == which || disk.facts.value("name", "") == which ||
           (disk.domain && (disk.domain_name == which || std::to_string(*disk.domain) == which));
}

Result<std::set<std::string>> instances_of(const Ports& ports, const std::optional<std::string>& which) {
    std::set<std::string> instances;
    const Listing listing = collect_listing(ports);
    for (const auto& disk : listing.disks)
        if (!which || matches(disk, *which)) instances.insert(disk.instance);
    if (which && instances.empty())
        return Error{Code::not_found, "no attached disk, domain or instance is called '" + *which + "'"};
    return instances;
}

// The names of the disks that are served, whatever else is.
std::set<std::string> served(const Json& list) {
    std::set<std::string> names;
    for (const auto& disk : list.value("disks", Json::array()))
        if (disk.value("stage", "") == "active") names.insert(disk.value("name", ""));
    return names;
}

Status restart_mapper(const Ports& ports, const std::string& instance) {
    const auto before = ports.call(instance, Json{{"command", "list"}}, attach_seconds);
    if (!before) return before.error();
    const auto reply = ports.call(instance, Json{{"command", "restart"}}, attach_seconds);
    if (!reply && reply.error().code == Code::unsupported)
        return Error{Code::unsupported, "this mapper is of a release that cannot be restarted on purpose; kill -9 " +
                                            std::to_string(before->value("pid", 0)) +
                                            " starts the new one, and loses nothing"};
    if (!reply) return reply.error();
    const auto names = served(*before);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(attach_seconds);
    while (std::chrono::steady_clock::now() < deadline) {
        const auto now = ports.call(instance, Json{{"command", "list"}}, attach_seconds);
        if (now && now->value("pid", 0) != before->value("pid", 0)) {
            const auto there = served(*now);
            if (std::includes(there.begin(), there.end(), names.begin(), names.end())) return ok();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return Error{Code::io, "the successor does not serve all disks after " + std::to_string(attach_seconds) +
                               " seconds; its log says why (" + control::log_path(instance) + " or the journal)"};
}

}  // namespace

Result<std::string> attach_disk(const Ports& ports, const AttachOptions& options) {
    auto spec = parse_spec(options.spec);
    if (!spec) return spec.error();
    std::error_code error;
    spec->path = std::filesystem::absolute(spec->path, error).string();
    if (error) return system_error("cannot find the working directory", error.value());
    if (auto status = check_dm_name(options.name); !status) return status.error();
    const std::string instance = instance_of(options.name);
    if (auto status = control::check_instance(instance); !status) return status.error();
    Json request{{"command", "add"},
                 {"spec", spec->text()},
                 {"mode", options.read_only ? "r" : "w"},
                 {"name", options.name},
                 {"user", instance}};
    if (!options.on_full.empty()) request["on_full"] = options.on_full;
    const auto reply = ports.call_ensured(instance, request, attach_seconds);
    if (!reply) return reply.error();
    return reply->value("device", "/dev/mapper/" + options.name);
}

Result<Detached> detach_disk(const Ports& ports, const std::string& name) {
    const std::string instance = instance_of(name);
    if (auto status = control::check_instance(instance); !status) return status.error();
    const Json request{{"command", "remove"}, {"user", instance}};
    const auto states = ports.states(nullptr);
    const bool known = std::any_of(states.begin(), states.end(),
                                   [&](const control::DiskState& state) { return state.instance == instance; });
    // With a state there is something to commit, also where the mapper was killed.
    const auto reply =
        known ? ports.call_ensured(instance, request, attach_seconds) : ports.call(instance, request, attach_seconds);
    if (!reply && reply.error().code == Code::not_found)
        return Error{Code::not_found, "nothing is attached as '" + name + "' (xen-dmu list shows what is)"};
    if (!reply) return reply.error();
    return reply->value("pending", false) ? Detached::when_closed : Detached::now;
}

Result<unsigned> commit_disks(const Ports& ports, const std::optional<std::string>& which) {
    const auto instances = instances_of(ports, which);
    if (!instances) return instances.error();
    for (const auto& instance : *instances) {
        const auto reply = ports.call(instance, Json{{"command", "commit"}}, attach_seconds);
        if (!reply) return reply.error().in(instance);
    }
    return static_cast<unsigned>(instances->size());
}

Result<unsigned> restart_mappers(const Ports& ports, const std::optional<std::string>& which) {
    const auto instances = instances_of(ports, which);
    if (!instances) return instances.error();
    for (const auto& instance : *instances) {
        if (auto done = restart_mapper(ports, instance); !done) return done.error().in(instance);
    }
    return static_cast<unsigned>(instances->size());
}

}  // namespace dmu
