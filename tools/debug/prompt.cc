// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/prompt.h"

#include <editline/readline.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "tools/debug/parse.h"

namespace dmu::debug {
namespace {

class Pipe final : public LineSource {
public:
    Pipe() { fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK); }
    int descriptor() const override { return fd_; }
    void read() override {
        char buffer[4096];
        for (;;) {
            const auto got = ::read(fd_, buffer, sizeof buffer);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == EAGAIN) break;
            if (got <= 0) {
                fd_ = -1;
                if (!text_.empty()) text_ += '\n';
                break;
            }
            text_.append(buffer, static_cast<std::size_t>(got));
        }
    }
    std::optional<std::string> next() override {
        const auto end = text_.find('\n');
        if (end == std::string::npos) return std::nullopt;
        std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        return line;
    }

private:
    int fd_ = STDIN_FILENO;
    std::string text_;
};

// libedit keeps its state in global variables, and so this is one.
struct Terminal;
Terminal* terminal = nullptr;

constexpr char prompt_text[] = "(dmu-debug) ";

std::string history_file() {
    const char* home = std::getenv("HOME");
    return home && *home ? std::string(home) + "/.dmu-debug_history" : "";
}

struct Terminal final : public LineSource {
    explicit Terminal(const Completions& complete) : completions(complete) {
        terminal = this;
        rl_readline_name = "dmu-debug";
        rl_attempted_completion_function = &Terminal::complete_word;
        rl_catch_signals = 0;
        using_history();
        stifle_history(1000);
        if (!history_file().empty()) (void)read_history(history_file().c_str());
        rl_callback_handler_install(prompt_text, &Terminal::line_done);
    }
    ~Terminal() override {
        rl_callback_handler_remove();
        if (!history_file().empty()) (void)write_history(history_file().c_str());
        terminal = nullptr;
    }
    int descriptor() const override { return ended ? -1 : STDIN_FILENO; }
    void read() override {
        rl_callback_read_char();
        if (!std::exchange(line_ended, false) || ended) return;
        // libedit leaves its mode, and the terminal's, with each line: the next read would
        // wait for a whole one.
        rl_callback_handler_install(prompt_text, &Terminal::line_done);
        rl_point = rl_end = 0;
    }
    std::optional<std::string> next() override {
        if (lines.empty()) return std::nullopt;
        std::string line = lines.front();
        lines.pop_front();
        return line;
    }
    bool is_terminal() const override { return true; }
    void hide() override { std::fputs("\r\033[K", stdout), std::fflush(stdout); }
    void show() override {
        if (ended) return;
        std::printf("%s%s", prompt_text, rl_line_buffer ? std::string(rl_line_buffer, rl_end).c_str() : "");
        std::fflush(stdout);
    }

    static void line_done(char* line) {
        terminal->line_ended = true;
        if (!line) {
            terminal->ended = true;
            terminal->lines.push_back("quit");
            std::printf("\n");
            return;
        }
        if (*line) add_history(line);
        terminal->lines.emplace_back(line);
        std::free(line);
    }

    static char** complete_word(const char* word, int start, int) {
        terminal->found = {};
        std::string line(rl_line_buffer, static_cast<std::size_t>(start));
        if (const auto other = line.rfind(';'); other != std::string::npos) line.erase(0, other + 1);
        const std::vector<std::string> before = split_words(line);
        for (const auto& candidate : terminal->completions(before))
            if (candidate.starts_with(word)) terminal->found.push_back(candidate);
        // Never the names of files.
        rl_attempted_completion_over = 1;
        return rl_completion_matches(word, &Terminal::next_match);
    }

    static char* next_match(const char*, int state) {
        const auto at = static_cast<std::size_t>(state);
        return at < terminal->found.size() ? strdup(terminal->found[at].c_str()) : nullptr;
    }

    Completions completions;
    std::deque<std::string> lines;
    std::vector<std::string> found;
    bool ended = false, line_ended = false;
};

}  // namespace

std::unique_ptr<LineSource> open_input(const Completions& completions) {
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) return std::make_unique<Terminal>(completions);
    return std::make_unique<Pipe>();
}

}  // namespace dmu::debug
