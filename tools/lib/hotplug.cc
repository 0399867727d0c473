// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/hotplug.h"

#include <algorithm>
#include <cstdio>

#include "formats/core/spec.h"
#include "tools/lib/vdev.h"

namespace dmu {
namespace {

using control::Json;

constexpr unsigned add_seconds = 28;
constexpr unsigned undo_seconds = 5;
constexpr unsigned remove_seconds = 25;

Result<std::string> read_or(XenstoreView& xenstore, const std::string& path, const std::string& otherwise) {
    auto value = xenstore.read(path);
    if (!value && value.error().code == Code::not_found) return otherwise;
    return value;
}

// A stubdomain's disks belong to the domain that it serves.
Result<std::string> served_domain(XenstoreView& xenstore, unsigned domain) {
    auto target = read_or(xenstore, "/local/domain/" + std::to_string(domain) + "/target", "");
    if (!target) return target;
    const bool number = !target->empty() && std::all_of(target->begin(), target->end(),
                                                        [](unsigned char c) { return c >= '0' && c <= '9'; });
    return number ? *target : std::to_string(domain);
}

struct Wanted {
    std::string instance;
    Json request;
};

Result<Wanted> wanted_disk(XenstoreView& xenstore, const std::string& backend) {
    const auto place = parse_backend_path(backend);
    if (!place)
        return Error{Code::invalid, "XENBUS_PATH is '" + backend +
                                        "', expected backend/vbd/DOMID/DEVID; block-dmu is "
                                        "run by the toolstack only"};
    const auto params = read_or(xenstore, backend + "/params", "");
    if (!params) return params.error();
    if (params->empty())
        return Error{Code::invalid, "the disk has no target (" + backend +
                                        "/params is empty); write "
                                        "script=block-dmu,target=FORMAT:PATH"};
    const auto spec = parse_spec(*params);
    if (!spec) return spec.error();
    if (spec->path.front() != '/')
        return Error{Code::invalid, "the image '" + spec->path + "' is a relative path; write it from / on"};
    const auto mode = read_or(xenstore, backend + "/mode", "w");
    if (!mode) return mode.error();
    if (mode->find('!') != std::string::npos)
        return Error{Code::unsupported, "mode '" + *mode + "' (shared writing) is not possible; use w or r"};
    const auto domain = served_domain(xenstore, place->domain);
    if (!domain) return domain.error();
    return Wanted{"dom-" + *domain, Json{{"command", "add"},
                                         {"spec", spec->text()},
                                         {"mode", mode->starts_with("w") ? "w" : "r"},
                                         {"name", "dmu-" + *domain + "-" + std::to_string(place->device)},
                                         {"user", backend}}};
}

Status publish(XenstoreView& xenstore, const std::string& backend, const Json& reply) {
    char numbers[32];
    std::snprintf(numbers, sizeof numbers, "%x:%x", reply.value("major", 0u), reply.value("minor", 0u));
    // Gone meanwhile: writing would make a backend of nobody.
    if (auto there = xenstore.exists(backend); !there || !*there)
        return there ? Error{Code::not_found, backend + " vanished while the disk was being attached"} : there.error();
    if (auto status = xenstore.write(backend + "/physical-device-path", reply.value("device", "")); !status)
        return status;
    if (auto status = xenstore.write(backend + "/physical-device", numbers); !status) return status;
    return xenstore.write(backend + "/hotplug-status", "connected");
}

// "connected" already, with this very device?
Result<bool> is_published(XenstoreView& xenstore, const std::string& backend, const Json& reply) {
    const auto present = read_or(xenstore, backend + "/physical-device", "");
    if (!present) return present.error();
    if (present->empty()) return false;
    unsigned major = 0, minor = 0;
    if (std::sscanf(present->c_str(), "%x:%x", &major, &minor) == 2 && major == reply.value("major", 0u) &&
        minor == reply.value("minor", 0u))
        return true;
    return Error{Code::busy, backend + " is connected to the device " + *present +
                                 " already, and blkback takes no other one; detach the disk first"};
}

bool uses(const control::DiskState& state, const std::string& user) {
    return std::find(state.users.begin(), state.users.end(), user) != state.users.end();
}

// Code::not_found of a reply or of the call is what "remove" wants.
Status gone(const Result<Json>& reply) {
    if (!reply && reply.error().code != Code::not_found) return reply.error();
    return ok();
}

}  // namespace

Status hotplug_add(const Ports& ports, const std::string& backend) {
    if (!ports.xenstore) return Error{Code::not_found, "xenstored does not answer; is this a Xen host?"};
    auto& xenstore = *ports.xenstore;
    const auto wanted = wanted_disk(xenstore, backend);
    if (!wanted) return wanted.error();
    const auto before = xenstore.exists(backend + "/physical-device");
    if (!before) return before.error();
    const bool in_use = *before;

    const Json undo{{"command", "remove"}, {"user", backend}};
    const auto reply = ports.call_ensured(wanted->instance, wanted->request, add_seconds);
    if (!reply) {
        // The answer may have come too late; a disk that was connected before is not ours to undo.
        if (!in_use) (void)ports.call(wanted->instance, undo, undo_seconds);
        return reply.error();
    }
    const auto published = is_published(xenstore, backend, *reply);
    if (published && *published) return xenstore.write(backend + "/hotplug-status", "connected");
    const Status status = published ? publish(xenstore, backend, *reply) : Status(published.error());
    if (!status && !in_use) (void)ports.call(wanted->instance, undo, undo_seconds);
    return status;
}

Status hotplug_remove(const Ports& ports, const std::string& backend) {
    const auto place = parse_backend_path(backend);
    if (!place) return Error{Code::invalid, "XENBUS_PATH is '" + backend + "', expected backend/vbd/DOMID/DEVID"};
    const Json request{{"command", "remove"}, {"user", backend}};
    // The states know best: the domain's own nodes may be gone. A mapper that was killed
    // is started again for this: what its guest wrote last is still to be committed.
    bool found = false;
    Status worst;
    for (const auto& state : ports.states(nullptr)) {
        if (!uses(state, backend)) continue;
        found = true;
        if (auto status = gone(ports.call_ensured(state.instance, request, remove_seconds)); !status) worst = status;
    }
    if (found) return worst;

    std::string domain = std::to_string(place->domain);
    if (ports.xenstore)
        if (auto served = served_domain(*ports.xenstore, place->domain)) domain = *served;
    return gone(ports.call("dom-" + domain, request, remove_seconds));
}

Status report_hotplug_error(XenstoreView& xenstore, const std::string& backend, const Error& error) {
    // Both are read by people: one line, and below xenstore's limit.
    std::string text = error.message.substr(0, 1900);
    std::replace(text.begin(), text.end(), '\n', ' ');
    if (auto there = xenstore.exists(backend); there && !*there) return ok();
    if (auto status = xenstore.write(backend + "/hotplug-error", text); !status) return status;
    return xenstore.write(backend + "/hotplug-status", "error");
}

}  // namespace dmu
