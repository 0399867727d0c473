// SPDX-License-Identifier: GPL-2.0-or-later
// The prompt on a terminal: a child has it, with a session and an engine behind it, and we
// type.
#include "tools/debug/prompt.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "tests/unit/debug/bench.h"
#include "tools/debug/session.h"

namespace dmu::debug {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char up[] = "\033[A", left[] = "\033[D", clear_line[] = "\025", ctrl_c[] = "\003", ctrl_d[] = "\004";

class PromptTest : public EngineTest {
protected:
    void SetUp() override {
        EngineTest::SetUp();
        home_ = testing::TempDir() + "dmu-prompt-XXXXXX";
        ASSERT_NE(mkdtemp(home_.data()), nullptr);
        begin();
    }
    void TearDown() override {
        if (child_ > 0) kill(child_, SIGKILL), waitpid(child_, nullptr, 0);
        close(terminal_), close(requests_);
        std::filesystem::remove_all(home_);
    }

    void begin() {
        int requests[2];
        ASSERT_EQ(pipe(requests), 0);
        std::cout << std::flush;
        child_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
        ASSERT_GE(child_, 0);
        if (child_ == 0) converse(requests[0]);
        close(requests[0]);
        requests_ = requests[1];
        seen_.clear();
        EXPECT_THAT(wait_for("(dmu-debug) "), HasSubstr("(dmu-debug) "));
    }

    void type(const std::string& text) {
        ASSERT_EQ(::write(terminal_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    }
    // What is shown from the last call on, until it has this in it, or nothing comes any more.
    std::string wait_for(const std::string& text) {
        constexpr int patience_ms = 20'000;
        pollfd fd{terminal_, POLLIN, 0};
        while (seen_.find(text) == std::string::npos && poll(&fd, 1, patience_ms) > 0) {
            char buffer[1024];
            const auto got = ::read(terminal_, buffer, sizeof buffer);
            if (got <= 0) break;
            seen_.append(buffer, static_cast<std::size_t>(got));
        }
        return std::exchange(seen_, {});
    }
    std::string answer(const std::string& typed, const std::string& text) {
        type(typed);
        return wait_for(text);
    }
    // A write arrives at the child's engine.
    void request() { ASSERT_EQ(::write(requests_, "w", 1), 1); }
    // It has been told to: its terminal is closed when it does.
    int end() {
        wait_for("its end, and not this");
        int status = -1;
        kill(child_, SIGKILL);  // if it has not
        waitpid(std::exchange(child_, -1), &status, 0);
        close(terminal_), close(requests_);
        return status;
    }

private:
    // As the debugger's loop does.
    [[noreturn]] void converse(int requests) {
        setenv("HOME", home_.c_str(), 1);
        setenv("TERM", "vt100", 1);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        const int signals = signalfd(-1, &set, SFD_CLOEXEC);
        Output output(std::cout, false);
        Session session(*engine, output, nullptr);
        auto input = open_input([&](const auto& before) { return session.completions(before); });
        output.before = [&] { input->hide(); };
        output.after = [&] { input->show(); };
        on_stopped = [&](const Request* stopped, const std::string& why) { session.stopped(stopped, why); };
        while (!session.quits()) {
            pollfd fds[] = {{input->descriptor(), POLLIN, 0}, {requests, POLLIN, 0}, {signals, POLLIN, 0}};
            if (poll(fds, 3, -1) < 0) _exit(1);
            char byte = 0;
            if (fds[1].revents && ::read(requests, &byte, 1) == 1) write(8, 0x41);
            if (signalfd_siginfo info; fds[2].revents && ::read(signals, &info, sizeof info) > 0) engine->pause();
            if (fds[0].revents) input->read();
            while (const auto line = input->next()) session.take(*line, !input->is_terminal());
            if (!engine->send()) _exit(2);
        }
        input.reset();
        std::cout << std::flush;
        _exit(0);
    }

    std::string home_, seen_;
    pid_t child_ = -1;
    int terminal_ = -1, requests_ = -1;
};

TEST_F(PromptTest, TabCompletesCommandsAndTheirWords) {
    EXPECT_THAT(answer("bre\twri\tat 8\n", "rule 1: stop write at 8"), HasSubstr("rule 1: stop write at 8"));
    EXPECT_THAT(answer("rule dr\twri\tonce; sta\t\n", "us a request"), HasSubstr("rule 2: drop write once"))
        << "of each command in a line";
    EXPECT_THAT(answer("b bef\tdisc\t\n", "rule 3: stop before discard"), HasSubstr("rule 3: stop before discard"))
        << "by the short name, too";
}

TEST_F(PromptTest, TabListsWhatCanStandThere) {
    EXPECT_THAT(answer("re\t\t", "requests"), AllOf(HasSubstr("release"), HasSubstr("reorder"), HasSubstr("requests")));
    EXPECT_THAT(answer(std::string(clear_line) + "rules\n", "no rules"), HasSubstr("no rules"));
}

TEST_F(PromptTest, HistoryIsKeptAndComesBack) {
    EXPECT_THAT(answer("break write at 8\n", "rule 1"), HasSubstr("rule 1"));
    EXPECT_THAT(answer(std::string(up) + "\n", "rule 2: stop write at 8"), HasSubstr("rule 2: stop write at 8"));
    EXPECT_THAT(answer(std::string(up) + left + "1\n", "rule 3"), HasSubstr("rule 3: stop write at 18")) << "edited";
    type(ctrl_d);
    EXPECT_EQ(end(), 0);
    begin();
    EXPECT_THAT(answer(std::string(up) + "\n", "rule 1"), HasSubstr("rule 1: stop write at 18"))
        << "in another session";
}

TEST_F(PromptTest, Help) {
    EXPECT_THAT(answer("help tear\n", "ends well"), HasSubstr("FIRST+COUNT"));
    EXPECT_THAT(answer("?\n", "the device goes when nobody uses it"), HasSubstr("reorder hold"));
    EXPECT_THAT(answer("frobnicate\n", "help lists"), HasSubstr("no command 'frobnicate'"));
}

TEST_F(PromptTest, WhatIsTypedStaysWhenSomethingStops) {
    answer("break write\n", "rule 1");
    type("sho");
    wait_for("sho");
    request();
    EXPECT_THAT(wait_for("(dmu-debug) sho"), HasSubstr("stopped before #1 write 8+1: rule 1")) << "and the line again";
    EXPECT_THAT(answer("w\n", "stopped  "), HasSubstr("#1 write 8+1  stopped"));
}

TEST_F(PromptTest, CtrlCPausesAndCtrlDQuits) {
    EXPECT_THAT(answer(ctrl_c, "paused"), HasSubstr("paused"));
    EXPECT_THAT(answer("show\n", "no request"), HasSubstr("paused, no request is stopped"));
    type(ctrl_d);
    EXPECT_EQ(end(), 0);
}

}  // namespace
}  // namespace dmu::debug
