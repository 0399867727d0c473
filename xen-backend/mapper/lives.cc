// SPDX-License-Identifier: GPL-2.0-or-later
#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/mapper.h"

namespace dmu {
namespace {

constexpr std::chrono::milliseconds removal_interval{100};
constexpr std::chrono::milliseconds slow_removal_interval{1000};
// After this a remove is answered as pending: within what a hotplug script may take.
constexpr std::chrono::seconds removal_patience{3};
constexpr std::chrono::seconds adopt_interval{5};
constexpr std::chrono::milliseconds idle_grace{2000};

// On the DmThread.
Status remove_own_device(DeviceMapper& devices, const std::string& name, const std::string& uuid) {
    auto info = devices.info(name);
    if (!info) return info.error().code == Code::not_found ? ok() : Status(info.error());
    if (info->uuid != uuid) return ok();  // the name is somebody else's by now
    Status removed = devices.remove(name, false);
    return !removed && removed.error().code == Code::not_found ? ok() : removed;
}

// On the DmThread. A device that its maker left without a table is none.
Result<DmInfo> check_adopted_device(DeviceMapper& devices, const std::string& name) {
    auto info = devices.info(name);
    if (!info) return info;
    if (!info->has_table) {
        if (Status removed = devices.remove(name, true); !removed) return removed.error();
        return Error{Code::not_found, "the device " + name + " had no table"};
    }
    if (info->suspended) {
        if (Status resumed = devices.resume(name); !resumed) return resumed.error();
    }
    return info;
}

}  // namespace

Mapper::Mapper(EventLoop& loop, std::string instance, MapperServices services, std::function<void()> finished)
    : loop_(loop),
      instance_(std::move(instance)),
      kernel_(std::move(services.kernel)),
      devices_(std::move(services.devices)),
      finished_(std::move(finished)),
      watches_(loop, std::move(services.open_xenstore), [this](const std::string& user) { user_vanished(user); }) {}

Mapper::~Mapper() {
    *alive_ = false;
    loop_.cancel(idle_timer_);
    for (auto& [id, one] : attachments_) loop_.cancel(one->timer);
}

Mapper::Attachment* Mapper::find(std::uint64_t id) {
    auto found = attachments_.find(id);
    return found == attachments_.end() ? nullptr : found->second.get();
}

Mapper::Attachment* Mapper::find_name(const std::string& name) {
    for (auto& [id, one] : attachments_) {
        if (one->state.name == name) return one.get();
    }
    return nullptr;
}

void Mapper::answer(std::vector<Reply>& waiting, const Json& reply) {
    std::vector<Reply> taken;
    taken.swap(waiting);
    for (const Reply& one : taken) one(reply);
}

void Mapper::save(const Attachment& one) const {
    if (Status written = control::write_state(one.state); !written) log_error(written.error().message);
}

void Mapper::watch_users(const Attachment& one) {
    unsigned domain, device;
    for (const std::string& user : one.state.users) {
        if (parse_backend_user(user, domain, device)) watches_.add(user);
    }
}

// ------------------------------------------------------------- adding ---

void Mapper::begin(Attachment& one) {
    loop_.cancel(idle_timer_);
    idle_timer_ = 0;
    DiskSetup setup;
    setup.instance = instance_;
    setup.name = one.state.name;
    setup.spec = one.spec;
    setup.writable = one.state.writable;
    setup.config = one.config;
    setup.successor = one.stage == Stage::adopting;
    setup.key = one.state.key;
    setup.files = one.state.files;
    auto back = [this, alive = alive_](auto&& work) {
        loop_.post([work, alive] {
            if (*alive) work();
        });
    };
    Disk::Callbacks callbacks;
    callbacks.opened = [this, back, id = one.id](Result<DiskFacts> result) {
        back([this, id, result] { opened(id, result); });
    };
    callbacks.closed = [this, back, id = one.id](Status result) { back([this, id, result] { closed(id, result); }); };
    one.disk = std::make_unique<Disk>(std::move(setup), kernel_, std::move(callbacks));
}

void Mapper::opened(std::uint64_t id, const Result<DiskFacts>& result) {
    Attachment* one = find(id);
    if (!one) return;
    if (one->stage == Stage::adopting) return adopted(*one, result);
    if (!result) {
        log_error("adding " + one->state.name + ": " + result.error().message);
        answer(one->adders, control::error_reply(result.error()));
        return gone(id);
    }
    one->facts = *result;
    one->state.key = result->key;
    one->state.uuid = "DMU-" + result->key;
    one->state.files = result->files;
    // Before the device: a mapper that dies in between must leave a trace of it.
    if (Status written = control::write_state(one->state); !written) return undo(*one, written.error());
    create_device(*one);
}

void Mapper::create_device(Attachment& one) {
    one.stage = Stage::creating;
    DmTable table;
    table.sectors = one.facts.sectors;
    table.target = "userspace";
    table.parameters = one.facts.table_parameters();
    table.read_only = one.facts.read_only;
    dm_thread_.post([this, devices = devices_, alive = alive_, id = one.id, name = one.state.name,
                     uuid = one.state.uuid, table] {
        auto result = devices->create(name, uuid, table);
        loop_.post([this, alive, id, result] {
            if (*alive) created(id, result);
        });
    });
}

void Mapper::created(std::uint64_t id, const Result<DmInfo>& result) {
    Attachment* one = find(id);
    if (!one) return;
    if (!result) return undo(*one, result.error());
    one->state.major = result->major;
    one->state.minor = result->minor;
    one->state.complete = true;
    save(*one);
    added(*one);
}

void Mapper::undo(Attachment& one, const Error& why) {
    log_error("adding " + one.state.name + ": " + why.message);
    one.failure = why;
    one.stage = Stage::undoing;
    one.disk->close();
}

void Mapper::added(Attachment& one) {
    one.stage = Stage::active;
    one.failure = {};
    log_notice(one.state.name + ": " + one.state.spec + " is attached, " + (one.state.writable ? "writable" : "read-only") +
               ", key " + one.state.key);
    answer(one.adders, added_reply(one));
    if (stopping_) return stop_one(one);
    if (one.state.users.empty()) return begin_removal(one);
    watch_users(one);
}

Mapper::Json Mapper::added_reply(const Attachment& one) const {
    Json reply = control::ok_reply();
    reply["device"] = "/dev/mapper/" + one.state.name;
    reply["major"] = one.state.major;
    reply["minor"] = one.state.minor;
    reply["key"] = one.state.key;
    return reply;
}

// ----------------------------------------------------------- adopting ---

void Mapper::adopt() {
    std::vector<std::string> problems;
    for (const auto& state : control::all_states(&problems)) {
        if (state.instance == instance_) adopt_one(state);
    }
    for (const std::string& problem : problems) log_warning(problem);
}

void Mapper::adopt_one(const control::DiskState& state) {
    auto one = std::make_unique<Attachment>();
    one->id = next_id_++;
    one->stage = Stage::adopting;
    one->state = state;
    auto config = read_config(config_path());
    if (config) {
        one->config = *config;
    } else {
        log_warning(config.error().message + "; taking over with the defaults");
    }
    // What the device was made with goes on, whatever the file says now.
    if (auto policy = parse_on_full(state.on_full)) one->config.on_full = *policy;
    one->config.wait_seconds = state.wait_seconds;
    one->config.commit_seconds = state.commit_seconds;
    auto spec = parse_spec(state.spec);
    if (!spec) {
        log_error("the state of " + state.name + " is not understood: " + spec.error().message);
        return;
    }
    one->spec = *spec;
    Attachment& kept = *one;
    attachments_.emplace(one->id, std::move(one));
    begin(kept);
}

void Mapper::adopted(Attachment& one, const Result<DiskFacts>& result) {
    if (!result && result.error().code == Code::not_found) {
        log_notice(one.state.name + ": the kernel has no such device any more; forgetting it");
        return forget(one);
    }
    if (!result) return orphan(one, result.error());
    one.facts = *result;
    one.state.files = result->files;
    one.stage = Stage::creating;
    dm_thread_.post([this, devices = devices_, alive = alive_, id = one.id, name = one.state.name] {
        auto result = check_adopted_device(*devices, name);
        loop_.post([this, alive, id, result] {
            if (*alive) created(id, result);
        });
    });
}

// What is left of a device whose making was cut short goes, and its state.
void Mapper::forget(Attachment& one) {
    one.stage = Stage::undoing;
    one.disk.reset();
    dm_thread_.post([this, devices = devices_, alive = alive_, id = one.id, name = one.state.name,
                     uuid = one.state.uuid] {
        Status removed = remove_own_device(*devices, name, uuid);
        if (!removed) log_error(removed.error().message);
        loop_.post([this, alive, id] {
            if (*alive) closed(id, ok());
        });
    });
}

// The guest's I/O waits while this goes on, as long as wait-seconds says.
void Mapper::orphan(Attachment& one, const Error& why) {
    if (one.failure.message != why.message) log_error("ALARM " + one.state.name + ": " + why.message);
    one.failure = why;
    one.stage = Stage::orphaned;
    one.disk.reset();
    watch_users(one);
    if (stopping_) return gone(one.id);
    if (one.state.users.empty()) return begin_removal(one);
    one.timer = loop_.after(adopt_interval, [this, &one] {
        one.timer = 0;
        one.stage = Stage::adopting;
        begin(one);
    });
}

// ----------------------------------------------------------- removing ---

void Mapper::user_vanished(const std::string& user) {
    log_notice(user + " is gone from xenstore");
    std::vector<std::uint64_t> ids;
    for (auto& [id, one] : attachments_) ids.push_back(id);
    for (std::uint64_t id : ids) {
        if (Attachment* one = find(id)) drop_user(*one, user);
    }
}

void Mapper::drop_user(Attachment& one, const std::string& user) {
    if (std::erase(one.state.users, user) == 0) return;
    one.former_users.push_back(user);
    watches_.remove(user);
    bool settled = one.stage == Stage::active || one.stage == Stage::orphaned;
    if (!one.state.users.empty()) {
        if (settled) save(one);
    } else if (settled) {
        begin_removal(one);
    }
}

void Mapper::begin_removal(Attachment& one) {
    if (one.stage == Stage::orphaned) {
        loop_.cancel(one.timer);
        fail_waiting_io(one);
    }
    one.stage = Stage::removing;
    one.removing_since = std::chrono::steady_clock::now();
    save(one);
    if (one.disk) one.disk->take_down();
    try_removal(one);
}

// Nobody serves the device: what waits on it would keep it open for ever.
void Mapper::fail_waiting_io(const Attachment& one) {
    auto channel = kernel_.attach(one.state.key, false);
    if (!channel) return;
    if (Status set = (*channel)->set_fail(true); !set) log_error(set.error().message);
}

void Mapper::try_removal(Attachment& one) {
    one.timer = 0;
    dm_thread_.post([this, devices = devices_, alive = alive_, id = one.id, name = one.state.name,
                     uuid = one.state.uuid] {
        Status result = remove_own_device(*devices, name, uuid);
        loop_.post([this, alive, id, result] {
            if (*alive) removal_tried(id, result);
        });
    });
}

void Mapper::removal_tried(std::uint64_t id, const Status& result) {
    Attachment* one = find(id);
    if (!one || (one->stage != Stage::removing && one->stage != Stage::leaving)) return;
    if (result) return close_disk(*one);
    if (one->stage == Stage::leaving) {
        if (!one->disk) return gone(id);
        log_notice(one->state.name + " is in use; leaving it to a successor");
        one->disk->leave();
        return;
    }
    if (result.error().code != Code::busy && one->failure.message != result.error().message) {
        log_error(result.error().message);
        one->failure = result.error();
    }
    bool slow = std::chrono::steady_clock::now() - one->removing_since > removal_patience;
    if (slow && !one->removers.empty()) {
        log_notice(one->state.name + " is still open; it goes as soon as it is closed");
        Json reply = control::ok_reply();
        reply["pending"] = true;
        answer(one->removers, reply);
    }
    one->timer = loop_.after(slow ? slow_removal_interval : removal_interval, [this, one] { try_removal(*one); });
}

void Mapper::close_disk(Attachment& one) {
    if (one.stage != Stage::undoing) one.stage = Stage::closing;
    if (one.disk) {
        one.disk->close();
    } else {
        closed(one.id, ok());
    }
}

void Mapper::closed(std::uint64_t id, const Status& result) {
    Attachment* one = find(id);
    if (!one) return;
    if (one->stage == Stage::leaving) return gone(id);
    if (Status removed = control::remove_state(one->state.key); !removed) log_error(removed.error().message);
    for (const std::string& user : one->state.users) watches_.remove(user);
    bool undone = one->stage == Stage::undoing;
    log_notice(one->state.name + (undone ? ": nothing of it is left" : " is removed"));
    if (undone) answer(one->adders, control::error_reply(one->failure));
    answer(one->removers, result ? control::ok_reply() : control::error_reply(result.error()));
    gone(id);
}

void Mapper::gone(std::uint64_t id) {
    auto found = attachments_.find(id);
    if (found == attachments_.end()) return;
    std::unique_ptr<Attachment> one = std::move(found->second);
    attachments_.erase(found);
    loop_.cancel(one->timer);
    answer(one->adders, control::error_reply({Code::busy, one->state.name + " was not attached: the mapper is stopping"}));
    answer(one->removers, control::ok_reply());
    one.reset();
    if (!attachments_.empty()) return;
    finish_when_idle(stopping_ ? std::chrono::milliseconds(0) : idle_grace);
}

// ---------------------------------------------------------- finishing ---

void Mapper::finish_when_idle(std::chrono::milliseconds grace) {
    if (!attachments_.empty() || done_) return;
    loop_.cancel(idle_timer_);
    idle_timer_ = loop_.after(grace, [this] {
        idle_timer_ = 0;
        if (!attachments_.empty() || done_) return;
        if (!stopping_ && !may_finish()) return finish_when_idle(idle_grace);
        done_ = true;
        finished_();
    });
}

void Mapper::stop() {
    if (stopping_) return;
    stopping_ = true;
    std::vector<std::uint64_t> ids;
    for (auto& [id, one] : attachments_) ids.push_back(id);
    for (std::uint64_t id : ids) {
        if (Attachment* one = find(id)) stop_one(*one);
    }
    if (attachments_.empty()) finish_when_idle(std::chrono::milliseconds(0));
}

void Mapper::stop_one(Attachment& one) {
    switch (one.stage) {
        case Stage::active:
        case Stage::removing:
            loop_.cancel(one.timer);
            one.stage = Stage::leaving;
            try_removal(one);
            break;
        case Stage::orphaned:
            gone(one.id);
            break;
        default:
            break;  // on its way to a stage where it is asked again, or to its end
    }
}

}  // namespace dmu
