// SPDX-License-Identifier: GPL-2.0-or-later
#include <unistd.h>

#include "xen-backend/mapper/mapper.h"

namespace dmu {
namespace {

// The user that is the guest itself, before its stubdomain.
void add_domain(control::Json& disk, const std::string& instance, const std::vector<std::string>& users) {
    unsigned domain, device;
    disk["domain"] = nullptr;
    disk["vdev"] = nullptr;
    for (const std::string& user : users) {
        if (!parse_backend_user(user, domain, device)) continue;
        bool own = instance == "dom-" + std::to_string(domain);
        if (!own && !disk["domain"].is_null()) continue;
        disk["domain"] = domain;
        disk["vdev"] = vdev_name(device);
    }
}

control::Json percentiles(const std::uint32_t (&microseconds)[3]) {
    return {{"p50", microseconds[0]}, {"p90", microseconds[1]}, {"p99", microseconds[2]}};
}

void add_state(control::Json& disk, const dmu_state& state) {
    disk["hits"] = state.hits_read + state.hits_write;
    disk["hits_read"] = state.hits_read;
    disk["hits_write"] = state.hits_write;
    disk["misses"] = state.misses;
    disk["pending"] = state.pending;
    disk["first_writes"] = state.first_writes;
    disk["leased"] = state.leased * sector_size;
    disk["flushes"] = state.flushes;
    disk["errors"] = state.errors;
    disk["log_entries"] = state.log_entries;
    disk["log_limit"] = state.log_limit;
    disk["sequence"] = state.sequence;
    disk["committed"] = state.committed;
    disk["extents"] = state.extents;
    disk["map_bytes"] = state.map_bytes;
    disk["map_limit"] = state.map_limit;
    disk["forgotten"] = state.forgotten;
    disk["miss_us"] = percentiles(state.miss_us);
    disk["commit_us"] = percentiles(state.commit_us);
}

}  // namespace

Mapper::Json Mapper::list() const {
    Json reply = control::ok_reply();
    reply["pid"] = getpid();
    reply["instance"] = instance_;
    reply["version"] = DMU_PACKAGE_VERSION;
    reply["disks"] = Json::array();
    for (const auto& [id, one] : attachments_) reply["disks"].push_back(describe(*one));
    return reply;
}

Mapper::Json Mapper::describe(const Attachment& one) const {
    static constexpr const char* stages[] = {"opening", "creating", "active",   "removing", "closing",
                                             "undoing", "adopting", "orphaned", "leaving"};
    Json disk;
    disk["name"] = one.state.name;
    disk["uuid"] = one.state.uuid;
    disk["key"] = one.state.key;
    disk["spec"] = one.state.spec;
    disk["format"] = one.spec.format;
    disk["image"] = one.spec.path;
    disk["mode"] = one.state.writable ? "w" : "r";
    disk["stage"] = stages[static_cast<int>(one.stage)];
    disk["users"] = one.state.users;
    disk["device"] = "/dev/mapper/" + one.state.name;
    disk["major"] = one.state.major;
    disk["minor"] = one.state.minor;
    disk["virtual_size"] = one.facts.virtual_size;
    disk["grain"] = one.facts.grain * sector_size;
    disk["encryption"] = encryption_name(one.facts.encryption);
    disk["on_full"] = one.state.on_full;
    disk["chain"] = Json::array();
    for (const auto& file : one.state.files) disk["chain"].push_back(file.path);
    add_domain(disk, instance_, one.state.users);
    add_state(disk, {});
    disk["allocated"] = 0;
    disk["alarms"] = Json::array();
    if (!one.failure.message.empty()) disk["alarms"].push_back(one.failure.message);
    if (!one.disk) return disk;
    DiskFigures figures = one.disk->figures();
    disk["allocated"] = figures.allocated;
    disk["waiting_for_space"] = figures.waiting;
    disk["commits"] = figures.commits;
    for (const std::string& alarm : one.disk->alarms().list()) disk["alarms"].push_back(alarm);
    if (auto state = one.disk->state()) add_state(disk, *state);
    return disk;
}

}  // namespace dmu
