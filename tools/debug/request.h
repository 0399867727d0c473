// SPDX-License-Identifier: GPL-2.0-or-later
// What the debugger sees of the device's traffic: one request, from its arrival to its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tools/debug/log.h"
#include "tools/debug/parse.h"

namespace dmu::debug {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

std::optional<Op> op_named(const std::string& name);

enum class Do { through, stop, drop, fail, tear, delay, reorder, corrupt };
const char* name_of(Do what);

class Store;

// What becomes of a request.
struct Action {
    Do what = Do::through;
    bool after = false;  // stop: once it is done below, before its sender hears of it
    int error = 0;       // fail: a positive errno
    Range part = {};     // tear: the sectors that are written, from the request's first
    std::chrono::nanoseconds delay{};
    unsigned bytes = 1;  // corrupt: so many

    std::string text() const;
    // The data of a write has to be at hand for it.
    bool wants_data() const { return what == Do::tear || what == Do::reorder; }
};

// Where a write's data was put.
struct Place {
    Store* store = nullptr;  // none: nowhere
    std::uint64_t at = 0;    // sectors
};

enum class State {
    catching,  // its data is on the way to its place
    queued,    // waits for its turn to be decided upon
    stopped,   // waits for a word from the user
    delayed,   // until due
    below,     // under way to the device
    held,      // its sender was told that it is written; it waits for a flush
};
const char* name_of(State state);

struct Request {
    std::uint64_t serial = 0;  // of this run; every request has one
    Op op = Op::read;
    std::uint32_t flags = 0;  // flag_fua, ...
    Range range = {};
    State state = State::queued;
    std::uint64_t id = 0;  // of the question in the kernel that waits now; 0: none
    Place data = {};
    int error = 0;  // of what was done below; a positive errno
    bool done_below = false;
    bool stop_after = false;
    bool not_caught = false;                  // it was tried, in vain
    Time arrived = {}, since = {}, due = {};  // since: in this state
    bool logged = false;
    Action planned = {};  // by a rule, where something else stopped it
    Record record = {};
    std::function<void()> caught = {};  // goes on once its data is there

    // In the log, or where there is none, of the run; 0: not logged.
    std::uint64_t number() const { return record.number; }
    bool writes() const { return op == Op::write || op == Op::discard || op == Op::zero; }
    std::string text() const;  // "#12 write 2048+8 FUA"
};

}  // namespace dmu::debug
