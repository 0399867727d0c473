// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/gc.h"

#include <set>

#include "xen-backend/control/crypt_devices.h"

namespace dmu {
namespace {

using control::Json;

constexpr unsigned answer_seconds = 25;

Status status_of(const Result<Json>& reply) {
    if (!reply) return reply.error();
    return ok();
}

Status remove_device(const Ports& ports, const std::string& name) {
    // I/O that waits for a mapper would keep the device for ever.
    const auto info = ports.devices->info(name);
    if (info && info->open_count) return Error{Code::busy, "it is open; stop what uses it first"};
    // Of a crypt device it is the one below that can wait.
    if (info && !control::is_crypt(info->uuid)) (void)ports.devices->message(name, "fail");
    return ports.devices->remove(name, true);
}

// One mapper serves all disks of its instance: once is enough.
class Collector {
public:
    Collector(const Ports& ports, bool dry_run) : ports_(ports), dry_run_(dry_run) {}

    std::vector<GcStep> run() {
        bool recovered = false;
        for (const auto& item : collect_listing(ports_).stale) recovered |= handle(item) == StaleKind::state;
        // Their successors tell now whose backends are gone.
        if (recovered && !dry_run_)
            for (const auto& item : collect_listing(ports_).stale)
                if (item.kind == StaleKind::user) handle(item);
        return std::move(steps_);
    }

private:
    StaleKind handle(const StaleItem& item) {
        switch (item.kind) {
            case StaleKind::state:
                if (started_.insert(item.instance).second)
                    step("start a mapper for " + item.instance + " (" + item.name + ")", [&] {
                        return status_of(ports_.call_ensured(item.instance, Json{{"command", "ping"}}, answer_seconds));
                    });
                break;
            case StaleKind::lost_state:
                step("delete the state of " + item.name, [&] { return control::remove_state(item.key); });
                break;
            case StaleKind::device:
                step("remove the device " + item.name, [&] { return remove_device(ports_, item.name); });
                break;
            case StaleKind::user:
                step("detach " + item.name + " from " + item.user, [&] {
                    return status_of(
                        ports_.call(item.instance, Json{{"command", "remove"}, {"user", item.user}}, answer_seconds));
                });
                break;
            case StaleKind::mapper:
            case StaleKind::file:
                steps_.push_back({"left alone: " + item.words, ok()});
                break;
        }
        return item.kind;
    }

    template <typename Work>
    void step(const std::string& words, Work work) {
        steps_.push_back({words, dry_run_ ? ok() : work()});
    }

    const Ports& ports_;
    bool dry_run_;
    std::vector<GcStep> steps_;
    std::set<std::string> started_;
};

}  // namespace

std::vector<GcStep> collect_garbage(const Ports& ports, bool dry_run) {
    return Collector(ports, dry_run).run();
}

}  // namespace dmu
