// SPDX-License-Identifier: GPL-2.0-or-later
// The command lines of crash and bisect.
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <iostream>

#include "tools/debug/offline/bisect.h"
#include "tools/debug/offline/command_line.h"
#include "tools/debug/offline/commands.h"
#include "tools/debug/offline/crash_device.h"

namespace dmu::debug {

namespace {

struct CrashOptions {
    std::string directory, base, onto, name, with;
    std::vector<std::string> command;
    std::uint64_t at = 0, sample = 0, seed = 1, limit = 4096;
    bool all = false, torn = false, json = false;

    bool many() const { return all || sample != 0; }
};

Result<std::vector<std::uint64_t>> parse_numbers(const std::string& text) {
    std::vector<std::uint64_t> numbers;
    for (std::size_t at = 0; at < text.size();) {
        const auto comma = std::min(text.find(',', at), text.size());
        const auto span = parse_span(text.substr(at, comma - at));
        if (!span) return span.error();
        if (span->last - span->first > 1'000'000) return Error{Code::invalid, "'" + text + "' is too long a list"};
        for (auto number = span->first; number <= span->last; number++) numbers.push_back(number);
        at = comma + 1;
    }
    return numbers;
}

class Crash {
public:
    Crash(const CrashOptions& options, const LogReader& log, CrashPoint point)
        : options_(options), log_(log), point_(std::move(point)) {}

    int run() {
        auto states = choose();
        if (!states) return failed(states.error());
        describe(states->size());
        if (options_.onto.empty() && options_.name.empty() && options_.command.empty()) {
            for (const auto& one : point_.uncertain)
                std::cout << (options_.json ? record_json(*one.record) : record_text(*one.record)) << "\n";
            return 0;
        }
        if (options_.base.empty())
            return failed({Code::invalid, "--base is needed: the device or image as it was before the log"});
        auto scratch = Scratch::make();
        if (!scratch) return failed(scratch.error());
        scratch_ = std::move(*scratch);
        return options_.name.empty() ? images(*states) : devices(*states);
    }

private:
    Result<std::vector<CrashState>> choose() const {
        const auto torn = options_.torn ? log_.header().block / sector_bytes : 0;
        if (options_.all) return all_states(point_, options_.limit);
        if (options_.sample != 0) return sample_states(point_, options_.sample, options_.seed, torn);
        if (options_.with == "all") return std::vector<CrashState>{state_with_all(point_)};
        const auto numbers = parse_numbers(options_.with);
        if (!numbers) return numbers.error();
        auto state = state_with(point_, *numbers);
        if (!state) return state.error();
        return std::vector<CrashState>{std::move(*state)};
    }

    void describe(std::size_t chosen) const {
        if (options_.json)
            return print_json({{"kind", "crash"},
                               {"at", point_.at},
                               {"safe", point_.durable.size()},
                               {"uncertain", point_.uncertain.size()},
                               {"unordered_pairs", point_.unordered.size()},
                               {"results", count_text(point_)},
                               {"chosen", chosen}});
        std::cout << "crash at " << point_.at << ": " << point_.durable.size() << " writes are safe, "
                  << point_.uncertain.size() << " uncertain";
        if (!point_.unordered.empty()) std::cout << ", " << point_.unordered.size() << " pairs in either order";
        std::cout << "; at most " << count_text(point_) << " results";
        if (options_.many()) std::cout << ", " << chosen << " of them follow";
        std::cout << std::endl;
    }

    static std::string numbered(std::size_t index) {
        const auto text = std::to_string(index + 1);
        return std::string(text.size() < 4 ? 4 - text.size() : 0, '0') + text;
    }

    // As files, each checked if there is a command.
    int images(const std::vector<CrashState>& states) {
        std::error_code made;
        if (options_.many() && !options_.onto.empty()) std::filesystem::create_directories(options_.onto, made);
        if (made) return failed(system_error("cannot make the directory " + options_.onto, made.value()));
        std::size_t bad = 0;
        for (std::size_t i = 0; i < states.size(); i++) {
            auto path = options_.onto.empty() ? scratch_->file("crash") : options_.onto;
            if (options_.many() && !options_.onto.empty()) path += "/crash-" + numbered(i) + ".img";
            {
                const auto image = make_image(log_, contents_of(states[i]), options_.base, path);
                if (!image) return failed(image.error());
            }
            if (auto good = check(path, states[i], !options_.onto.empty()); !good)
                return failed(good.error());
            else if (!*good)
                bad++;
        }
        return conclude(bad, states.size());
    }

    int conclude(std::size_t bad, std::size_t of) const {
        if (options_.command.empty()) return 0;
        if (options_.json)
            print_json({{"kind", "verdict"}, {"bad", bad}, {"of", of}});
        else
            std::cout << bad << " of " << of << " bad\n";
        return bad == 0 ? 0 : exit_bad;
    }

    // Prints the state's line, the path before it if it stays. True: no command, or it is content.
    Result<bool> check(const std::string& path, const CrashState& state, bool stays) const {
        std::string verdict;
        Judged judged;
        if (!options_.command.empty()) {
            auto result = judge(options_.command, path);
            if (!result) return result.error();
            judged = std::move(*result);
            verdict = judged.good() ? "good, " : "bad (status " + std::to_string(judged.status) + "), ";
        }
        if (options_.json) {
            Json line{{"kind", "result"}, {"state", state_text(point_, state)}};
            if (stays) line["path"] = path;
            if (!options_.command.empty()) {
                line["good"] = judged.good();
                line["status"] = judged.status;
                line["output"] = judged.output;
            }
            print_json(line);
            return judged.good();
        }
        if (stays) std::cout << path << ": ";
        std::cout << verdict << state_text(point_, state) << "\n";
        if (!judged.good()) std::cout << judged.output;
        std::cout.flush();
        return judged.good();
    }

    // With a command one after the other, else all at once until we are told to end.
    int devices(const std::vector<CrashState>& states) {
        ::sigset_t ends;
        ::sigemptyset(&ends);
        for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&ends, signal);
        // Before there are threads, which inherit it.
        ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);
        const auto mapper = open_device_mapper();
        std::vector<std::unique_ptr<CrashDevice>> served;
        std::size_t bad = 0;
        for (std::size_t i = 0; i < states.size(); i++) {
            const auto name = options_.many() ? options_.name + "-" + numbered(i) : options_.name;
            auto device =
                CrashDevice::make(*mapper, name, log_, contents_of(states[i]), options_.base, scratch_->file(name));
            if (!device) return failed(device.error());
            const auto good = check((*device)->path(), states[i], true);
            if (!good) return failed(good.error());
            if (!*good) bad++;
            if (options_.command.empty())
                served.push_back(std::move(*device));
            else if (auto done = (*device)->remove(); !done)
                return failed(done.error());
        }
        if (!options_.command.empty()) return conclude(bad, states.size());
        return wait_for_end(ends, served);
    }

    int wait_for_end(const ::sigset_t& ends, std::vector<std::unique_ptr<CrashDevice>>& served) const {
        if (options_.json)
            print_json({{"kind", "served"}, {"devices", served.size()}});
        else
            std::cout << "served until this is interrupted" << std::endl;
        while (!served.empty()) {
            int signal = 0;
            if (::sigwait(&ends, &signal) != 0) continue;
            // What is still mounted goes on.
            std::erase_if(served, [](const std::unique_ptr<CrashDevice>& device) {
                const auto done = device->remove();
                if (!done) failed(done.error());
                return static_cast<bool>(done);
            });
        }
        return 0;
    }

    const CrashOptions& options_;
    const LogReader& log_;
    const CrashPoint point_;
    std::unique_ptr<Scratch> scratch_;
};

struct BisectLine {
    std::string directory, onto;
    FilterOptions points;
    BisectOptions options;
    bool torn = false, quiet = false, json = false;
};

void report_json(const BisectResult& result, const LogReader& log, const Explained* explained) {
    const auto& bad = *result.bad;
    const auto& record = log.records()[bad.number - 1];
    print_json({{"kind", "bad"},
                {"number", bad.number},
                {"good_before", bad.good_before},
                {"checks", result.checks},
                {"points", result.points},
                {"record", Json::parse(record_json(record, "", explained != nullptr ? explained->of(record) : ""))},
                {"crash", bad.state},
                {"status", bad.judged.status},
                {"output", bad.judged.output}});
}

void report(const BisectResult& result, const LogReader& log, const Explained* explained) {
    const auto& bad = *result.bad;
    const auto& record = log.records()[bad.number - 1];
    std::cout << "first bad point: " << bad.number << " (good: " << bad.good_before << "), found by " << result.checks
              << " checks over " << result.points << " points\n"
              << record_text(record, "", explained != nullptr ? explained->of(record) : "") << "\n";
    if (!bad.state.empty()) std::cout << "after a crash there " << bad.state << "\n";
    std::cout << "the check ended with status " << bad.judged.status << " and said:\n" << bad.judged.output;
}

int bisect_log(BisectLine& line) {
    const auto log = open_whole_log(line.directory);
    if (!log) return failed(log.error());
    auto points = line.points.parse();
    if (!points) return failed(points.error());
    auto& options = line.options;
    options.points = std::move(*points);
    options.torn = line.torn ? (*log)->header().block / sector_bytes : 0;
    const auto scratch = Scratch::make();
    if (!scratch) return failed(scratch.error());
    options.scratch = line.onto.empty() ? (*scratch)->file("image") : line.onto;
    const auto result = bisect(**log, options, [&](const std::string& words) {
        if (line.quiet) return;
        if (line.json)
            print_json({{"kind", "tried"}, {"text", words}});
        else
            std::cout << words << std::endl;
    });
    if (!result) return failed(result.error());
    if (!result->bad && line.json) {
        print_json({{"kind", "none"}, {"checks", result->checks}, {"points", result->points}});
        return exit_bad;
    }
    if (!result->bad) {
        std::cout << "no bad point: " << result->checks << " checks passed, of " << result->points << " points"
                  << (options.linear ? "" : "; the last one is good: --linear tries each") << "\n";
        return exit_bad;
    }
    // Without an explanation where there is none.
    const auto explained = Explained::open(**log, options.base, "");
    (line.json ? report_json : report)(*result, **log, explained ? explained->get() : nullptr);
    return 0;
}

}  // namespace

int crash_command(int argc, char** argv) {
    CLI::App app("What a crash at a point of the log can leave.", "dmu-debug crash");
    CrashOptions options;
    app.add_option("DIR", options.directory, "the log")->required();
    app.add_option("--at", options.at, "after this request, before the next one came")->required();
    app.add_option("--base", options.base, "the device or raw image as it was before the log");
    auto* with = app.add_option("--with", options.with,
                                "of the writes that may be lost these are there, as 5,7-9, or all; none without it");
    auto* all = app.add_flag("--all", options.all, "every possible result")->excludes(with);
    app.add_option("--limit", options.limit, "how many --all may give")->needs(all)->capture_default_str();
    auto* sample =
        app.add_option("--sample", options.sample, "so many of the possible results")->excludes(with)->excludes(all);
    app.add_option("--seed", options.seed, "of the sample's choice")->needs(sample)->capture_default_str();
    app.add_flag("--torn", options.torn, "writes may also be there in part")->needs(sample);
    auto* onto = app.add_option("--onto", options.onto, "file or block device; of several results a directory");
    app.add_option("--name", options.name, "as a device, /dev/mapper/NAME; of several results NAME-0001, ...")
        ->excludes(onto);
    app.add_flag("--json", options.json, "an object of JSON per line");
    app.add_option("COMMAND", options.command, "behind --: a check of each, with {} for its name");
    return run_program(app, argc, argv, [&] {
        const auto log = open_whole_log(options.directory);
        if (!log) return failed(log.error());
        auto point = crash_point(**log, options.at);
        if (!point) return failed(point.error());
        return Crash(options, **log, std::move(*point)).run();
    });
}

int bisect_command(int argc, char** argv) {
    CLI::App app("The first point of a log at which a check fails.", "dmu-debug bisect");
    BisectLine line;
    app.add_option("DIR", line.directory, "the log")->required();
    app.add_option("--base", line.options.base, "the device or raw image as it was before the log")->required();
    app.add_flag("--linear", line.options.linear, "try every point, for checks that fail and pass again");
    auto* crash = app.add_option("--crash", line.options.crashes,
                                 "check so many possible results of a crash at each point, in the place of the "
                                 "device as it was");
    app.add_option("--seed", line.options.seed, "of the crashes' choice")->needs(crash)->capture_default_str();
    app.add_flag("--torn", line.torn, "writes may also be there in part")->needs(crash);
    app.add_option("--onto", line.onto, "where the images are made; holds the first bad one afterwards");
    app.add_flag("-q,--quiet", line.quiet, "do not say what was tried");
    app.add_flag("--json", line.json, "an object of JSON per line");
    line.points.add_to(app);
    app.add_option("COMMAND", line.options.command, "behind --: the check, with {} for the image's name")->required();
    return run_program(app, argc, argv, [&] { return bisect_log(line); });
}

}  // namespace dmu::debug
