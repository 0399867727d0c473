// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/rule.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <sstream>

namespace dmu::debug {
namespace {

constexpr unsigned bit(Op op) {
    return 1u << static_cast<unsigned>(op);
}
constexpr unsigned every_op = bit(Op::read) | bit(Op::write) | bit(Op::discard) | bit(Op::zero) | bit(Op::flush);

Error invalid(const std::string& text) {
    return {Code::invalid, text};
}

// The words of a rule, taken one by one.
class Words {
public:
    explicit Words(const std::string& text) : words_(split_words(text)) {}
    bool empty() const { return at_ == words_.size(); }
    const std::string& front() const { return words_[at_]; }
    std::string take() { return words_[at_++]; }
    // The argument of what was just taken.
    Result<std::string> argument(const std::string& of, const std::string& what) {
        if (empty()) return invalid("'" + of + "' wants " + what);
        return take();
    }

private:
    std::vector<std::string> words_;
    std::size_t at_ = 0;
};

bool is_number(const std::string& word) {
    return !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
}

Result<Action> action_of(Words& words) {
    if (words.empty()) return invalid("an action is missing");
    const std::string name = words.take();
    Action action;
    if (name == "stop" || name == "break") {
        action.what = Do::stop;
        if (!words.empty() && (words.front() == "after" || words.front() == "before"))
            action.after = words.take() == "after";
        return action;
    }
    for (const Do what : {Do::through, Do::drop, Do::fail, Do::tear, Do::delay, Do::reorder, Do::corrupt})
        if (name == name_of(what)) action.what = what;
    if (name != name_of(action.what))
        return invalid("there is no action '" + name +
                       "'; there are stop, through, drop, fail, tear, delay, reorder, corrupt");
    if (action.what == Do::fail) {
        action.error = EIO;
        if (!words.empty() && (words.front().starts_with('E') || is_number(words.front()))) {
            const auto error = parse_errno(words.take());
            if (!error) return error.error();
            action.error = *error;
        }
    } else if (action.what == Do::tear) {
        const auto text = words.argument(name, "the sectors that are written, as 0+1 (of the request)");
        if (!text) return text.error();
        const auto part = parse_range(*text);
        if (!part) return part.error();
        action.part = *part;
    } else if (action.what == Do::delay) {
        const auto text = words.argument(name, "a time, as 200ms");
        if (!text) return text.error();
        const auto time = parse_time(*text);
        if (!time) return time.error();
        action.delay = *time;
    } else if (action.what == Do::corrupt && !words.empty() && is_number(words.front())) {
        const std::string count = words.take();
        std::from_chars(count.data(), count.data() + count.size(), action.bytes);
        if (action.bytes == 0 || action.bytes > 4096) return invalid("corrupt: 1 to 4096 bytes, not " + count);
    }
    return action;
}

Result<Pattern> parse_pattern(std::string text) {
    Pattern pattern;
    if (text.starts_with('"')) {
        for (const char c : text.substr(1)) pattern.bytes.push_back(static_cast<std::byte>(c));
        if (pattern.bytes.empty()) return invalid("the pattern is empty");
        return pattern;
    }
    std::string hex = text;
    if (const auto at = hex.find('@'); at != std::string::npos) {
        const std::string offset = hex.substr(at + 1);
        if (!is_number(offset)) return invalid("'" + text + "': an offset in bytes is expected after '@'");
        pattern.offset = std::stoull(offset);
        hex = hex.substr(0, at);
    }
    if (hex.starts_with("hex:")) hex = hex.substr(4);
    const bool good =
        !hex.empty() && hex.size() % 2 == 0 && hex.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
    if (!good) return invalid("'" + text + "' is not a pattern (\"text\", or bytes as hex:c03b3998, hex:53ef@1080)");
    for (std::size_t i = 0; i < hex.size(); i += 2)
        pattern.bytes.push_back(static_cast<std::byte>(std::stoul(hex.substr(i, 2), nullptr, 16)));
    return pattern;
}

// "write" and "write,discard"; nothing: it is another word.
std::optional<unsigned> ops_of(const std::string& word) {
    if (word == "any") return every_op;
    unsigned ops = 0;
    std::istringstream list(word);
    for (std::string name; std::getline(list, name, ',');) {
        const auto op = op_named(name);
        if (!op) return std::nullopt;
        ops |= bit(*op);
    }
    return ops;
}

Status take_span(Words& words, const std::string& name, bool sectors, std::optional<Span>& into) {
    const auto text = words.argument(name, sectors ? "a size: 8, 8-64, 8-" : "a number: 3, 3-5, 3-");
    if (!text) return text.error();
    const auto span = sectors ? parse_sizes(*text) : parse_span(*text);
    if (!span) return span.error();
    into = *span;
    return ok();
}

Status condition(Words& words, Rule& rule) {
    const std::string name = words.take();
    if (const auto ops = ops_of(name)) {
        rule.ops |= *ops;
        return ok();
    }
    if (name == "if" || name == "and") return ok();
    for (const auto& [word, flag] : {std::pair{"fua", flag_fua}, {"meta", flag_meta}, {"sync", flag_sync}}) {
        if (name != word) continue;
        rule.flags |= flag;
        return ok();
    }
    if (name == "size") return take_span(words, name, true, rule.size);
    if (name == "nth") return take_span(words, name, false, rule.nth);
    if (name == "number") return take_span(words, name, false, rule.numbers);
    if (name == "once") {
        rule.nth = Span{1, 1};
        return ok();
    }
    if (name == "after-flush") {
        rule.after_flush = true;
        return ok();
    }
    const bool known = name == "at" || name == "data" || name == "every" || name == "flushes";
    if (!known)
        return invalid("there is no condition '" + name +
                       "'; there are read, write, flush, discard, zero, any, at, size, nth, every, once, number, fua, "
                       "meta, sync, data, after-flush, flushes");
    const auto text = words.argument(name, name == "at" ? "a range: 2048+8, 1M+64K" : "an argument");
    if (!text) return text.error();
    if (name == "at") {
        const auto range = parse_range(*text);
        if (!range) return range.error();
        rule.at = *range;
    } else if (name == "data") {
        const auto pattern = parse_pattern(*text);
        if (!pattern) return pattern.error();
        rule.pattern = *pattern;
    } else {
        const auto span = parse_span(*text);
        if (!span || span->first != span->last) return invalid("'" + name + " " + *text + "': a number is expected");
        if (name == "flushes")
            rule.flush_count = span->first;
        else if (span->first == 0)
            return invalid("every 0: a number from 1 is expected");
        else
            rule.every = span->first;
    }
    return ok();
}

// What does not go together.
Status check(Rule& rule) {
    constexpr unsigned all_but_flush = every_op & ~bit(Op::flush);
    const Do what = rule.action.what;
    unsigned can = every_op;
    if (what == Do::tear || what == Do::reorder) can = bit(Op::write);
    if (what == Do::corrupt) can = bit(Op::read);
    if (rule.pattern) can &= bit(Op::write);
    if (rule.at || rule.size) can &= all_but_flush;
    if (rule.ops == 0) {
        rule.ops = can & (rule.pattern ? can : can & bit(Op::write) ? bit(Op::write) : can);
    } else if (rule.ops & ~can) {
        return invalid("'" + rule.text + "': this is possible only for " +
                       (can == bit(Op::write)  ? "write"
                        : can == bit(Op::read) ? "read"
                                               : "read, write, discard and zero"));
    }
    if (rule.ops == 0) return invalid("'" + rule.text + "' can never match");
    return ok();
}

}  // namespace

bool Pattern::in(std::span<const std::byte> data) const {
    if (offset)
        return *offset <= data.size() && bytes.size() <= data.size() - *offset &&
               std::equal(bytes.begin(), bytes.end(), data.begin() + static_cast<std::ptrdiff_t>(*offset));
    return std::search(data.begin(), data.end(), bytes.begin(), bytes.end()) != data.end();
}

bool may_match(const Rule& rule, const Request& request, const Past& past) {
    if (!rule.enabled || !rule.takes(request.op)) return false;
    if (rule.at && !rule.at->overlaps(request.range)) return false;
    if (rule.size && !rule.size->has(request.range.length)) return false;
    if (rule.numbers && !rule.numbers->has(request.number())) return false;
    if ((request.flags & rule.flags) != rule.flags) return false;
    if (rule.after_flush && past.written_since_flush) return false;
    if (rule.action.what == Do::reorder && request.flags & flag_fua) return false;
    return !rule.flush_count || *rule.flush_count == past.flushes;
}

bool is_due(Rule& rule) {
    ++rule.matches;
    if (rule.nth && !rule.nth->has(rule.matches)) return false;
    return rule.matches % rule.every == 0;
}

Result<Rule> parse_rule(const std::string& text) {
    Rule rule;
    rule.text = text;
    Words words(text);
    const auto action = action_of(words);
    if (!action) return action.error();
    rule.action = *action;
    while (!words.empty())
        if (auto status = condition(words, rule); !status) return status.error();
    if (auto status = check(rule); !status) return status.error();
    return rule;
}

Result<Action> parse_action(const std::string& text) {
    Words words(text);
    auto action = action_of(words);
    if (action && !words.empty()) return invalid("'" + text + "': '" + words.front() + "' is too much");
    return action;
}

}  // namespace dmu::debug
