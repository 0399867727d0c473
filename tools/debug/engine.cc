// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/engine.h"

#include <algorithm>
#include <cstring>

#include "xen-backend/libdmu/dmu.h"

namespace dmu::debug {
namespace {

constexpr std::uint64_t drain_id = 2;

std::uint32_t flags_of(const dmu_event& event) {
    std::uint32_t flags = 0;
    if (event.flags & DMU_MISS_FUA) flags |= flag_fua;
    if (event.flags & DMU_MISS_META) flags |= flag_meta;
    if (event.flags & DMU_MISS_SYNC) flags |= flag_sync;
    return flags;
}

}  // namespace

bool LogFilter::lets(const Request& request) const {
    if (!(ops >> static_cast<unsigned>(request.op) & 1)) return false;
    if (request.op == Op::flush) return true;  // of every range
    if (!size.has(request.range.length)) return false;
    return ranges.empty() ||
           std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) { return range.overlaps(request.range); });
}

bool LogFilter::leaves_out() const {
    constexpr unsigned all = 1u << static_cast<unsigned>(Op::write) | 1u << static_cast<unsigned>(Op::discard) |
                             1u << static_cast<unsigned>(Op::zero) | 1u << static_cast<unsigned>(Op::flush);
    return !ranges.empty() || !(size == Span{}) || (ops & all) != all;
}

Engine::Engine(EngineSetup setup, Hooks hooks) : setup_(std::move(setup)), hooks_(std::move(hooks)), start_(now()) {
}

Request* Engine::find(std::uint64_t serial) const {
    const auto found = requests_.find(serial);
    return found == requests_.end() ? nullptr : found->second.get();
}

// ------------------------------------------------------------------- events

void Engine::event(const dmu_event& event) {
    if (event.type == DMU_EV_FLUSH && !(event.flags & DMU_FLUSH_ASKED)) {
        dmu_command committed;
        dmu_cmd_committed(&committed, event.sequence);
        command(committed);
        return;
    }
    if (event.type == DMU_EV_INVALIDATED && event.id == drain_id) forget_lost();
    if (event.type != DMU_EV_MISS && event.type != DMU_EV_FLUSH) return;
    const auto sent = event.flags & DMU_MISS_RETURNED ? sent_.find(event.sequence) : sent_.end();
    if (sent == sent_.end()) {
        // Also what a predecessor had sent on: it is done once more, from the beginning.
        arrived(event);
    } else {
        Request& request = *find(sent->second);
        sent_.erase(sent);
        returned(request, event);
    }
    run();
}

void Engine::arrived(const dmu_event& event) {
    auto made = std::make_unique<Request>();
    Request& request = *made;
    request.serial = next_serial_++;
    request.op = event.type == DMU_EV_FLUSH ? Op::flush : static_cast<Op>(event.op);
    request.flags = flags_of(event);
    if (request.op != Op::flush) request.range = {event.start, event.length};
    request.id = event.id;
    request.arrived = request.since = now();
    // The kernel has synced what is below since then: a write that ended meanwhile is not covered.
    if (request.op == Op::flush && event.start != 0)
        request.arrived = std::clamp(Time(std::chrono::nanoseconds(event.start)), start_, request.arrived);
    requests_[request.serial] = std::move(made);
    note_arrival(request);
    queue_.push_back(request.serial);
    if (wants_catching(request)) catch_data(request);
}

void Engine::note_arrival(Request& request) {
    ++totals_.requests[static_cast<std::size_t>(request.op)];
    if (request.op == Op::read) totals_.bytes_read += request.range.length * sector_bytes;
    if (request.op == Op::write) totals_.bytes_written += request.range.length * sector_bytes;
    Record& record = request.record;
    record.time = static_cast<std::uint64_t>((request.arrived - start_).count());
    record.sector = request.range.start;
    record.sectors = request.range.length;
    record.op = request.op;
    record.flags = request.flags;
    if (!setup_.log) {
        record.number = next_number_++;
        return;
    }
    request.logged = (request.op != Op::read || setup_.reads) && setup_.filter.lets(request);
    if (!request.logged) return;
    ++totals_.logged;
    if (const auto done = setup_.log->append(record); !done) {
        if (!log_failed_) say("the log ends here: " + done.error().message);
        log_failed_ = true;
        request.logged = false;
    }
}

void Engine::returned(Request& request, const dmu_event& event) {
    const auto spent = now() - request.since;
    request.id = event.id;
    request.since = now();
    if (request.state == State::catching) {
        totals_.catching += spent;
        caught(request, static_cast<int>(event.error));
        return;
    }
    totals_.below += spent;
    std::erase(below_, request.serial);
    request.error = static_cast<int>(event.error);
    request.done_below = true;
    if (request.stop_after && !finishing_)
        stop(request, "done below" + (request.error ? ", " + std::string(strerrorname_np(request.error)) : ""));
    else
        end(request, request.error ? Outcome::failed : Outcome::through, request.error);
    unblock();
}

// ---------------------------------------------------------------- decisions

void Engine::run() {
    while (!paused_ && !queue_.empty()) {
        Request& request = *find(queue_.front());
        if (request.state == State::catching) return;
        // A rule may have come since it arrived.
        if (wants_catching(request)) {
            catch_data(request);
            if (request.state == State::catching) return;
        }
        queue_.pop_front();
        decide(request);
    }
}

void Engine::decide(Request& request) {
    ++decided_;
    std::string why;
    Rule* rule = finishing_ ? nullptr : match(request);
    const bool stops = !finishing_ && run_control_stops(request, why);
    count_decision(request);
    if (stops) {
        if (rule && (rule->action.what != Do::stop || rule->action.after)) {
            request.planned = rule->action;
            why += "; rule " + std::to_string(rule->number) + ": " + rule->action.text();
        }
        stop(request, why);
        return;
    }
    if (!rule) {
        apply(request, Action{});
        return;
    }
    const std::string named = "rule " + std::to_string(rule->number);
    if (rule->action.what == Do::stop && !rule->action.after) {
        stop(request, named);
        return;
    }
    if (rule->action.what != Do::through && rule->action.what != Do::stop)
        say(named + ": " + rule->action.text() + ": " + request.text());
    apply(request, rule->action);
}

bool Engine::run_control_stops(Request& request, std::string& why) {
    if (request.op == Op::read && !setup_.reads) return false;
    if (steps_ != 0 && --steps_ == 0) why = "step";
    if (until_ && request.number() >= *until_) why = "run to " + std::to_string(*until_);
    if (until_flush_ && request.op == Op::flush) why = "run to flush";
    if (why.empty()) return false;
    steps_ = 0;
    until_.reset();
    until_flush_ = false;
    return true;
}

// The first one decides; those behind it do not count.
Rule* Engine::match(const Request& request) {
    std::optional<Result<std::vector<std::byte>>> data;
    for (Rule& rule : rules_) {
        if (!may_match(rule, request, past_)) continue;
        if (rule.pattern) {
            if (!request.data.store) continue;
            if (!data) data = data_of(request);
            if (!*data || !rule.pattern->in(**data)) continue;
        }
        if (is_due(rule)) return &rule;
    }
    return nullptr;
}

void Engine::count_decision(const Request& request) {
    if (request.op == Op::flush) {
        ++past_.flushes;
        past_.written_since_flush = false;
    } else if (request.writes()) {
        past_.written_since_flush = true;
    }
}

// -------------------------------------------------------------------- stops

void Engine::stop(Request& request, const std::string& why) {
    request.state = State::stopped;
    request.since = now();
    ++totals_.stopped;
    paused_ = true;
    stops_.emplace_back(request.serial, why);
    if (!current_) next_stop();
}

void Engine::next_stop() {
    if (stops_.empty()) return;
    current_ = stops_.front().first;
    const std::string why = stops_.front().second;
    stops_.pop_front();
    if (hooks_.stopped && !finishing_) hooks_.stopped(current(), why);
}

void Engine::leave_current() {
    totals_.waiting += now() - find(current_)->since;
    find(current_)->since = now();
    current_ = 0;
}

void Engine::pause() {
    if (paused_) return;
    paused_ = true;
    if (hooks_.stopped) hooks_.stopped(nullptr, "paused");
}

Status Engine::go() {
    if (current_)
        if (auto done = act(find(current_)->planned); !done) return done;
    if (current_) return ok();  // another one had stopped meanwhile
    paused_ = false;
    run();
    return ok();
}

Status Engine::step(std::uint64_t steps) {
    steps_ = steps;
    return go();
}

Status Engine::run_to(std::uint64_t number) {
    until_ = number;
    return go();
}

Status Engine::run_to_flush() {
    until_flush_ = true;
    return go();
}

Status Engine::act(const Action& action) {
    Request* request = find(current_);
    if (!request) return Error{Code::not_found, "no request is stopped"};
    const Do what = action.what;
    const bool done = request->done_below;
    if (request->state == State::catching)
        return Error{Code::busy, "the data of " + request->text() + " is on its way; try again"};
    if (done && what != Do::through && what != Do::fail)
        return Error{Code::invalid, "the " + request->text() + " has been done below: it can go through, or fail"};
    if ((what == Do::tear || what == Do::reorder) && request->op != Op::write)
        return Error{Code::invalid, std::string(name_of(what)) + " is for writes"};
    if (what == Do::reorder && request->flags & flag_fua)
        return Error{Code::invalid, "a FUA write can't be held: it is durable when it ends"};
    if (what == Do::corrupt && request->op != Op::read) return Error{Code::invalid, "corrupt is for reads"};
    if (what == Do::tear && action.part.end() > request->range.length)
        return Error{Code::invalid, "the request has only " + std::to_string(request->range.length) + " sectors"};
    if (what == Do::stop && !action.after) return ok();
    leave_current();
    if (done && what == Do::through)
        end(*request, request->error ? Outcome::failed : Outcome::through, request->error);
    else if (done)
        end(*request, Outcome::through, action.error);
    else
        apply(*request, action);
    next_stop();
    return ok();
}

Status Engine::fetch(std::function<void(std::span<const std::byte>)> take) {
    Request* request = find(current_);
    if (!request || request->op != Op::write) return Error{Code::not_found, "no write is stopped"};
    const auto show = [this, take](Request& stopped) {
        const auto data = data_of(stopped);
        if (data)
            take(*data);
        else
            say(data.error().message);
    };
    if (request->data.store) {
        show(*request);
        return ok();
    }
    if (request->not_caught || request->done_below || request->state == State::catching)
        return Error{Code::not_found, "the data of " + request->text() + " is not at hand"};
    request->caught = [show, request] {
        request->state = State::stopped;
        show(*request);
    };
    catch_data(*request);
    return ok();
}

// -------------------------------------------------------------------- rules

Result<unsigned> Engine::add_rule(const std::string& text) {
    auto rule = parse_rule(text);
    if (!rule) return rule.error();
    rule->number = next_rule_++;
    rules_.push_back(*rule);
    mind_reads();
    return rule->number;
}

bool Engine::remove_rule(unsigned number) {
    const auto removed = std::erase_if(rules_, [&](const Rule& r) { return number == 0 || r.number == number; });
    mind_reads();
    return removed != 0;
}

bool Engine::enable_rule(unsigned number, bool enabled) {
    const auto rule = std::find_if(rules_.begin(), rules_.end(), [&](const Rule& r) { return r.number == number; });
    if (rule == rules_.end()) return false;
    rule->enabled = enabled;
    mind_reads();
    return true;
}

// --------------------------------------------------------------------- rest

std::vector<const Request*> Engine::held() const {
    std::vector<const Request*> list;
    for (const auto serial : held_) list.push_back(find(serial));
    return list;
}

std::vector<const Request*> Engine::waiting() const {
    std::vector<const Request*> list;
    for (const auto& [serial, request] : requests_)
        if (request->state != State::held) list.push_back(request.get());
    return list;
}

Result<std::uint64_t> Engine::mark(const std::string& text) {
    if (text.size() > label_bytes)
        return Error{Code::invalid, "a mark has at most " + std::to_string(label_bytes) + " bytes"};
    Record record;
    record.op = Op::mark;
    record.label = text;
    record.outcome = Outcome::through;
    record.time = record.end = static_cast<std::uint64_t>((now() - start_).count());
    if (!setup_.log) return next_number_++;
    if (const auto done = setup_.log->append(record); !done) return done.error();
    return record.number;
}

void Engine::tick() {
    mind_reads();
    const auto list = delayed_;
    for (const auto serial : list) {
        Request& request = *find(serial);
        if (request.due > now() && !finishing_) continue;
        std::erase(delayed_, serial);
        totals_.waiting += now() - request.since;
        go_below(request, Action{});
    }
    run();
}

std::optional<Time> Engine::next_due() const {
    std::optional<Time> due;
    for (const auto serial : delayed_)
        if (!due || find(serial)->due < *due) due = find(serial)->due;
    return due;
}

// What does not come back before a drain has ended went back to device-mapper.
void Engine::drain() {
    if (!drained_.empty() || sent_.empty()) return;
    for (const auto& [id, serial] : sent_) drained_.push_back(id);
    dmu_command wait;
    dmu_cmd_invalidate(&wait, drain_id, 0, 0);
    command(wait);
}

void Engine::forget_lost() {
    for (const auto id : std::exchange(drained_, {})) {
        const auto sent = sent_.find(id);
        if (sent == sent_.end()) continue;
        Request& request = *find(sent->second);
        sent_.erase(sent);
        std::erase(below_, request.serial);
        std::erase(queue_, request.serial);
        say("the " + request.text() + " never came back (was the device suspended?)");
        end(request, Outcome::failed, EIO);
    }
    unblock();
}

void Engine::finish() {
    finishing_ = true;
    steps_ = 0;
    until_.reset();
    until_flush_ = false;
    if (!held_.empty() && !release(setup_.order)) say("held writes are lost (above)");
    while (current_) (void)act(Action{});
    paused_ = false;
    tick();
}

}  // namespace dmu::debug
