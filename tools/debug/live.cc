// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/live.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <fstream>
#include <iostream>

#include "tools/debug/base_copy.h"
#include "tools/debug/options.h"
#include "tools/debug/prompt.h"
#include "tools/debug/session.h"
#include "tools/lib/attach.h"
#include "tools/lib/program.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace dmu::debug {
namespace {

constexpr char program[] = "dmu-debug";
constexpr int future_poll_ms = 20;

// The device's I/O waits for this process: it must not wait for memory that the device's
// I/O would free, nor be paged out, nor be the first one killed.
void protect_process() {
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    (void)mlockall(MCL_CURRENT | MCL_FUTURE);
    std::ofstream("/proc/self/oom_score_adj") << "-1000";
}

// An image is a block device while this lives.
class Attached {
public:
    static Result<std::unique_ptr<Attached>> make(const Options& options) {
        std::unique_ptr<Attached> attached(new Attached);
        if (options.source.starts_with('/') || options.source.find(':') == std::string::npos) {
            attached->path_ = options.source;
            return attached;
        }
        const auto name = options.name + ".below";
        const auto states = attached->ports_->states(nullptr);
        attached->is_others_ =
            std::any_of(states.begin(), states.end(), [&](const auto& one) { return one.name == name; });
        const auto path = attach_disk(*attached->ports_, {.spec = options.source, .name = name});
        if (!path) return path.error();
        attached->path_ = *path;
        attached->name_ = name;
        return attached;
    }
    // Also what a predecessor has left is this one's now.
    void take_over() { is_others_ = false; }
    ~Attached() {
        if (name_.empty() || is_others_) return;
        if (const auto done = detach_disk(*ports_, name_); !done) fail(program, done.error().in(name_));
    }
    const std::string& path() const { return path_; }

private:
    Attached() = default;
    RealPorts ports_;
    std::string path_, name_;
    bool is_others_ = false;
};

class Live {
public:
    Live(Options options, const ExplainDevice& explain)
        : options_(std::move(options)), explain_(explain), output_(std::cout, options_.json) {}

    int run() {
        if (auto status = prepare(); !status) return fail(program, status.error());
        creating_ = device_->create(below_->shape());
        while (step_ != Step::gone)
            if (auto status = turn(); !status) return fail(program, status.error());
        output_.say("totals", totals_text(engine_->totals()), totals_json(engine_->totals()));
        return status_ ? status_ : session_->failed() ? exit_failed : 0;
    }

private:
    // serving -> ending (everything goes through) -> removing -> gone
    enum class Step { serving, ending, removing, gone };

    Status prepare() {
        if (auto status = block_signals(); !status) return status;
        if (auto status = read_script(); !status) return status;
        if (auto status = check_files(); !status) return status;
        auto attached = Attached::make(options_);
        if (!attached) return attached.error();
        attached_ = std::move(*attached);
        auto device = Device::open(options_.name, options_.on_death);
        if (!device) return device.error();
        device_ = std::move(*device);
        auto below = device_->open_below(attached_->path());
        if (!below) return below.error();
        below_ = std::move(*below);
        if (!options_.base.empty())
            if (auto status = copy_base(*below_, below_->shape().sectors, options_.base); !status) return status;
        if (auto status = make_engine(); !status) return status;
        attached_->take_over();
        protect_process();
        engine_->watch();
        return engine_->send();
    }

    Status block_signals() {
        sigset_t set;
        sigemptyset(&set);
        for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, number);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return signals_ >= 0 ? ok() : system_error("signalfd");
    }

    Status read_script() {
        if (!options_.script.empty() && options_.script != "-") {
            std::ifstream file(options_.script);
            if (!file) return system_error("reading the script " + options_.script);
            for (std::string line; std::getline(file, line);) script_.push_back(line);
        }
        script_.insert(script_.end(), options_.commands.begin(), options_.commands.end());
        return ok();
    }

    // Before anything is touched: it may be I/O that waits for this one.
    Status check_files() const {
        std::error_code unknown;
        if (!options_.log.empty() && std::filesystem::exists(options_.log + "/records", unknown))
            return Error{Code::busy, options_.log + " holds a log already; name another directory, or remove it"};
        if (!options_.base.empty() && std::filesystem::exists(options_.base, unknown))
            return Error{Code::busy, options_.base + " is there already; name another file for what is on the device"};
        return ok();
    }

    Status make_engine() {
        EngineSetup setup;
        if (auto status = make_stores(setup); !status) return status;
        setup.channel = &device_->channel();
        setup.below = below_.get();
        setup.device = device_->below();
        setup.sectors = below_->shape().sectors;
        setup.data = options_.data;
        setup.filter = options_.filter;
        setup.reads = options_.log_reads;
        setup.seed = options_.seed;
        setup.order = options_.order;
        setup.hold_limit = options_.hold_limit;
        engine_ = std::make_unique<Engine>(
            setup, Hooks{.stopped = [this](const Request* request,
                                           const std::string& why) { session_->stopped(request, why); },
                         .said = [this](const std::string& text) { session_->said(text); }});
        session_ = std::make_unique<Session>(*engine_, output_, explain_ ? explain_(attached_->path()) : nullptr);
        for (const auto& rule : options_.rules)
            if (const auto added = engine_->add_rule(rule); !added) return added.error();
        if (options_.stopped) engine_->pause();
        return ok();
    }

    Status make_stores(EngineSetup& setup) {
        auto memory = make_memory_store(options_.memory);
        if (!memory) return memory.error();
        const auto number = device_->add_destination((*memory)->descriptor(), 0);
        if (!number) return number.error();
        memory_ = std::move(*memory);
        memory_->set_destination(*number);
        setup.memory = memory_.get();
        if (options_.log.empty()) return ok();
        timespec now{};
        clock_gettime(CLOCK_REALTIME, &now);
        auto log = LogWriter::create(options_.log, {.sectors = below_->shape().sectors,
                                                    .block = below_->shape().logical,
                                                    .started = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
                                                               static_cast<std::uint64_t>(now.tv_nsec),
                                                    .source = options_.source,
                                                    .partial = options_.filter.leaves_out()});
        if (!log) return log.error();
        log_ = std::move(*log);
        setup.log = log_.get();
        const auto data = device_->add_destination(log_->data_descriptor(), 0);
        if (!data) return data.error().in(log_->data_path());
        log_store_ = make_log_store(*log_);
        log_store_->set_destination(*data);
        setup.log_store = log_store_.get();
        return ok();
    }

    // ------------------------------------------------------------------ loop

    Status turn() {
        const bool wants_lines = takes_lines();
        pollfd fds[] = {{device_->channel().poll_descriptor(), POLLIN, 0},
                        {signals_, POLLIN, 0},
                        {wants_lines && input_ ? input_->descriptor() : -1, POLLIN, 0}};
        if (poll(fds, 3, timeout()) < 0 && errno != EINTR) return system_error("poll");
        if (auto status = take_events(); !status) return status;
        if (fds[1].revents) take_signals();
        if (fds[2].revents) input_->read();
        engine_->tick();
        take_lines();
        if (auto status = engine_->send(); !status) return status;
        return go_on();
    }

    int timeout() const {
        if (creating_.valid() || removing_.valid()) return future_poll_ms;
        if (step_ == Step::ending) return future_poll_ms;
        auto due = engine_->next_due();
        if (const auto session = session_->next_due(); session && (!due || *session < *due)) due = session;
        if (!due) return -1;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(*due - Clock::now()).count();
        return static_cast<int>(std::clamp<long long>(left, 0, 60'000));
    }

    Status take_events() {
        for (;;) {
            dmu_event events[64];
            const auto count = device_->channel().read(events);
            if (!count) return count.error();
            for (std::size_t i = 0; i < *count; ++i) engine_->event(events[i]);
            if (auto status = engine_->send(); !status) return status;
            if (*count < std::size(events)) return ok();
        }
    }

    void take_signals() {
        for (signalfd_siginfo info; ::read(signals_, &info, sizeof info) == sizeof info;) {
            if (info.ssi_signo == SIGCHLD)
                child_ended();
            else if (info.ssi_signo == SIGINT && input_ && input_->is_terminal())
                engine_->pause();
            else
                end();
        }
    }

    void child_ended() {
        int status = 0;
        if (child_ <= 0 || waitpid(child_, &status, WNOHANG) != child_) return;
        child_ = 0;
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        end();
    }

    bool takes_lines() { return step_ == Step::serving && !creating_.valid() && session_->ready(); }

    void take_lines() {
        while (takes_lines()) {
            if (session_->quits()) {
                end();
                return;
            }
            if (!script_.empty()) {
                const std::string line = script_.front();
                script_.pop_front();
                session_->take(line, true);
                continue;
            }
            const auto line = input_ ? input_->next() : std::nullopt;
            if (!line) return;
            session_->take(*line, !input_->is_terminal());
        }
    }

    void end() {
        if (step_ != Step::serving) return;
        step_ = Step::ending;
        ended_ = Clock::now();
        input_.reset();
        output_.before = output_.after = {};
        engine_->finish();
    }

    Status go_on() {
        constexpr std::chrono::seconds none{};
        constexpr std::chrono::seconds patience{2};
        if (step_ == Step::ending && Clock::now() - ended_ > patience) engine_->drain();
        if (creating_.valid() && creating_.wait_for(none) == std::future_status::ready)
            if (auto status = created(creating_.get()); !status) return status;
        if (step_ == Step::ending && !creating_.valid() && engine_->idle()) {
            step_ = Step::removing;
            engine_->pass();
            if (auto status = engine_->send(); !status) return status;
            removing_ = device_->remove(below_->shape());
        }
        if (removing_.valid() && removing_.wait_for(none) == std::future_status::ready) {
            const auto removed = removing_.get();
            if (!removed) return removed.error();
            if (*removed == Device::Removed::when_closed)
                output_.say("note", "/dev/mapper/" + options_.name +
                                        " is still open: it passes everything through, and goes when it is closed");
            return drained();
        }
        return ok();
    }

    // What came while it was being taken away.
    Status drained() {
        for (;;) {
            if (auto status = take_events(); !status) return status;
            const auto state = device_->channel().state();
            if (!state) return state.error();
            if (state->pending == 0 && engine_->idle()) break;
            usleep(1000 * future_poll_ms);
        }
        step_ = Step::gone;
        return ok();
    }

    Status created(const Result<DmInfo>& info) {
        if (!info) return info.error();
        output_.say("device", info->path + (device_->taken_over() ? " (taken over)" : ""), {{"path", info->path}});
        if (script_.empty() || options_.script == "-" || isatty(STDIN_FILENO))
            input_ = open_input([this](const auto& before) { return session_->completions(before); });
        if (input_ && input_->is_terminal()) {
            output_.before = [this] { input_->hide(); };
            output_.after = [this] { input_->show(); };
        }
        if (!options_.run.empty()) return start_child(info->path);
        return ok();
    }

    Status start_child(const std::string& path) {
        child_ = fork();
        if (child_ < 0) return system_error("starting " + options_.run);
        if (child_ > 0) return ok();
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, nullptr);
        (void)prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
        setenv("DMU_DEBUG_DEVICE", path.c_str(), 1);
        execl("/bin/sh", "sh", "-c", options_.run.c_str(), nullptr);
        _exit(127);
    }

    const Options options_;
    const ExplainDevice explain_;
    Output output_;
    int signals_ = -1, status_ = 0;
    pid_t child_ = 0;
    std::deque<std::string> script_;
    std::unique_ptr<Attached> attached_;
    std::unique_ptr<BlockDevice> below_;
    std::unique_ptr<LogWriter> log_;
    std::unique_ptr<Store> memory_, log_store_;
    std::unique_ptr<Device> device_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Session> session_;
    std::unique_ptr<LineSource> input_;
    std::future<Result<DmInfo>> creating_;
    std::future<Result<Device::Removed>> removing_;
    Step step_ = Step::serving;
    Time ended_ = {};
};

}  // namespace

int live_command(int argc, char** argv, const ExplainDevice& explain) {
    CLI::App app("Logs, stops and changes what is written to a block device or an image.", program);
    app.set_version_flag("--version", DMU_PACKAGE_VERSION);
    app.footer("With a log: dmu-debug log, replay, crash, bisect, plot; dmu-debug explain. See dmu-debug(8).");
    OptionParser parser(app);
    return run_program(app, argc, argv, [&] {
        const auto options = parser.take();
        if (!options) {
            fail(program, options.error());
            return exit_usage;
        }
        return Live(*options, explain).run();
    });
}

}  // namespace dmu::debug
