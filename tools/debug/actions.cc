// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of a request: the engine's hands.
#include <algorithm>
#include <cstring>

#include "tools/debug/engine.h"
#include "xen-backend/libdmu/dmu.h"

namespace dmu::debug {

// ----------------------------------------------------------------- its data

bool Engine::wants_catching(const Request& request) const {
    if (request.op != Op::write || request.data.store || request.not_caught || request.state == State::catching)
        return false;
    if (request.logged && setup_.data != KeepData::none) return true;
    if (finishing_) return false;
    return std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) {
        return rule.enabled && rule.wants_data() && rule.takes(Op::write) &&
               (!rule.at || rule.at->overlaps(request.range)) && (!rule.size || rule.size->has(request.range.length));
    });
}

// The kernel writes it to a store; it comes back.
void Engine::catch_data(Request& request) {
    Store* store = request.logged && setup_.data == KeepData::full ? setup_.log_store : setup_.memory;
    const auto at = store->reserve(request.range.length);
    if (!at) {
        if (!store_failed_) say("data is not kept from " + request.text() + " on: " + at.error().message);
        store_failed_ = true;
        request.not_caught = true;
        return;
    }
    request.data = {store, *at};
    request.state = State::catching;
    send_below(request, store->destination(), *at, true);
}

void Engine::caught(Request& request, int error) {
    request.state = State::queued;
    if (error) {
        say("the data of " + request.text() + " could not be kept: " + strerrorname_np(error));
        drop_data(request);
        request.not_caught = true;
    } else if (request.logged && request.data.store == setup_.log_store) {
        request.record.data = request.data.at * sector_bytes;
        totals_.bytes_kept += request.range.length * sector_bytes;
        update(request);
    } else if (request.logged && setup_.data == KeepData::hash) {
        if (const auto data = data_of(request)) request.record.hash = hash_of(*data);
        update(request);
    }
    if (const auto go_on = std::move(request.caught)) {
        request.caught = {};
        go_on();
    }
}

Result<std::vector<std::byte>> Engine::data_of(const Request& request) const {
    std::vector<std::byte> data(request.range.length * sector_bytes);
    if (auto status = request.data.store->read(request.data.at, data); !status) return status.error();
    return data;
}

std::vector<std::byte> Engine::data_at_hand(const Request& request) const {
    if (request.op != Op::write || !request.data.store || request.state == State::catching) return {};
    auto data = data_of(request);
    return data ? std::move(*data) : std::vector<std::byte>{};
}

void Engine::drop_data(Request& request) {
    if (request.data.store) request.data.store->release(request.data.at, request.range.length);
    request.data = {};
}

// ------------------------------------------------------------- what is done

void Engine::apply(Request& request, const Action& action) {
    if (action.wants_data() && !request.data.store && !request.not_caught) {
        request.caught = [this, &request, action] { apply(request, action); };
        catch_data(request);
        if (request.state == State::catching) return;
        request.caught = {};
    }
    if (action.wants_data() && !request.data.store) {
        say("without its data the " + request.text() + " goes through");
        go_below(request, Action{});
        return;
    }
    switch (action.what) {
        case Do::drop:
            ++totals_.dropped;
            end(request, Outcome::dropped, 0);
            return;
        case Do::fail:
            ++totals_.failed;
            end(request, Outcome::failed, action.error);
            return;
        case Do::delay:
            delay(request, action.delay);
            return;
        case Do::stop:
            request.stop_after = action.after;
            go_below(request, Action{});
            return;
        default:
            go_below(request, action);
    }
}

void Engine::delay(Request& request, std::chrono::nanoseconds time) {
    ++totals_.delayed;
    request.state = State::delayed;
    request.since = now();
    request.due = request.since + time;
    delayed_.push_back(request.serial);
}

// Something that changes the same sectors is under way, or goes first.
bool Engine::is_blocked(const Request& request) const {
    const auto overlaps = [&](std::uint64_t serial) {
        return serial != request.serial && find(serial)->range.overlaps(request.range);
    };
    return request.writes() &&
           (std::any_of(below_.begin(), below_.end(), overlaps) ||
            std::any_of(blocked_.begin(), blocked_.end(), [&](const auto& entry) { return overlaps(entry.first); }));
}

void Engine::unblock() {
    const auto list = std::exchange(blocked_, {});
    for (const auto& [serial, action] : list) go_below(*find(serial), action);
}

void Engine::go_below(Request& request, const Action& action) {
    request.state = State::below;
    request.since = now();
    if (is_blocked(request)) {
        blocked_.emplace_back(request.serial, action);
        return;
    }
    if (action.what == Do::reorder) {
        hold(request);
        return;
    }
    if (request.writes() && !push_out(request.range)) {
        end(request, Outcome::failed, EIO);
        return;
    }
    if (request.op == Op::flush)
        flush_below(request);
    else if (request.op == Op::read)
        read_below(request, action.what == Do::corrupt ? action.bytes : 0);
    else if (action.what == Do::tear)
        tear(request, action.part);
    else
        send_below(request, setup_.device, request.range.start, true);
}

// returns: it comes back when it is done there.
void Engine::send_below(Request& request, unsigned destination, std::uint64_t physical, bool returns) {
    dmu_command map;
    const unsigned flags = DMU_MAP_ONCE | (returns ? DMU_MAP_RETURN : 0) | (request.writes() ? DMU_MAP_WRITABLE : 0);
    dmu_cmd_map_linear(&map, request.id, request.range.start, request.range.length, destination, physical, flags);
    dmu_cmd_policies(&map, DMU_POLICY_PASS, DMU_POLICY_PASS);
    command(map);
    request.since = now();
    if (returns) sent_[request.id] = request.serial;
    request.id = 0;
    if (destination != setup_.device || request.state != State::below) return;
    if (request.record.order == 0) request.record.order = ++order_;
    if (request.writes()) below_.push_back(request.serial);
}

void Engine::read_below(Request& request, unsigned corrupt) {
    const bool held = std::any_of(held_.begin(), held_.end(),
                                  [&](auto serial) { return find(serial)->range.overlaps(request.range); });
    if (held || corrupt) {
        if (corrupt) ++totals_.corrupted;
        if (const auto status = put_together(request, corrupt); !status) {
            say(status.error().message);
            end(request, Outcome::failed, EIO);
        }
        return;
    }
    const bool returns = request.logged || request.stop_after;
    send_below(request, setup_.device, request.range.start, returns);
    if (!returns) end(request, Outcome::through, 0);
}

// From the device and the held writes, into a place of ours that the kernel reads.
Status Engine::put_together(Request& request, unsigned corrupt) {
    std::vector<std::byte> data(request.range.length * sector_bytes);
    if (auto status = setup_.below->read(request.range.start, data); !status) return status;
    for (const auto serial : held_) {
        const Request& held = *find(serial);
        if (!held.range.overlaps(request.range)) continue;
        const auto bytes = data_of(held);
        if (!bytes) return bytes.error();
        const auto first = std::max(held.range.start, request.range.start);
        const auto last = std::min(held.range.end(), request.range.end());
        std::copy_n(bytes->begin() + static_cast<std::ptrdiff_t>((first - held.range.start) * sector_bytes),
                    (last - first) * sector_bytes,
                    data.begin() + static_cast<std::ptrdiff_t>((first - request.range.start) * sector_bytes));
    }
    for (unsigned i = 0; i < corrupt; ++i) {
        const auto at = next_random(setup_.seed) % data.size();
        data[at] ^= static_cast<std::byte>(1 + next_random(setup_.seed) % 255);
        say("byte " + std::to_string(at) + " of " + request.text() + " is changed");
    }
    const auto at = setup_.memory->reserve(request.range.length);
    if (!at) return at.error();
    request.data = {setup_.memory, *at};
    if (auto status = setup_.memory->write(*at, data); !status) return status;
    if (request.record.order == 0) request.record.order = ++order_;
    send_below(request, setup_.memory->destination(), *at, true);
    return ok();
}

// The kernel has synced the device before it asked.
void Engine::flush_below(Request& request) {
    const bool had_held = !held_.empty();
    request.record.order = ++order_;
    Status status = release(setup_.order);
    if (status && had_held) status = setup_.below->sync();
    if (!status) say(status.error().message);
    end(request, status ? Outcome::through : Outcome::failed, status ? 0 : EIO);
}

// A part is written, and the sender believes that all is.
void Engine::tear(Request& request, const Range& part) {
    Range cut = part;
    cut.start = std::min(cut.start, request.range.length);
    cut.length = std::min(cut.length, request.range.length - cut.start);
    const auto data = data_of(request);
    Status status = ok();
    if (!data) {
        status = data.error();
    } else if (cut.length != 0) {
        const auto bytes = std::span(*data).subspan(cut.start * sector_bytes, cut.length * sector_bytes);
        status = setup_.below->write(request.range.start + cut.start, bytes, request.flags & flag_fua);
    }
    if (!status) say(status.error().message);
    ++totals_.torn;
    request.record.order = ++order_;
    request.record.torn_first = static_cast<std::uint32_t>(cut.start);
    request.record.torn_count = static_cast<std::uint32_t>(cut.length);
    end(request, status ? Outcome::torn : Outcome::failed, status ? 0 : EIO);
}

// --------------------------------------------------------------- held writes

void Engine::hold(Request& request) {
    if (held_.size() >= setup_.hold_limit) {
        say(std::to_string(held_.size()) + " writes are held, no more are: they are written");
        if (!release(setup_.order)) {
            end(request, Outcome::failed, EIO);
            return;
        }
    }
    ++totals_.held;
    request.state = State::held;
    held_.push_back(request.serial);
    mind_reads();  // before its sender can ask for what it wrote
    request.record.end = static_cast<std::uint64_t>((now() - start_).count());
    update(request);
    totals_.total += now() - request.arrived;
    answer(request, 0);
}

Status Engine::write_held(Request& request) {
    const auto data = data_of(request);
    Status status = data ? setup_.below->write(request.range.start, *data, false) : Status(data.error());
    if (!status) say("the held " + request.text() + " is lost: " + status.error().message);
    request.record.order = ++order_;
    request.record.outcome = status ? Outcome::through : Outcome::failed;
    request.record.error = status ? 0 : EIO;
    update(request);
    drop_data(request);
    requests_.erase(request.serial);
    return status;
}

Status Engine::release(const HeldOrder& order) {
    std::vector<Request*> list;
    for (const auto serial : held_) list.push_back(find(serial));
    held_.clear();
    Status status = ok();
    for (Request* request : put_in_order(list, order, setup_.seed))
        if (auto written = write_held(*request); !written) status = written;
    return status;
}

// What is held there goes first: an older write never comes after a newer one.
bool Engine::push_out(const Range& range) {
    bool good = true;
    for (const auto serial : std::vector<std::uint64_t>(held_)) {
        Request& request = *find(serial);
        if (!request.range.overlaps(range)) continue;
        std::erase(held_, serial);
        good = write_held(request) && good;
    }
    return good;
}

// ----------------------------------------------------------------- its end

void Engine::answer(Request& request, int error) {
    if (request.id == 0) return;
    dmu_command end;
    if (error)
        dmu_cmd_fail(&end, request.id, static_cast<std::uint32_t>(error));
    else
        dmu_cmd_done(&end, request.id);
    command(end);
    request.id = 0;
}

void Engine::end(Request& request, Outcome outcome, int error) {
    answer(request, error);
    totals_.total += now() - request.arrived;
    request.record.outcome = outcome;
    request.record.error = static_cast<std::uint32_t>(error);
    request.record.end = static_cast<std::uint64_t>((now() - start_).count());
    update(request);
    drop_data(request);
    requests_.erase(request.serial);
}

void Engine::update(const Request& request) {
    if (!request.logged || log_failed_) return;
    if (const auto done = setup_.log->update(request.record); !done) {
        log_failed_ = true;
        say("the log ends here: " + done.error().message);
    }
}

// ---------------------------------------------------------------- the kernel

void Engine::map_all(std::uint32_t kind, std::uint32_t flags, std::uint32_t policy) {
    dmu_command forget, map;
    dmu_cmd_invalidate(&forget, 1, 0, setup_.sectors);
    if (kind == DMU_KIND_ASK)
        dmu_cmd_map_ask(&map, 0, 0, setup_.sectors);
    else
        dmu_cmd_map_linear(&map, 0, 0, setup_.sectors, setup_.device, 0, flags);
    dmu_cmd_policies(&map, policy, policy);
    command(forget);
    command(map);
}

void Engine::watch() {
    watching_ = true;
    reads_ask_ = reads_matter();
    map_all(reads_ask_ ? DMU_KIND_ASK : DMU_KIND_LINEAR, DMU_MAP_ASK, DMU_POLICY_ASK);
}

void Engine::pass() {
    map_all(DMU_KIND_LINEAR, DMU_MAP_WRITABLE, DMU_POLICY_PASS);
}

bool Engine::reads_matter() const {
    return setup_.reads || !held_.empty() || std::any_of(rules_.begin(), rules_.end(), [](const Rule& rule) {
               return rule.enabled && (rule.takes(Op::read) || rule.action.what == Do::reorder);
           });
}

// Reads that nobody is interested in pass without us.
void Engine::mind_reads() {
    if (watching_ && !finishing_ && reads_matter() != reads_ask_) watch();
}

Status Engine::send() {
    std::size_t at = 0;
    while (at < out_.size()) {
        const auto applied = setup_.channel->write_some(std::span(out_).subspan(at));
        if (applied) {
            at += *applied;
            if (*applied != 0) continue;
        }
        // The refused one: its request must not wait for ever.
        const dmu_command refused = out_[at++];  // by value: ends below add to them
        say("the kernel refused an answer: " + (applied ? "no reason" : applied.error().message));
        if (refused.id == 0 || refused.type == DMU_CMD_FAIL || refused.type == DMU_CMD_INVALIDATE) continue;
        dmu_command fail;
        dmu_cmd_fail(&fail, refused.id, EIO);
        (void)setup_.channel->write(std::span(&fail, 1));
        if (const auto sent = sent_.find(refused.id); sent != sent_.end()) {
            Request& request = *find(sent->second);
            sent_.erase(sent);
            std::erase(below_, request.serial);
            end(request, Outcome::failed, EIO);
            unblock();
        }
    }
    out_.clear();
    return ok();
}

}  // namespace dmu::debug
