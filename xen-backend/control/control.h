// SPDX-License-Identifier: GPL-2.0-or-later
// How tools and the hotplug script talk to the mappers: where they are, how to start
// one, one request and its reply. All calls block, at most for the time given; none
// throws; every one may be used from any thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "formats/core/result.h"
#include "xen-backend/control/protocol.h"
#include "xen-backend/control/state_file.h"

namespace dmu::control {

// An instance is "dom-<domid>" or "name-<NAME>". Letters, digits and "._-:" only, so
// that it can stand in file names and unit names; at most 100 bytes.
Status check_instance(const std::string& instance);

// /run/xen-dmu, or what XEN_DMU_RUNDIR names.
std::string run_directory();
std::string socket_path(const std::string& instance);
std::string pid_path(const std::string& instance);
// What a mapper that could not start leaves for who wanted it.
std::string failure_path(const std::string& instance);
// The log file where there is no journal: /var/log/xen/xen-dmu-<instance>.log; in the
// run directory where XEN_DMU_RUNDIR is set or /var/log/xen is missing.
std::string log_path(const std::string& instance);

// Instances that have a control socket in the run directory, sorted. A mapper that was
// killed leaves its socket: call() then says Code::not_found.
std::vector<std::string> instances();

// One request and its reply. The reply is the whole object, "ok" true; "ok": false
// comes back as the error that it carries. Code::not_found: no mapper of that instance
// runs. timeout_s: for all of it.
Result<Json> call(const std::string& instance, const Json& request, unsigned timeout_s = 30);

// A mapper of the instance answers when this returns ok: connects, or starts one (by
// systemd where it runs, else a supervised daemon of its own). The error names the
// cause: program missing, module not loaded, what the mapper itself said.
Status ensure_mapper(const std::string& instance, unsigned timeout_s = 20);

// ensure_mapper() and call(); once more where the mapper ended in between. Only for
// requests that may be repeated: "add", "remove", "list", "ping", "commit".
Result<Json> call_ensured(const std::string& instance, const Json& request, unsigned timeout_s = 30);

// The process that the pid file names and that still holds it; 0: none.
pid_t mapper_pid(const std::string& instance);

}  // namespace dmu::control
