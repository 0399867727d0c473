// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/config_rewrite.h"

#include <algorithm>

#include "tools/lib/disk_entry.h"
#include "tools/lib/xl_config.h"

namespace dmu {
namespace {

// The few tokens of xl's configuration language that matter for finding strings.
class Scanner {
public:
    explicit Scanner(const std::string& text) : text_(text) {}

    std::vector<DiskLiteral> run() {
        while (at_ < text_.size()) step();
        return std::move(found_);
    }

private:
    void step() {
        const char c = text_[at_];
        if (c == '#') {
            at_ = std::min(text_.find('\n', at_), text_.size());
        } else if (c == '"' || c == '\'') {
            literal(c);
        } else if (is_word(c)) {
            const std::size_t start = at_;
            while (at_ < text_.size() && is_word(text_[at_])) ++at_;
            if (depth_ == 0) word_ = text_.substr(start, at_ - start);
        } else {
            if (c == '[') ++depth_;
            if (c == ']' && depth_ > 0) --depth_;
            if (c == '=' && depth_ == 0) in_disk_ = word_ == "disk";
            if ((c == '\n' || c == ';') && depth_ == 0) end_statement();
            ++at_;
        }
    }

    void end_statement() {
        word_.clear();
        in_disk_ = false;
    }

    void literal(char quote) {
        DiskLiteral found{at_, text_.size(), quote, {}};
        ++at_;
        while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n') {
            if (text_[at_] == '\\' && at_ + 1 < text_.size())
                escape(found.value);
            else
                found.value += text_[at_++];
        }
        if (at_ < text_.size()) ++at_;
        found.end = at_;
        if (in_disk_ && depth_ == 1) found_.push_back(std::move(found));
    }

    void escape(std::string& value) {
        static const std::string letters = "abfnrtv", meanings = "\a\b\f\n\r\t\v";
        const char c = text_[++at_];
        if (const auto letter = letters.find(c); letter != std::string::npos) {
            value += meanings[letter];
            ++at_;
        } else if (c >= '0' && c <= '7') {
            unsigned number = 0;
            for (int digits = 0; digits < 3 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++digits)
                number = number * 8 + static_cast<unsigned>(text_[at_++] - '0');
            value += static_cast<char>(number);
        } else {
            value += c;
            ++at_;
        }
    }

    static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }

    const std::string& text_;
    std::size_t at_ = 0;
    int depth_ = 0;
    bool in_disk_ = false;
    std::string word_;
    std::vector<DiskLiteral> found_;
};

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::size_t start = 0;
    while (start < text.size()) {
        const auto end = std::min(text.find('\n', start), text.size() - 1);
        lines.push_back(text.substr(start, end + 1 - start));
        start = end + 1;
    }
    return lines;
}

std::string diff_line(char mark, const std::string& line) {
    return mark + line + (line.ends_with('\n') ? "" : "\n\\ No newline at end of file\n");
}

Status prove(const std::string& before, const std::string& after, const std::string& name) {
    const auto old_list = parse_disk_list(before, name);
    if (!old_list) return old_list.error();
    const auto new_list = parse_disk_list(after, name);
    const auto wanted = translate_disks(old_list->value_or(std::vector<std::string>()));
    if (!wanted) return wanted.error().in(name);
    if (!new_list || new_list->value_or(std::vector<std::string>()) != wanted->entries)
        return Error{Code::unsupported,
                     name + ": cannot rewrite 'disk' in place (an unusual layout); change it by hand, to:\n" +
                         disk_assignment(wanted->entries)};
    return ok();
}

}  // namespace

std::vector<DiskLiteral> find_disk_literals(const std::string& text) {
    return Scanner(text).run();
}

Result<Rewrite> rewrite_config(const std::string& text, const std::string& name) {
    // First, so that what xl cannot read is said before anything about disks.
    if (const auto list = parse_disk_list(text, name); !list) return list.error();
    Rewrite result;
    std::size_t copied = 0;
    for (const auto& literal : find_disk_literals(text)) {
        const auto translation = translate_disk(literal.value);
        if (!translation) return translation.error().in(name);
        if (!translation->changed) continue;
        result.text += text.substr(copied, literal.begin - copied) + quote_for_xl(translation->text, literal.quote);
        copied = literal.end;
        ++result.changed;
    }
    result.text += text.substr(copied);
    if (auto status = prove(text, result.text, name); !status) return status.error();
    return result;
}

std::string unified_diff(const std::string& before, const std::string& after, const std::string& name) {
    constexpr std::size_t context = 3;
    const auto old_lines = lines_of(before), new_lines = lines_of(after);
    const std::size_t count = std::min(old_lines.size(), new_lines.size());
    const auto differs = [&](std::size_t i) { return old_lines[i] != new_lines[i]; };
    std::string diff;
    for (std::size_t i = 0; i < count; ++i) {
        if (!differs(i)) continue;
        std::size_t last = i;
        for (std::size_t j = i; j < count && j <= last + 2 * context; ++j)
            if (differs(j)) last = j;
        const std::size_t begin = i > context ? i - context : 0;
        const std::size_t end = std::min(count, last + context + 1);
        const std::string range = std::to_string(begin + 1) + "," + std::to_string(end - begin);
        if (diff.empty()) diff = "--- " + name + "\n+++ " + name + "\n";
        diff += "@@ -" + range + " +" + range + " @@\n";
        for (std::size_t j = begin; j < end;) {
            if (!differs(j)) {
                diff += diff_line(' ', old_lines[j++]);
                continue;
            }
            std::size_t k = j;
            for (; k < end && differs(k); ++k) diff += diff_line('-', old_lines[k]);
            for (; j < k; ++j) diff += diff_line('+', new_lines[j]);
        }
        i = end - 1;
    }
    return diff;
}

}  // namespace dmu
