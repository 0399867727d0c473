// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cstdio>

#include "xen-backend/mapper/log.h"
#include "xen-backend/mapper/mapper.h"

namespace dmu {
namespace {

Result<std::string> text_of(const control::Json& request, const char* key) {
    auto found = request.find(key);
    if (found == request.end() || !found->is_string() || found->get_ref<const std::string&>().empty()) {
        return Error{Code::invalid, std::string("the request lacks \"") + key + "\", a string"};
    }
    return found->get<std::string>();
}

// The domain and its stubdomain share a device; two disks of one domain do not.
bool may_share(const std::vector<std::string>& users, const std::string& user) {
    unsigned domain, device, other_domain, other_device;
    if (!parse_backend_user(user, domain, device)) return false;
    return std::all_of(users.begin(), users.end(), [&](const std::string& other) {
        return parse_backend_user(other, other_domain, other_device) && other_domain != domain &&
               other_device == device;
    });
}

}  // namespace

// "qcow;on-full=error:/p": what is the mapper's is not the format's.
Status take_own_options(ImageSpec& spec, Config& config) {
    for (auto option = spec.options.begin(); option != spec.options.end();) {
        const auto where = "the specification " + spec.text();
        if (option->first == "on-full") {
            auto policy = parse_on_full(option->second);
            if (!policy) return policy.error().in(where);
            config.on_full = *policy;
        } else if (option->first == "lease-ahead") {
            auto policy = parse_lease_ahead(option->second);
            if (!policy) return policy.error().in(where);
            config.lease_ahead = *policy;
        } else {
            ++option;
            continue;
        }
        option = spec.options.erase(option);
    }
    return ok();
}

bool parse_backend_user(const std::string& user, unsigned& domain, unsigned& device) {
    int used = 0;
    std::size_t at = user.find("backend/vbd/");
    if (at == std::string::npos || (at != 0 && user[at - 1] != '/')) return false;
    return std::sscanf(user.c_str() + at, "backend/vbd/%u/%u%n", &domain, &device, &used) == 2 &&
           at + static_cast<std::size_t>(used) == user.size();
}

// The numbers are those of Xen's xen-vbd-interface(7).
std::string vdev_name(unsigned device) {
    unsigned disk = 0, partition = 0;
    if (device >> 28) {
        disk = (device >> 8) & 0xfffff;
        partition = device & 0xff;
    } else if (device >> 8 == 202) {
        disk = (device & 0xff) >> 4;
        partition = device & 0xf;
    } else {
        return std::to_string(device);
    }
    std::string letters;
    for (unsigned rest = disk + 1; rest != 0; rest = (rest - 1) / 26) {
        letters.insert(letters.begin(), static_cast<char>('a' + (rest - 1) % 26));
    }
    return "xvd" + letters + (partition ? std::to_string(partition) : "");
}

void Mapper::handle(const Json& request, Reply reply) {
    auto command = text_of(request, "command");
    if (!command) return reply(control::error_reply(command.error()));
    if (*command == "add") return add(request, reply);
    if (*command == "remove") return remove(request, reply);
    if (*command == "commit") return commit(reply);
    if (*command == "restart") return restart(reply);
    if (*command == "list") return reply(list());
    if (*command == "ping") return reply(control::ok_reply());
    if (*command == "stop") {
        reply(control::ok_reply());
        return stop();
    }
    reply(control::error_reply({Code::unsupported, "unknown command '" + *command + "'"}));
}

Status Mapper::check_add(const Json& request, Attachment& wanted) const {
    auto spec_text = text_of(request, "spec");
    if (!spec_text) return spec_text.error();
    auto mode = text_of(request, "mode");
    if (!mode) return mode.error();
    auto name = text_of(request, "name");
    if (!name) return name.error();
    auto user = text_of(request, "user");
    if (!user) return user.error();
    if (*mode != "w" && *mode != "r") return Error{Code::invalid, "the mode is 'w' or 'r', not '" + *mode + "'"};
    if (Status named = check_dm_name(*name); !named) return named;
    auto spec = parse_spec(*spec_text);
    if (!spec) return spec.error();
    wanted.state.spec = spec->text();
    auto config = read_config(config_path());
    if (!config) return config.error();
    if (Status taken = take_own_options(*spec, *config); !taken) return taken;
    if (request.contains("on_full")) {
        auto text = text_of(request, "on_full");
        if (!text) return text.error();
        auto policy = parse_on_full(*text);
        if (!policy) return policy.error();
        config->on_full = *policy;
    }
    wanted.spec = *spec;
    wanted.config = *config;
    wanted.state.instance = instance_;
    wanted.state.name = *name;
    wanted.state.writable = *mode == "w";
    wanted.state.on_full = on_full_name(config->on_full);
    wanted.state.wait_seconds = config->wait_seconds;
    wanted.state.commit_seconds = config->commit_seconds;
    wanted.state.users = {*user};
    return ok();
}

void Mapper::add(const Json& request, const Reply& reply) {
    if (stopping_ || done_) return reply(control::error_reply({Code::busy, "the mapper is stopping; try again"}));
    auto one = std::make_unique<Attachment>();
    if (Status checked = check_add(request, *one); !checked) return reply(control::error_reply(checked.error()));
    if (add_to_existing(*one, reply)) return;
    one->id = next_id_++;
    one->adders.push_back(reply);
    Attachment& kept = *one;
    attachments_.emplace(one->id, std::move(one));
    begin(kept);
}

// Whether there is a device of that name, or one to share: then it is answered.
bool Mapper::add_to_existing(const Attachment& wanted, const Reply& reply) {
    const std::string& user = wanted.state.users.front();
    auto is_same = [&](const Attachment& one) {
        return one.state.spec == wanted.state.spec && one.state.writable == wanted.state.writable;
    };
    Attachment* found = find_name(wanted.state.name);
    if (found && !is_same(*found)) {
        reply(control::error_reply(
            {Code::busy, "the name " + wanted.state.name + " is in use for " + found->state.spec}));
        return true;
    }
    for (auto& [id, one] : attachments_) {
        if (!found && is_same(*one) && may_share(one->state.users, user)) found = one.get();
    }
    if (!found) return false;
    Stage stage = found->stage;
    if (stage == Stage::removing || stage == Stage::closing || stage == Stage::undoing || stage == Stage::leaving) {
        reply(control::error_reply(
            {Code::busy, found->state.name + " is still being removed (somebody may have it " + "open); try again"}));
        return true;
    }
    if (std::find(found->state.users.begin(), found->state.users.end(), user) == found->state.users.end()) {
        found->state.users.push_back(user);
        if (stage == Stage::active || stage == Stage::orphaned) save(*found);
        if (stage == Stage::active) watch_users(*found);
    }
    if (stage == Stage::active) {
        reply(added_reply(*found));
    } else if (stage == Stage::orphaned) {
        reply(control::error_reply(found->failure));
    } else {
        found->adders.push_back(reply);
    }
    return true;
}

void Mapper::remove(const Json& request, const Reply& reply) {
    auto user = text_of(request, "user");
    if (!user) return reply(control::error_reply(user.error()));
    // Also for who asks again, or after the watch was faster.
    Attachment* waits_for = nullptr;
    for (auto& [id, one] : attachments_) {
        const auto& users = one->state.users;
        const auto& former = one->former_users;
        bool last = users.size() == 1 && users.front() == *user;
        bool going = users.empty() && std::find(former.begin(), former.end(), *user) != former.end();
        if (last || going) waits_for = one.get();
    }
    if (waits_for) waits_for->removers.push_back(reply);
    std::vector<std::uint64_t> ids;
    for (auto& [id, one] : attachments_) ids.push_back(id);
    for (std::uint64_t id : ids) {
        if (Attachment* one = find(id)) drop_user(*one, *user);
    }
    if (!waits_for) reply(control::ok_reply());
}

// Answers when the last disk has committed; with the first error.
void Mapper::commit(const Reply& reply) {
    struct Count {
        std::size_t left = 1;
        Status result = ok();
    };
    auto count = std::make_shared<Count>();
    auto done = [count, reply](const Status& result) {
        if (!result && count->result) count->result = result;
        if (--count->left == 0) {
            reply(count->result ? control::ok_reply() : control::error_reply(count->result.error()));
        }
    };
    for (auto& [id, one] : attachments_) {
        if (one->stage != Stage::active) continue;
        ++count->left;
        one->disk->commit([this, alive = alive_, done](const Status& result) {
            loop_.post([alive, done, result] {
                if (*alive) done(result);
            });
        });
    }
    done(ok());
}

// Commits, so that little is handed over, answers, and ends without taking anything down.
void Mapper::restart(const Reply& reply) {
    if (stopping_ || done_) return reply(control::error_reply({Code::busy, "the mapper is stopping"}));
    for (const auto& [id, one] : attachments_) {
        if (one->stage == Stage::active || one->stage == Stage::orphaned) continue;
        return reply(
            control::error_reply({Code::busy, one->state.name + " is just being attached or removed; try again"}));
    }
    commit([this, reply](const Json& committed) {
        if (!committed.value("ok", false)) return reply(committed);
        if (done_) return reply(control::error_reply({Code::busy, "the mapper is stopping"}));
        log_notice("making way for a successor");
        wants_successor_ = done_ = true;
        reply(control::ok_reply());
        loop_.post(finished_);
    });
}

}  // namespace dmu
