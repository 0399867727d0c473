// SPDX-License-Identifier: GPL-2.0-or-later
// The debugger proper: takes the target's events, decides what becomes of each request,
// answers the kernel, keeps the log.
//
// A request's way: it arrives and gets its number; if its data is wanted, the kernel writes
// it to a store and it comes back; in order of arrival it is decided upon, by the first rule
// that matches; it goes below and comes back, and its sender hears of it. The data stays in
// the kernel, but for what is torn, held, or put together.
//
// Requests that change the same sectors go below one after the other, in the order decided
// upon: the log's order is the device's. A held write has ended for its sender (who might
// else wait for ever with the flush that it waits for), so a read sees it, and what is
// written over it pushes it out first. A stopped or delayed one has not ended: nobody may
// count on it yet.
//
// While the debugger is paused nothing more is decided; what is under way ends.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/debug/below.h"
#include "tools/debug/held.h"
#include "tools/debug/log.h"
#include "tools/debug/rule.h"
#include "tools/debug/store.h"
#include "xen-backend/libdmu/channel.h"

namespace dmu::debug {

enum class KeepData { full, hash, none };

struct LogFilter {
    std::vector<Range> ranges = {};  // none: everywhere
    unsigned ops = ~0u;              // bits of Op
    Span size = {};
    bool lets(const Request& request) const;
    // Something that changes the device, or a flush, may be left out.
    bool leaves_out() const;
};

struct EngineSetup {
    Channel* channel = nullptr;
    Below* below = nullptr;
    unsigned device = 0;  // the destination that the device below is
    std::uint64_t sectors = 0;
    Store* memory = nullptr;
    LogWriter* log = nullptr;    // none: nothing is logged
    Store* log_store = nullptr;  // with KeepData::full
    KeepData data = KeepData::full;
    LogFilter filter = {};
    bool reads = false;  // are logged, and stepped through
    std::uint64_t seed = 1;
    HeldOrder order = {};
    std::size_t hold_limit = 4096;
    std::function<Time()> now = Clock::now;
};

struct Hooks {
    // The debugger pauses. request: null: it was asked to.
    std::function<void(const Request* request, const std::string& why)> stopped = {};
    // What a rule did, and what went wrong.
    std::function<void(const std::string& text)> said = {};
};

struct Totals {
    std::array<std::uint64_t, 6> requests{};  // by Op
    std::uint64_t bytes_read = 0, bytes_written = 0;
    std::uint64_t dropped = 0, failed = 0, torn = 0, delayed = 0, held = 0, corrupted = 0, stopped = 0;
    std::uint64_t logged = 0, bytes_kept = 0;
    // Summed over all requests.
    std::chrono::nanoseconds total{}, below{}, catching{}, waiting{};
};

class Engine {
public:
    Engine(EngineSetup setup, Hooks hooks);

    // From the channel. After some of them, and after everything below: send().
    void event(const dmu_event& event);
    // The answers, to the kernel. Code::io: the channel is gone.
    Status send();
    // What is due by now; when it is to be called next.
    void tick();
    std::optional<Time> next_due() const;

    // What changes something asks, and so do reads where they matter; to be sent once, first.
    void watch();

    Result<unsigned> add_rule(const std::string& text);
    bool remove_rule(unsigned number);  // 0: all
    bool enable_rule(unsigned number, bool enabled);
    const std::vector<Rule>& rules() const { return rules_; }

    bool paused() const { return paused_; }
    // The stopped request; null: none, or only paused.
    const Request* current() const { return find(current_); }
    void pause();
    // What is stopped goes through (or does what a rule has planned), and on it goes: to a
    // stop, for steps decisions, to the request of that number, or to the next flush.
    // Code::busy: see fetching().
    Status go();
    Status step(std::uint64_t steps);
    Status run_to(std::uint64_t number);
    Status run_to_flush();
    // What becomes of the stopped request; the debugger stays paused.
    Status act(const Action& action);
    // The data of the stopped write, now or when the kernel has handed it over.
    // Until then fetching() and nothing else can be done to it.
    bool fetching() const { return current_ && find(current_)->state == State::catching; }
    Status fetch(std::function<void(std::span<const std::byte>)> take);
    // Of a write whose data was kept already; else empty.
    std::vector<std::byte> data_at_hand(const Request& request) const;

    // Held writes reach the device, in that order.
    Status release(const HeldOrder& order);
    void set_order(const HeldOrder& order) { setup_.order = order; }
    std::vector<const Request*> held() const;
    // All that have not ended and are not held, in order of arrival.
    std::vector<const Request*> waiting() const;

    // A record of its own in the log: its number.
    Result<std::uint64_t> mark(const std::string& text);

    // No more rules and stops: everything goes through, held writes first.
    void finish();
    // Finds what was taken away from us, by a suspend of the device without a flush.
    void drain();
    bool idle() const { return requests_.empty(); }
    // From now on nobody asks (but flushes may).
    void pass();

    const Totals& totals() const { return totals_; }
    const Past& past() const { return past_; }
    std::uint64_t decided() const { return decided_; }

private:
    Request* find(std::uint64_t serial) const;
    Time now() const { return setup_.now(); }
    void say(const std::string& text) const {
        if (hooks_.said) hooks_.said(text);
    }

    // engine.cc: the way of a request
    void arrived(const dmu_event& event);
    void note_arrival(Request& request);
    void returned(Request& request, const dmu_event& event);
    void run();
    void decide(Request& request);
    bool run_control_stops(Request& request, std::string& why);
    Rule* match(const Request& request);
    void count_decision(const Request& request);
    void apply(Request& request, const Action& action);
    void stop(Request& request, const std::string& why);
    void leave_current();
    void forget_lost();
    void next_stop();

    // actions.cc: what becomes of it
    bool wants_catching(const Request& request) const;
    void catch_data(Request& request);
    void caught(Request& request, int error);
    void go_below(Request& request, const Action& action);
    bool is_blocked(const Request& request) const;
    void unblock();
    void send_below(Request& request, unsigned destination, std::uint64_t physical, bool returns);
    void read_below(Request& request, unsigned corrupt);
    void flush_below(Request& request);
    void tear(Request& request, const Range& part);
    void hold(Request& request);
    void delay(Request& request, std::chrono::nanoseconds time);
    bool push_out(const Range& range);
    Status write_held(Request& request);
    Result<std::vector<std::byte>> data_of(const Request& request) const;
    Status put_together(Request& request, unsigned corrupt);
    // The sender hears of it.
    void answer(Request& request, int error);
    void end(Request& request, Outcome outcome, int error);
    void drop_data(Request& request);
    void update(const Request& request);
    void command(const dmu_command& command) { out_.push_back(command); }
    void map_all(std::uint32_t kind, std::uint32_t flags, std::uint32_t policy);
    bool reads_matter() const;
    void mind_reads();

    EngineSetup setup_;
    Hooks hooks_;
    Time start_;
    std::map<std::uint64_t, std::unique_ptr<Request>> requests_;  // by serial
    std::map<std::uint64_t, std::uint64_t> sent_;                 // ids sent on with RETURN: serials
    std::deque<std::uint64_t> queue_;                             // to be decided upon, in order
    std::vector<std::uint64_t> below_;                            // that change the device, under way
    std::vector<std::pair<std::uint64_t, Action>> blocked_;       // by those
    std::vector<std::uint64_t> held_, delayed_;
    std::deque<std::pair<std::uint64_t, std::string>> stops_;  // behind the current one
    std::vector<Rule> rules_;
    std::vector<std::uint64_t> drained_;  // ids that were sent on before a drain
    std::vector<dmu_command> out_;
    std::uint64_t next_serial_ = 1, next_number_ = 1, order_ = 0, decided_ = 0;
    unsigned next_rule_ = 1;
    std::uint64_t current_ = 0;
    bool paused_ = false, finishing_ = false, watching_ = false, reads_ask_ = true, log_failed_ = false,
         store_failed_ = false;
    std::uint64_t steps_ = 0;
    std::optional<std::uint64_t> until_;
    bool until_flush_ = false;
    Past past_;
    Totals totals_;
};

}  // namespace dmu::debug
