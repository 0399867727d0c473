// SPDX-License-Identifier: GPL-2.0-or-later
// Removing disks, and finishing.
#include "xen-backend/mapper/device_steps.h"
#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/mapper.h"

namespace dmu {
namespace {

constexpr std::chrono::milliseconds removal_interval{100};
constexpr std::chrono::milliseconds slow_removal_interval{1000};
// After this a remove is answered as pending: within what a hotplug script may take.
constexpr std::chrono::seconds removal_patience{3};
constexpr std::chrono::milliseconds idle_grace{2000};

}  // namespace

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
    std::vector<std::string> keys = {one.state.key};
    for (const auto& file : one.state.files) {
        if (file.encrypted)
            keys.push_back(control::crypt_names(one.state.name, one.state.key, file.layer, file.file).base_key);
    }
    for (const std::string& key : keys) {
        auto channel = kernel_.attach(key, false);
        if (!channel) continue;
        if (Status set = (*channel)->set_fail(true); !set) log_error(set.error().message);
    }
}

void Mapper::try_removal(Attachment& one) {
    one.timer = 0;
    dm_thread_.post(
        [this, devices = devices_, alive = alive_, id = one.id, name = one.state.name, uuid = one.state.uuid] {
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
        remove_remains(one);
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
    answer(one->adders,
           control::error_reply({Code::busy, one->state.name + " was not attached: the mapper is stopping"}));
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
