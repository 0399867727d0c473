// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/crash_states.h"

#include <algorithm>
#include <map>
#include <set>

namespace dmu::debug {

namespace {

std::uint64_t ended(const Record& record) {
    return record.end != 0 ? record.end : UINT64_MAX;
}

std::uint64_t place(const Applied& one) {
    if (one.record->order != 0) return one.record->order;
    return one.record->outcome == Outcome::pending ? UINT64_MAX : one.record->number;
}

bool at_once(const Record& a, const Record& b) {
    return a.time < ended(b) && b.time < ended(a);
}

void in_order(std::vector<Applied>& list) {
    std::stable_sort(list.begin(), list.end(), [](const Applied& a, const Applied& b) { return place(a) < place(b); });
}

// The last flush that had ended by then; nullptr: none.
const Record* last_flush(const LogReader& log, std::uint64_t at, std::uint64_t moment) {
    const auto& records = log.records();
    for (auto number = at; number > 0; number--) {
        const auto& record = records[number - 1];
        if (record.op == Op::flush && record.outcome == Outcome::through && ended(record) <= moment) return &record;
    }
    return nullptr;
}

void find_unordered(CrashPoint& point) {
    for (std::size_t i = 0; i < point.uncertain.size(); i++) {
        const auto& one = point.uncertain[i];
        const auto add = [&](const Applied& other) {
            if (at_once(*one.record, *other.record) && overlap(one, other))
                point.unordered.push_back({one.record, other.record});
        };
        std::for_each(point.durable.begin(), point.durable.end(), add);
        std::for_each(point.uncertain.begin() + static_cast<std::ptrdiff_t>(i) + 1, point.uncertain.end(), add);
    }
}

// The durable ones and those of the uncertain ones that keep says, in order.
CrashState chosen(const CrashPoint& point, const std::vector<bool>& keep) {
    CrashState state = point.durable;
    for (std::size_t i = 0; i < point.uncertain.size(); i++)
        if (keep[i]) state.push_back(point.uncertain[i]);
    in_order(state);
    return state;
}

// Turns the pairs round whose bit is set, where both are there. Each set of turns that
// contradicts itself gives some order that another one gives too.
void turn(const CrashPoint& point, CrashState& state, const std::vector<bool>& turns) {
    for (std::size_t i = 0; i < point.unordered.size(); i++) {
        if (!turns[i]) continue;
        const auto find = [&](const Record* record) {
            return std::find_if(state.begin(), state.end(), [&](const Applied& a) { return a.record == record; });
        };
        auto first = find(point.unordered[i].first), second = find(point.unordered[i].second);
        if (first == state.end() || second == state.end()) continue;
        if (second < first) std::swap(first, second);
        // The earlier one moves behind the later one, unless something between depends on it.
        const auto blocked = std::any_of(first + 1, second, [&](const Applied& between) {
            return overlap(*first, between) && !at_once(*first->record, *between.record);
        });
        if (!blocked) std::rotate(first, first + 1, second + 1);
    }
}

std::size_t bits_of(const CrashPoint& point) {
    return point.uncertain.size() + point.unordered.size();
}

std::string identity(const CrashState& state) {
    std::string text;
    for (const auto& one : state) text += std::to_string(one.record->number) + ",";
    return text;
}

}  // namespace

Result<CrashPoint> crash_point(const LogReader& log, std::uint64_t at) {
    const auto& records = log.records();
    if (at > records.size())
        return Error{Code::invalid, "the log " + log.directory() + " has " + std::to_string(records.size()) +
                                        " records, no number " + std::to_string(at)};
    const auto moment = at < records.size() ? records[at].time : UINT64_MAX - 1;
    const auto* flush = last_flush(log, at, moment);
    CrashPoint point;
    point.at = at;
    for (std::uint64_t number = 1; number <= at; number++) {
        const auto& record = records[number - 1];
        if (!record.changes() || record.outcome == Outcome::dropped || record.outcome == Outcome::failed) continue;
        const bool flushed =
            flush != nullptr && record.reached() && number < flush->number && ended(record) <= flush->time;
        const bool itself = (record.flags & flag_fua) != 0 && record.reached() && ended(record) <= moment;
        (flushed || itself ? point.durable : point.uncertain).push_back(applied(record));
    }
    in_order(point.durable);
    in_order(point.uncertain);
    find_unordered(point);
    return point;
}

CrashState state_without(const CrashPoint& point) {
    return point.durable;
}

CrashState state_with_all(const CrashPoint& point) {
    return chosen(point, std::vector<bool>(point.uncertain.size(), true));
}

Result<CrashState> state_with(const CrashPoint& point, const std::vector<std::uint64_t>& numbers) {
    std::set<std::uint64_t> wanted(numbers.begin(), numbers.end());
    std::vector<bool> keep;
    for (const auto& one : point.uncertain) keep.push_back(wanted.erase(one.record->number) != 0);
    if (!wanted.empty())
        return Error{Code::invalid, "record " + std::to_string(*wanted.begin()) + " is not one that a crash at " +
                                        std::to_string(point.at) + " may lose"};
    return chosen(point, keep);
}

std::uint64_t count_states(const CrashPoint& point) {
    const auto bits = bits_of(point);
    return bits < 64 ? std::uint64_t{1} << bits : UINT64_MAX;
}

std::string count_text(const CrashPoint& point) {
    const auto bits = bits_of(point);
    return bits <= 20 ? std::to_string(count_states(point)) : "2^" + std::to_string(bits);
}

Result<std::vector<CrashState>> all_states(const CrashPoint& point, std::uint64_t limit) {
    const auto count = count_states(point);
    if (count > limit)
        return Error{Code::unsupported, "a crash at " + std::to_string(point.at) + " has " + count_text(point) +
                                            " possible results, more than the limit of " + std::to_string(limit) +
                                            "; take some of them by --sample, or raise --limit"};
    std::vector<CrashState> states;
    std::set<std::string> known;
    const auto uncertain = point.uncertain.size();
    for (std::uint64_t bits = 0; bits < count; bits++) {
        std::vector<bool> keep(uncertain), turns(point.unordered.size());
        for (std::size_t i = 0; i < keep.size(); i++) keep[i] = (bits >> i & 1) != 0;
        for (std::size_t i = 0; i < turns.size(); i++) turns[i] = (bits >> (uncertain + i) & 1) != 0;
        auto state = chosen(point, keep);
        turn(point, state, turns);
        if (known.insert(identity(state)).second) states.push_back(std::move(state));
    }
    return states;
}

CrashState random_state(const CrashPoint& point, std::mt19937_64& random, std::uint64_t torn) {
    // Many missing, half of them, few: each finds other faults.
    constexpr std::array<std::uint64_t, 3> kept_of_eight = {1, 4, 7};
    const auto kept = kept_of_eight.at(random() % kept_of_eight.size());
    std::vector<bool> keep(point.uncertain.size()), turns(point.unordered.size());
    for (std::size_t i = 0; i < keep.size(); i++) keep[i] = random() % 8 < kept;
    for (std::size_t i = 0; i < turns.size(); i++) turns[i] = random() % 2 != 0;
    auto state = chosen(point, keep);
    turn(point, state, turns);
    if (torn == 0) return state;
    std::set<const Record*> uncertain;
    for (const auto& one : point.uncertain) uncertain.insert(one.record);
    for (auto& one : state) {
        const auto blocks = one.count / torn;
        if (blocks < 2 || uncertain.count(one.record) == 0 || random() % 4 != 0) continue;
        const auto first = random() % blocks, count = 1 + random() % (blocks - first);
        one.first += first * torn;
        one.count = count * torn;
    }
    return state;
}

std::vector<CrashState> sample_states(const CrashPoint& point, std::uint64_t count, std::uint64_t seed,
                                      std::uint64_t torn) {
    std::vector<CrashState> states;
    if (count > 0) states.push_back(state_without(point));
    if (count > 1 && !point.uncertain.empty()) states.push_back(state_with_all(point));
    std::mt19937_64 random(seed ^ point.at * 0x9e3779b97f4a7c15);
    // With fewer results than wanted the same come again; torn ones are without number.
    const auto most = torn == 0 ? std::min(count, count_states(point)) : count;
    std::set<std::string> known;
    for (const auto& state : states) known.insert(identity(state));
    for (std::uint64_t tries = 0; states.size() < most && tries < 8 * most; tries++) {
        auto state = random_state(point, random, torn);
        if (torn != 0 || known.insert(identity(state)).second) states.push_back(std::move(state));
    }
    return states;
}

std::string state_text(const CrashPoint& point, const CrashState& state) {
    std::map<const Record*, const Applied*> there;
    for (const auto& one : state) there[one.record] = &one;
    std::string with, without;
    for (const auto& one : point.uncertain) {
        const auto found = there.find(one.record);
        auto& list = found == there.end() ? without : with;
        list += (list.empty() ? "" : ", ") + std::to_string(one.record->number);
        if (found != there.end() && found->second->count != one.count)
            list += " (sectors " + std::to_string(found->second->first) + "+" + std::to_string(found->second->count) +
                    " of it)";
    }
    if (with.empty() && without.empty()) return "nothing was uncertain";
    if (with.empty()) return "without " + without;
    return "with " + with + (without.empty() ? "" : "; without " + without);
}

}  // namespace dmu::debug
