// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/attach.h"

#include <algorithm>
#include <filesystem>
#include <set>

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
    std::set<std::string> instances;
    const Listing listing = collect_listing(ports);
    for (const auto& disk : listing.disks)
        if (!which || matches(disk, *which)) instances.insert(disk.instance);
    if (which && instances.empty())
        return Error{Code::not_found, "no attached disk, domain or instance is called '" + *which + "'"};
    for (const auto& instance : instances) {
        const auto reply = ports.call(instance, Json{{"command", "commit"}}, attach_seconds);
        if (!reply) return reply.error().in(instance);
    }
    return static_cast<unsigned>(instances.size());
}

}  // namespace dmu
