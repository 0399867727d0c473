// SPDX-License-Identifier: GPL-2.0-or-later
// The debugger's command language, whoever types it: prompt, script, pipe.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/debug/engine.h"
#include "tools/debug/output.h"

namespace dmu::debug {

class Session {
public:
    // What the sectors of a range are; may be empty. data: what is being written there, where
    // it is at hand, else empty.
    using Explain = std::function<std::string(const Range& range, std::span<const std::byte> data)>;

    Session(Engine& engine, Output& output, Explain explain)
        : engine_(engine), output_(output), explain_(std::move(explain)) {}

    // One line: commands, with ";" between them. batch: nobody sits there, and what follows
    // go, step, run waits for the next stop.
    void take(const std::string& line, bool batch);
    // False: the next line has to wait (for a stop, for a time, for data).
    bool ready();
    // When ready() is to be asked again at the latest.
    std::optional<Time> next_due() const { return wait_until_; }
    bool quits() const { return quits_; }
    // A command has failed.
    bool failed() const { return failed_; }

    // From the engine's hooks.
    void stopped(const Request* request, const std::string& why);
    void said(const std::string& text);

    // For the prompt: what can stand there, after the words before it.
    std::vector<std::string> completions(const std::vector<std::string>& before) const;

private:
    struct Command {
        const char* names;  // "go continue c"
        const char* arguments;
        const char* help;
        Status (Session::*run)(const std::string& rest);
    };
    static const std::vector<Command>& commands();
    static const Command* find(const std::string& name);
    static std::string first_name(const Command& command);

    void run(const std::string& text);
    Status help(const std::string& rest);
    Status add_rule(const std::string& rest);
    Status add_break(const std::string& rest);
    Status list_rules(const std::string& rest);
    Status remove_rule(const std::string& rest);
    Status enable_rule(const std::string& rest);
    Status disable_rule(const std::string& rest);
    Status go(const std::string& rest);
    Status step(const std::string& rest);
    Status run_to(const std::string& rest);
    Status pause(const std::string& rest);
    Status decide(const std::string& rest);
    Status show(const std::string& rest);
    Status data(const std::string& rest);
    Status explain(const std::string& rest);
    void say_explained(const Range& range, std::span<const std::byte> data);
    Status list_requests(const std::string& rest);
    Status list_held(const std::string& rest);
    Status release(const std::string& rest);
    Status order(const std::string& rest);
    Status mark(const std::string& rest);
    Status status(const std::string& rest);
    Status wait(const std::string& rest);
    Status quit(const std::string& rest);

    Status switch_rule(const std::string& rest, bool enabled);
    void resumed();
    void list(const std::string& kind, const std::vector<const Request*>& requests, const std::string& none);

    Engine& engine_;
    Output& output_;
    Explain explain_;
    std::string name_;  // of the command that runs
    std::vector<std::string> queue_;
    bool batch_ = false, quits_ = false, failed_ = false;
    bool wait_stop_ = false;
    std::optional<Time> wait_until_;
};

// What was seen and done, and what it cost.
std::string totals_text(const Totals& totals);
Json totals_json(const Totals& totals);

}  // namespace dmu::debug
