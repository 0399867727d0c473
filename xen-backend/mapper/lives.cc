// SPDX-License-Identifier: GPL-2.0-or-later
// Adding disks, and taking over those of a predecessor.
#include "xen-backend/mapper/device_steps.h"
#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/mapper.h"

namespace dmu {
namespace {

constexpr std::chrono::seconds adopt_interval{5};

void take_facts(control::DiskState& state, const DiskFacts& facts) {
    state.key = facts.key;
    state.uuid = "DMU-" + facts.key;
    state.files = facts.files;
}

}  // namespace

Mapper::Mapper(EventLoop& loop, std::string instance, MapperServices services, std::function<void()> finished)
    : loop_(loop),
      instance_(std::move(instance)),
      kernel_(std::move(services.kernel)),
      devices_(std::move(services.devices)),
      finished_(std::move(finished)),
      watches_(loop, std::move(services.open_xenstore), [this](const std::string& user) { user_vanished(user); }) {
    kernel_.with_devices = [this](const std::function<void(DeviceMapper&)>& work) {
        dm_thread_.run([&] { work(*devices_); }).get();
    };
}

Mapper::~Mapper() {
    *alive_ = false;
    loop_.cancel(idle_timer_);
    for (auto& [id, one] : attachments_) loop_.cancel(one->timer);
    // Their threads may be waiting for the DmThread.
    attachments_.clear();
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
    setup.record = [state = one.state](const DiskFacts& facts) mutable {
        take_facts(state, facts);
        return control::write_state(state);
    };
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
    callbacks.files_came = [this, back, id = one.id](const std::vector<control::DiskState::File>& files) {
        back([this, id, files] { files_came(id, files); });
    };
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
    take_facts(one->state, *result);
    // Before the device: a mapper that dies in between must leave a trace of it.
    if (Status written = control::write_state(one->state); !written) return undo(*one, written.error());
    create_device(*one);
}

void Mapper::files_came(std::uint64_t id, const std::vector<control::DiskState::File>& files) {
    Attachment* one = find(id);
    if (!one) return;
    one->state.files = files;
    if (one->stage != Stage::closing && one->stage != Stage::undoing) save(*one);
}

void Mapper::create_device(Attachment& one) {
    one.stage = Stage::creating;
    DmTable table;
    table.sectors = one.facts.sectors;
    table.target = "userspace";
    table.parameters = one.facts.table_parameters();
    table.read_only = one.facts.read_only;
    dm_thread_.post(
        [this, devices = devices_, alive = alive_, id = one.id, name = one.state.name, uuid = one.state.uuid, table] {
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
    log_notice(one.state.name + ": " + one.state.spec + " is attached, " +
               (one.state.writable ? "writable" : "read-only") + ", key " + one.state.key);
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
    auto spec = parse_spec(state.spec);
    if (!spec) {
        log_error("the state of " + state.name + " is not understood: " + spec.error().message);
        return;
    }
    if (Status taken = take_own_options(*spec, one->config); !taken) log_warning(taken.error().message);
    // What the device was made with goes on, whatever the file says now.
    if (auto policy = parse_on_full(state.on_full)) one->config.on_full = *policy;
    one->config.wait_seconds = state.wait_seconds;
    one->config.commit_seconds = state.commit_seconds;
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
    remove_remains(one);
}

// The devices that nobody serves any more, then closed().
void Mapper::remove_remains(const Attachment& one) {
    dm_thread_.post([this, devices = devices_, alive = alive_, id = one.id, state = one.state] {
        Status removed = remove_own_device(*devices, state.name, state.uuid);
        if (removed) removed = remove_crypt_devices(*devices, state);
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

}  // namespace dmu
