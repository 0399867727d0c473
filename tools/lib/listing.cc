// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/listing.h"

#include <algorithm>
#include <set>

#include "tools/lib/vdev.h"
#include "xen-backend/control/crypt_devices.h"

namespace dmu {
namespace {

using control::DiskState;
using control::Json;

constexpr char run_gc[] = "run 'xen-dmu gc'";

// Text of a member that may be missing or of another type.
std::string text_of(const Json& object, const char* member) {
    const auto found = object.find(member);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// Its own, or one of those that encrypt.
bool has_device(const DiskState& state, const std::string& uuid) {
    if (state.uuid == uuid) return true;
    const auto others = control::crypt_devices(state);
    return std::any_of(others.begin(), others.end(), [&](const auto& device) { return device.uuid == uuid; });
}

class Collector {
public:
    Collector(const Ports& ports, unsigned seconds) : ports_(ports), seconds_(seconds) {}

    Listing run() {
        states_ = ports_.states(&problems_);
        std::set<std::string> instances;
        for (const auto& instance : ports_.instances()) instances.insert(instance);
        for (const auto& instance : instances) ask(instance);
        for (const auto& problem : problems_)
            listing_.stale.push_back({StaleKind::file, problem, "", "", "", "a state file cannot be read: " + problem,
                                      "look at it; its disk can't be taken over"});
        devices();
        for (const auto& state : states_) examine(state);
        return std::move(listing_);
    }

private:
    void ask(const std::string& instance) {
        const auto reply = ports_.call(instance, Json{{"command", "list"}}, seconds_);
        if (reply) {
            answered_.insert(instance);
            const auto disks = reply->value("disks", Json::array());
            for (const auto& disk : disks) add_disk(instance, reply->value("pid", 0), disk);
            return;
        }
        // A socket that a killed mapper left says nothing by itself: the states tell.
        if (reply.error().code == Code::not_found) return;
        silent_.insert(instance);
        const pid_t pid = ports_.mapper_pid(instance);
        listing_.stale.push_back({StaleKind::mapper, instance, instance, "", "",
                                  "the mapper " + instance + (pid ? " (pid " + std::to_string(pid) + ")" : "") +
                                      " does not answer: " + reply.error().message,
                                  "look at its log; 'kill -9' of it is safe, a successor carries on"});
    }

    void add_disk(const std::string& instance, pid_t pid, const Json& facts) {
        ListedDisk disk;
        disk.instance = instance;
        disk.mapper_pid = pid;
        disk.facts = facts;
        listed_keys_.insert(text_of(facts, "key"));
        for (const auto& user : facts.value("users", Json::array())) {
            if (!user.is_string()) continue;
            const auto place = parse_backend_path(user.get<std::string>());
            if (!place) continue;
            if (disk.vdev.empty()) disk.vdev = vdev_name(place->device);
            check_user(facts, instance, user.get<std::string>());
        }
        if (instance.starts_with("dom-")) {
            disk.domain = static_cast<unsigned>(std::strtoul(instance.c_str() + 4, nullptr, 10));
            disk.domain_name = domain_name(*disk.domain);
        }
        listing_.disks.push_back(std::move(disk));
    }

    std::string domain_name(unsigned domain) {
        if (!ports_.xenstore) return "";
        auto name = ports_.xenstore->read("/local/domain/" + std::to_string(domain) + "/name");
        return name ? *name : "";
    }

    void check_user(const Json& facts, const std::string& instance, const std::string& user) {
        if (!ports_.xenstore) return;
        const auto there = ports_.xenstore->exists(user);
        if (!there || *there) return;
        listing_.stale.push_back(
            {StaleKind::user, text_of(facts, "name"), instance, text_of(facts, "key"), user,
             text_of(facts, "name") + " is attached for " + user + ", which xenstore no longer has", run_gc});
    }

    void devices() {
        auto found = ports_.devices->list();
        if (!found) {
            if (found.error().code != Code::not_found)
                listing_.notes.push_back("device-mapper was not asked: " + found.error().message);
            return;
        }
        devices_known_ = true;
        std::stable_sort(found->begin(), found->end(), [](const DmInfo& a, const DmInfo& b) {
            return control::removal_rank(a.uuid) < control::removal_rank(b.uuid);
        });
        for (const auto& device : *found) {
            devices_.insert(device.uuid);
            const bool named = std::any_of(states_.begin(), states_.end(),
                                           [&](const DiskState& state) { return has_device(state, device.uuid); });
            const std::string key = device.uuid.substr(std::min<std::size_t>(4, device.uuid.size()));
            // A mapper that is just making it has its state written first; one that lists it knows it.
            if (named || listed_keys_.contains(key)) continue;
            listing_.stale.push_back({StaleKind::device, device.name, "", key, "",
                                      "the device " + device.path + " has neither a state nor a mapper" +
                                          (device.open_count ? ", and is open" : ""),
                                      device.open_count ? "stop what uses it, then " + std::string(run_gc) : run_gc});
        }
    }

    void examine(const DiskState& state) {
        // A silent mapper is named already, and may well serve it.
        if (listed_keys_.contains(state.key) || silent_.contains(state.instance)) return;
        // It answers and does not list the disk: it is being attached or removed.
        if (answered_.contains(state.instance)) return;
        if (ports_.mapper_pid(state.instance) != 0) return;
        const bool lost = devices_known_ && std::none_of(devices_.begin(), devices_.end(),
                                                         [&](const auto& uuid) { return has_device(state, uuid); });
        listing_.stale.push_back(
            {lost ? StaleKind::lost_state : StaleKind::state, state.name, state.instance, state.key, "",
             lost ? "the state of " + state.name + " (" + state.spec + ") has neither a device nor a mapper"
                  : state.name + " (" + state.spec + ") has no mapper: its guest waits",
             run_gc});
    }

    const Ports& ports_;
    unsigned seconds_;
    Listing listing_;
    std::vector<DiskState> states_;
    std::vector<std::string> problems_;
    std::set<std::string> answered_, silent_, listed_keys_, devices_;
    bool devices_known_ = false;
};

}  // namespace

const char* stale_kind_name(StaleKind kind) {
    switch (kind) {
        case StaleKind::state:
            return "state";
        case StaleKind::lost_state:
            return "lost-state";
        case StaleKind::device:
            return "device";
        case StaleKind::mapper:
            return "mapper";
        case StaleKind::user:
            return "user";
        case StaleKind::file:
            return "file";
    }
    return "unknown";
}

Listing collect_listing(const Ports& ports, unsigned seconds) {
    return Collector(ports, seconds).run();
}

}  // namespace dmu
