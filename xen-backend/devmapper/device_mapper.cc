// SPDX-License-Identifier: GPL-2.0-or-later
#include "device_mapper.h"

#include <algorithm>
#include <cstring>

#include "dm_task.h"
#include "kernel_log.h"
#include "logon_key.h"

namespace dmu {
namespace {

constexpr std::size_t name_max = 127, uuid_max = 128;

std::string device(const std::string& name) {
    return "device-mapper device '" + name + "'";
}

Error not_there(const std::string& name) {
    return {Code::not_found, "there is no " + device(name)};
}

DmInfo take_info(dm_task* task, const dm_info& raw) {
    const auto text = [](const char* value) { return std::string(value == nullptr ? "" : value); };
    DmInfo info;
    info.name = text(dm_task_get_name(task));
    info.uuid = text(dm_task_get_uuid(task));
    info.path = std::string(dm_dir()) + "/" + info.name;
    info.major = raw.major;
    info.minor = raw.minor;
    info.open_count = static_cast<unsigned>(std::max(raw.open_count, 0));
    info.suspended = raw.suspended != 0;
    info.read_only = raw.read_only != 0;
    info.has_table = raw.live_table != 0;
    return info;
}

class LibDeviceMapper final : public DeviceMapper {
public:
    LibDeviceMapper() { prepare_library(); }

    Result<DmInfo> create(const std::string& name, const std::string& uuid, const DmTable& table) override;
    Result<DmInfo> create_with_secret(const std::string& name, const std::string& uuid, const DmTable& table,
                                      const DmSecret& secret) override;
    Status remove(const std::string& name, bool retry) override;
    Status remove_deferred(const std::string& name) override;
    Status reload(const std::string& name, const DmTable& table) override;
    Status suspend(const std::string& name, bool noflush) override;
    Status resume(const std::string& name) override;
    Status message(const std::string& name, const std::string& text) override;
    Result<DmInfo> info(const std::string& name) override { return look("name", name, ""); }
    Result<DmInfo> info_by_uuid(const std::string& uuid) override { return look("uuid", "", uuid); }
    Result<std::vector<DmInfo>> list(const std::string& uuid_prefix) override;
    Result<std::string> status(const std::string& name) override;

private:
    Result<DmInfo> look(const std::string& by, const std::string& name, const std::string& uuid);
    Status load(const std::string& name, const DmTable& table);
    Error explain(Error error, const DmTable& table, const KernelLog& log);
    Result<std::vector<std::string>> targets();
};

Result<DmInfo> LibDeviceMapper::look(const std::string& by, const std::string& name, const std::string& uuid) {
    const std::string& value = name.empty() ? uuid : name;
    DmInfo info;
    bool exists = false;
    const Status done = run_task({.type = DM_DEVICE_INFO,
                                  .what = "cannot look at the device-mapper device of " + by + " '" + value + "'",
                                  .name = name,
                                  .uuid = uuid,
                                  .take = [&](dm_task* task) {
                                      dm_info raw{};
                                      exists = dm_task_get_info(task, &raw) && raw.exists;
                                      if (exists) info = take_info(task, raw);
                                  }});
    if (!done) return done.error();
    if (!exists) return Error{Code::not_found, "there is no device-mapper device of " + by + " '" + value + "'"};
    return info;
}

// A device that exists but was not finished is taken away again.
Result<DmInfo> LibDeviceMapper::create(const std::string& name, const std::string& uuid, const DmTable& table) {
    if (Status good = check_dm_name(name); !good) return good.error();
    if (uuid.size() > uuid_max)
        return Error{Code::invalid, "the uuid '" + uuid + "' of " + device(name) + " is longer than " +
                                        std::to_string(uuid_max) + " bytes"};
    if (Status made =
            run_task({.type = DM_DEVICE_CREATE, .what = "cannot create " + device(name), .name = name, .uuid = uuid});
        !made) {
        Error error = made.error();
        if (error.code == Code::busy) error.message += "; a device with this name or uuid exists already";
        return error;
    }
    Status done = load(name, table);
    if (done) done = resume(name);
    Result<DmInfo> made = done ? info(name) : Result<DmInfo>(done.error());
    if (made) return made;
    Error error = made.error();
    if (const Status gone = remove(name, true); !gone) error.message += "; then: " + gone.error().message;
    return error;
}

Result<DmInfo> LibDeviceMapper::create_with_secret(const std::string& name, const std::string& uuid,
                                                   const DmTable& table, const DmSecret& secret) {
    const auto key = LogonKey::add(secret.description, secret.bytes);
    if (!key) return key.error().in("making " + device(name));
    return create(name, uuid, table);
}

Status LibDeviceMapper::load(const std::string& name, const DmTable& table) {
    const KernelLog log;
    const Status done = run_task({.type = DM_DEVICE_RELOAD,
                                  .what = "cannot load the table '0 " + std::to_string(table.sectors) + " " +
                                          table.target + " " + table.parameters + "' into " + device(name),
                                  .name = name,
                                  .prepare = [&](dm_task* task) {
                                      if (table.read_only && !dm_task_set_ro(task)) return false;
                                      return dm_task_add_target(task, 0, table.sectors, table.target.c_str(),
                                                                table.parameters.c_str()) != 0;
                                  }});
    return done ? ok() : explain(done.error(), table, log);
}

// EINVAL has many causes; the kernel's list of targets and its log tell which.
Error LibDeviceMapper::explain(Error error, const DmTable& table, const KernelLog& log) {
    const Result<std::vector<std::string>> known = targets();
    if (known && std::find(known->begin(), known->end(), table.target) == known->end()) {
        error.code = Code::not_found;
        error.message += "; the kernel knows no target type '" + table.target + "': its module dm-" + table.target +
                         " is not loaded; load it with: modprobe dm-" + table.target;
        return error;
    }
    const std::string said = log.since();
    if (!said.empty()) error.message += "; the kernel said: " + said;
    return error;
}

Result<std::vector<std::string>> LibDeviceMapper::targets() {
    std::vector<std::string> names;
    const auto take = [&](dm_task* task) {
        const dm_versions* version = dm_task_get_versions(task);
        while (version != nullptr) {
            names.emplace_back(version->name);
            if (version->next == 0) break;
            version = reinterpret_cast<const dm_versions*>(reinterpret_cast<const char*>(version) + version->next);
        }
    };
    const Status done = run_task(
        {.type = DM_DEVICE_LIST_VERSIONS, .what = "cannot list the targets that the kernel knows", .take = take});
    if (!done) return done.error();
    return names;
}

Status LibDeviceMapper::remove(const std::string& name, bool retry) {
    return run_task({.type = DM_DEVICE_REMOVE,
                     .what = "cannot remove " + device(name),
                     .name = name,
                     .cookie = true,
                     .prepare = [&](dm_task* task) { return !retry || dm_task_retry_remove(task); }});
}

Status LibDeviceMapper::remove_deferred(const std::string& name) {
    return run_task({.type = DM_DEVICE_REMOVE,
                     .what = "cannot have " + device(name) + " removed at its last close",
                     .name = name,
                     .cookie = true,
                     .prepare = [](dm_task* task) { return dm_task_deferred_remove(task) != 0; }});
}

Status LibDeviceMapper::reload(const std::string& name, const DmTable& table) {
    return load(name, table);
}

Status LibDeviceMapper::suspend(const std::string& name, bool noflush) {
    return run_task(
        {.type = DM_DEVICE_SUSPEND,
         .what = "cannot suspend " + device(name),
         .name = name,
         .prepare = [&](dm_task* task) { return !noflush || (dm_task_no_flush(task) && dm_task_skip_lockfs(task)); }});
}

Status LibDeviceMapper::resume(const std::string& name) {
    return run_task({.type = DM_DEVICE_RESUME, .what = "cannot resume " + device(name), .name = name, .cookie = true});
}

Status LibDeviceMapper::message(const std::string& name, const std::string& text) {
    return run_task({.type = DM_DEVICE_TARGET_MSG,
                     .what = "cannot send the message '" + text + "' to " + device(name),
                     .name = name,
                     .prepare = [&](dm_task* task) {
                         return dm_task_set_sector(task, 0) && dm_task_set_message(task, text.c_str());
                     }});
}

Result<std::vector<DmInfo>> LibDeviceMapper::list(const std::string& uuid_prefix) {
    std::vector<std::string> names;
    const auto take = [&](dm_task* task) {
        const dm_names* entry = dm_task_get_names(task);
        // A list of no devices has one entry without a device.
        while (entry != nullptr && entry->dev != 0) {
            names.emplace_back(entry->name);
            if (entry->next == 0) break;
            entry = reinterpret_cast<const dm_names*>(reinterpret_cast<const char*>(entry) + entry->next);
        }
    };
    const Status done =
        run_task({.type = DM_DEVICE_LIST, .what = "cannot list the device-mapper devices", .take = take});
    if (!done) return done.error();
    std::vector<DmInfo> devices;
    for (const std::string& name : names) {
        const Result<DmInfo> found = info(name);
        if (!found && found.error().code == Code::not_found) continue;  // gone meanwhile
        if (!found) return found.error();
        if (found->uuid.compare(0, uuid_prefix.size(), uuid_prefix) == 0) devices.push_back(*found);
    }
    return devices;
}

Result<std::string> LibDeviceMapper::status(const std::string& name) {
    std::string line;
    bool exists = false;
    const auto take = [&](dm_task* task) {
        dm_info raw{};
        std::uint64_t start = 0, length = 0;
        char *type = nullptr, *parameters = nullptr;
        exists = dm_task_get_info(task, &raw) && raw.exists;
        if (!exists) return;
        dm_get_next_target(task, nullptr, &start, &length, &type, &parameters);
        if (parameters != nullptr) line = parameters;
    };
    // Without a flush: the target is asked as it is.
    const Status done = run_task({.type = DM_DEVICE_STATUS,
                                  .what = "cannot read the status of " + device(name),
                                  .name = name,
                                  .prepare = [](dm_task* task) { return dm_task_no_flush(task) != 0; },
                                  .take = take});
    if (!done) return done.error();
    if (!exists) return not_there(name);
    return line;
}

}  // namespace

Status check_dm_name(const std::string& name) {
    constexpr const char* allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789#+-.:=@_";
    const std::string who = "the name '" + name + "' of a device-mapper device ";
    if (name.empty() || name.size() > name_max)
        return Error{Code::invalid, who + "must have 1 to " + std::to_string(name_max) + " bytes"};
    if (name == "." || name == ".." || name == "control") return Error{Code::invalid, who + "is taken"};
    const auto bad = name.find_first_not_of(allowed);
    if (bad != std::string::npos) return Error{Code::invalid, who + "may have letters, digits and #+-.:=@_ only"};
    return ok();
}

std::unique_ptr<DeviceMapper> open_device_mapper() {
    return std::make_unique<LibDeviceMapper>();
}

}  // namespace dmu
