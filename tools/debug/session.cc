// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/session.h"

#include <algorithm>
#include <charconv>
#include <sstream>

namespace dmu::debug {
namespace {

Error invalid(const std::string& text) {
    return {Code::invalid, text};
}

Result<std::uint64_t> number_of(const std::string& text) {
    std::uint64_t number = 0;
    const auto end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (text.empty() || error != std::errc{} || stop != end) return invalid("'" + text + "' is not a number");
    return number;
}

std::string trimmed(const std::string& text) {
    const auto first = text.find_first_not_of(" \t");
    if (first == std::string::npos) return "";
    return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// At ";" outside of quotes; "#" begins a comment.
std::vector<std::string> split_commands(const std::string& line) {
    std::vector<std::string> commands(1);
    bool quoted = false;
    for (std::size_t i = 0; i < line.size(); ++i) {
        const char c = line[i];
        if (c == '"' && (i == 0 || line[i - 1] != '\\')) quoted = !quoted;
        if (!quoted && c == '#' && trimmed(commands.back()).empty()) break;
        if (!quoted && c == ';')
            commands.emplace_back();
        else
            commands.back() += c;
    }
    std::vector<std::string> wanted;
    for (const auto& command : commands)
        if (!trimmed(command).empty()) wanted.push_back(trimmed(command));
    return wanted;
}

}  // namespace

// ------------------------------------------------------------------ commands

const std::vector<Session::Command>& Session::commands() {
    static const std::vector<Command> list{
        {"break b", "[before|after] CONDITION...", "stop at requests: break write at 2048+8 nth 3",
         &Session::add_break},
        {"rule", "ACTION [CONDITION]...",
         "stop, through, drop, fail [ERROR], tear FIRST+COUNT, delay TIME, reorder, corrupt [BYTES]; conditions: read, "
         "write, flush, discard, zero, any, at RANGE, size N-M, nth N, every N, once, number N, fua, meta, sync, "
         "data \"TEXT\"|hex:BYTES[@OFFSET], after-flush, flushes N",
         &Session::add_rule},
        {"rules", "", "the rules, and how often each has matched", &Session::list_rules},
        {"delete", "NUMBER|all", "remove a rule", &Session::remove_rule},
        {"enable", "NUMBER", "a rule counts again", &Session::enable_rule},
        {"disable", "NUMBER", "a rule does not count", &Session::disable_rule},
        {"go continue c", "", "what is stopped goes through, and on it goes", &Session::go},
        {"step s", "[N]", "go on, and stop at the next request (the N-th)", &Session::step},
        {"run until", "to NUMBER|flush", "go on, and stop before that request, or before the next flush",
         &Session::run_to},
        {"pause", "", "stop at what comes next (Ctrl-C does the same)", &Session::pause},
        {"through", "", "the stopped request is done as it came", &Session::decide},
        {"drop", "", "it ends well, but nothing is done", &Session::decide},
        {"fail", "[ERROR]", "it ends in an error (EIO)", &Session::decide},
        {"tear", "FIRST+COUNT", "only these sectors of a write are written, and it ends well", &Session::decide},
        {"delay", "TIME", "it goes through later: delay 200ms", &Session::decide},
        {"reorder hold", "", "a write ends now, and is written at the next flush, in another order", &Session::decide},
        {"corrupt", "[BYTES]", "a read gets so many wrong bytes (1)", &Session::decide},
        {"after", "", "it goes through, and stops once more before its sender hears of it", &Session::decide},
        {"show", "", "the stopped request", &Session::show},
        {"data x", "[OFFSET [LENGTH]]", "bytes of the stopped write", &Session::data},
        {"explain", "[RANGE]", "what lies there: of the stopped request, or of a range", &Session::explain},
        {"requests", "", "what has not ended yet", &Session::list_requests},
        {"held", "", "writes that wait for a flush", &Session::list_held},
        {"release", "[ORDER]", "held writes are written now: random, reverse, same, or numbers", &Session::release},
        {"order", "ORDER", "in which held writes are written at a flush", &Session::order},
        {"mark", "TEXT", "a mark in the log", &Session::mark},
        {"status", "", "what was seen and done so far, and what it cost", &Session::status},
        {"wait", "stop [TIME]|TIME", "in scripts: for the next stop, or so long", &Session::wait},
        {"help h ?", "[COMMAND]", "this list", &Session::help},
        {"quit q exit", "", "everything goes through; the device goes when nobody uses it", &Session::quit},
    };
    return list;
}

std::string Session::first_name(const Command& command) {
    return std::string(command.names).substr(0, std::string(command.names).find(' '));
}

const Session::Command* Session::find(const std::string& name) {
    for (const Command& command : commands()) {
        std::istringstream names(command.names);
        for (std::string known; names >> known;)
            if (known == name) return &command;
    }
    return nullptr;
}

void Session::take(const std::string& line, bool batch) {
    batch_ = batch;
    for (auto& command : split_commands(line)) queue_.push_back(std::move(command));
    (void)ready();
}

bool Session::ready() {
    for (;;) {
        if (wait_stop_ && engine_.paused()) {
            wait_stop_ = false;
            wait_until_.reset();
        }
        if (wait_until_ && *wait_until_ <= Clock::now()) {
            wait_until_.reset();
            if (wait_stop_) {
                failed_ = true;
                output_.say("error", "wait stop: nothing has stopped in time");
            }
            wait_stop_ = false;
        }
        if (wait_stop_ || wait_until_ || engine_.fetching()) return false;
        if (queue_.empty() || quits_) return true;
        const std::string next = queue_.front();
        queue_.erase(queue_.begin());
        run(next);
    }
}

void Session::run(const std::string& text) {
    const auto space = text.find_first_of(" \t");
    name_ = text.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : trimmed(text.substr(space));
    const Command* command = find(name_);
    if (!command) {
        failed_ = true;
        output_.say("error", "there is no command '" + name_ + "'; help lists what there is");
        return;
    }
    name_ = first_name(*command);
    if (const auto done = (this->*command->run)(rest); !done) {
        failed_ = true;
        output_.say("error", done.error().message);
    }
}

Status Session::help(const std::string& rest) {
    std::string text;
    const Command* only = rest.empty() ? nullptr : find(rest);
    if (!rest.empty() && !only) return invalid("there is no command '" + rest + "'");
    for (const Command& command : commands()) {
        if (only && only != &command) continue;
        std::string line = std::string(command.names) + " " + command.arguments;
        line.resize(std::max<std::size_t>(line.size() + 2, 34), ' ');
        text += line + command.help + "\n";
    }
    output_.say("help", text);
    return ok();
}

// --------------------------------------------------------------------- rules

Status Session::add_rule(const std::string& rest) {
    const auto number = engine_.add_rule(rest);
    if (!number) return number.error();
    output_.say("rule", "rule " + std::to_string(*number) + ": " + rest, {{"number", *number}, {"rule", rest}});
    return ok();
}

Status Session::add_break(const std::string& rest) {
    return add_rule("stop " + rest);
}

Status Session::list_rules(const std::string&) {
    if (engine_.rules().empty()) output_.say("rules", "no rules", {{"rules", Json::array()}});
    for (const Rule& rule : engine_.rules()) {
        const std::string number = std::to_string(rule.number);
        output_.say(
            "rule",
            number + (rule.enabled ? "  " : "  (disabled) ") + rule.text + "  matched " + std::to_string(rule.matches),
            {{"number", rule.number}, {"rule", rule.text}, {"enabled", rule.enabled}, {"matches", rule.matches}});
    }
    return ok();
}

Status Session::remove_rule(const std::string& rest) {
    const auto number = rest == "all" ? Result<std::uint64_t>(0ull) : number_of(rest);
    if (!number) return number.error();
    if (!engine_.remove_rule(static_cast<unsigned>(*number)) && *number) return invalid("there is no rule " + rest);
    return ok();
}

Status Session::switch_rule(const std::string& rest, bool enabled) {
    const auto number = number_of(rest);
    if (!number) return number.error();
    if (!engine_.enable_rule(static_cast<unsigned>(*number), enabled)) return invalid("there is no rule " + rest);
    return ok();
}

Status Session::enable_rule(const std::string& rest) {
    return switch_rule(rest, true);
}

Status Session::disable_rule(const std::string& rest) {
    return switch_rule(rest, false);
}

// --------------------------------------------------------------------- going

void Session::resumed() {
    wait_stop_ = batch_;
}

Status Session::go(const std::string&) {
    resumed();
    return engine_.go();
}

Status Session::step(const std::string& rest) {
    const auto steps = rest.empty() ? Result<std::uint64_t>(1ull) : number_of(rest);
    if (!steps) return steps.error();
    if (*steps == 0) return invalid("step: a number from 1 is expected");
    resumed();
    return engine_.step(*steps);
}

Status Session::run_to(const std::string& rest) {
    const std::string to = rest.starts_with("to ") ? trimmed(rest.substr(3)) : rest;
    if (to == "flush") {
        resumed();
        return engine_.run_to_flush();
    }
    const auto number = number_of(to.starts_with('#') ? to.substr(1) : to);
    if (!number) return invalid("run to NUMBER, or run to flush; not '" + rest + "'");
    resumed();
    return engine_.run_to(*number);
}

Status Session::pause(const std::string&) {
    engine_.pause();
    return ok();
}

Status Session::decide(const std::string& rest) {
    const auto action = parse_action(name_ == "after" ? "stop after" : name_ + " " + rest);
    if (!action) return action.error();
    return engine_.act(*action);
}

Status Session::quit(const std::string&) {
    quits_ = true;
    return ok();
}

Status Session::wait(const std::string& rest) {
    const bool stop = rest == "stop" || rest.starts_with("stop ");
    const std::string time = stop ? trimmed(rest.substr(4)) : rest;
    if (!time.empty() || !stop) {
        const auto span = parse_time(time);
        if (!span) return span.error();
        wait_until_ = Clock::now() + *span;
    }
    wait_stop_ = stop;
    return ok();
}

// ------------------------------------------------------------------- looking

void Session::stopped(const Request* request, const std::string& why) {
    if (!request) {
        output_.say("paused", why, {{"why", why}});
        return;
    }
    std::string text = std::string("stopped ") + (request->done_below ? "after " : "before ") + request->text();
    Json fields{{"when", request->done_below ? "after" : "before"}, {"why", why}, {"request", json_of(*request)}};
    const bool explains = explain_ && request->op != Op::flush;
    const std::string what = explains ? explain_(request->range, engine_.data_at_hand(*request)) : "";
    if (!what.empty()) fields["explain"] = what;
    output_.say("stopped", text + ": " + why + (what.empty() ? "" : "\n  " + what), fields);
}

void Session::said(const std::string& text) {
    output_.say("note", text);
}

Status Session::show(const std::string&) {
    const Request* request = engine_.current();
    if (request)
        output_.say("request", line_of(*request, Clock::now()), json_of(*request));
    else
        output_.say("request", engine_.paused() ? "paused, no request is stopped" : "running");
    return ok();
}

Status Session::data(const std::string& rest) {
    std::uint64_t from = 0, length = 512;
    std::istringstream words(rest);
    std::string word;
    for (std::uint64_t* number : {&from, &length}) {
        if (!(words >> word)) break;
        const auto value = number_of(word);
        if (!value) return value.error();
        *number = *value;
    }
    return engine_.fetch([this, from, length](std::span<const std::byte> data) {
        if (from >= data.size()) {
            output_.say("error", "the request has " + std::to_string(data.size()) + " bytes");
            return;
        }
        const auto part = data.subspan(from, std::min<std::uint64_t>(length, data.size() - from));
        std::string hex;
        for (const auto byte : part) {
            constexpr char digits[] = "0123456789abcdef";
            hex += digits[std::to_integer<unsigned>(byte) >> 4];
            hex += digits[std::to_integer<unsigned>(byte) & 15];
        }
        output_.say("data", hex_dump(part, from), {{"offset", from}, {"hex", hex}});
    });
}

Status Session::explain(const std::string& rest) {
    if (!rest.empty()) {
        const auto range = parse_range(rest);
        if (!range) return range.error();
        say_explained(*range, {});
        return ok();
    }
    const Request* request = engine_.current();
    if (!request) return invalid("no request is stopped: explain RANGE");
    const auto with_data = [this, range = request->range](std::span<const std::byte> data) {
        say_explained(range, data);
    };
    // What a write brings tells more than what is there still.
    if (request->op != Op::write || !engine_.fetch(with_data)) with_data({});
    return ok();
}

void Session::say_explained(const Range& range, std::span<const std::byte> data) {
    const std::string text = explain_ && range.length != 0 ? explain_(range, data) : "";
    output_.say("explain", text.empty() ? "nothing is known of it" : text, {{"text", text}});
}

void Session::list(const std::string& kind, const std::vector<const Request*>& requests, const std::string& none) {
    std::string text;
    Json all = Json::array();
    for (const Request* request : requests) {
        text += line_of(*request, Clock::now()) + "\n";
        all.push_back(json_of(*request));
    }
    output_.say(kind, requests.empty() ? none : text, {{kind, all}});
}

Status Session::list_requests(const std::string&) {
    list("requests", engine_.waiting(), "nothing is under way");
    return ok();
}

Status Session::list_held(const std::string&) {
    list("held", engine_.held(), "nothing is held");
    return ok();
}

Status Session::release(const std::string& rest) {
    const auto order = parse_order(rest.empty() ? "random" : rest);
    if (!order) return order.error();
    return engine_.release(*order);
}

Status Session::order(const std::string& rest) {
    const auto order = parse_order(rest);
    if (!order) return order.error();
    engine_.set_order(*order);
    return ok();
}

Status Session::mark(const std::string& rest) {
    const auto number = engine_.mark(rest);
    if (!number) return number.error();
    output_.say("mark", "#" + std::to_string(*number) + " mark " + rest, {{"number", *number}, {"text", rest}});
    return ok();
}

Status Session::status(const std::string&) {
    output_.say("status", totals_text(engine_.totals()), totals_json(engine_.totals()));
    return ok();
}

// ----------------------------------------------------------------- completion

std::vector<std::string> Session::completions(const std::vector<std::string>& before) const {
    std::vector<std::string> words;
    if (before.empty() || (before.size() == 1 && find(before.front()) == find("help"))) {
        for (const Command& command : commands()) words.push_back(first_name(command));
        return words;
    }
    const Command* known = find(before.front());
    if (!known) return words;
    const std::string command = first_name(*known);
    if (command == "rule" && before.size() == 1)
        return {"stop", "through", "drop", "fail", "tear", "delay", "reorder", "corrupt"};
    if (command == "rule" || command == "break") {
        words = {"read",  "write", "flush",  "discard", "zero", "any",  "at",   "size",        "nth",
                 "every", "once",  "number", "fua",     "meta", "sync", "data", "after-flush", "flushes"};
        if (before.size() == 1 || before.back() == "stop") words.insert(words.end(), {"before", "after"});
        if (before.back() == "fail") words.insert(words.end(), {"EIO", "ENOSPC", "ETIMEDOUT", "EREMOTEIO", "ENOLINK"});
        return words;
    }
    if (command == "run")
        return before.size() == 1 ? std::vector<std::string>{"to"} : std::vector<std::string>{"flush"};
    if (command == "fail") return {"EIO", "ENOSPC", "ETIMEDOUT", "EREMOTEIO", "ENOLINK"};
    if (command == "release" || command == "order") return {"random", "reverse", "same"};
    if (command == "wait") return {"stop"};
    if (command == "delete") words.push_back("all");
    if (command == "delete" || command == "enable" || command == "disable")
        for (const Rule& rule : engine_.rules()) words.push_back(std::to_string(rule.number));
    return words;
}

}  // namespace dmu::debug
