// SPDX-License-Identifier: GPL-2.0-or-later
// The same random first writes of 4 KiB through dmu-img and qemu-io: CPU time of each, without
// what the program needs for itself. Both get the same words; the files lie in memory.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

extern char** environ;

namespace {

constexpr std::uint64_t writes = 2000, grain = 65536;

struct Place {
    Place() {
        std::string name = (std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp");
        name += "/dmu-bench-XXXXXX";
        path = ::mkdtemp(name.data());
    }
    ~Place() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string path;
};

double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

// CPU seconds of a program that reads its words from a file; negative: it failed.
double run(const std::vector<std::string>& words, const std::string& input) {
    std::vector<char*> arguments;
    for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, input.c_str(), O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    pid_t child = 0;
    const bool started = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    int status = 1;
    rusage used{};
    if (!started || ::wait4(child, &status, 0, &used) != child || status != 0) return -1;
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

// One write a grain, in an order that repeats.
void make_words(const std::string& path, bool write) {
    std::vector<std::uint64_t> grains(writes);
    std::iota(grains.begin(), grains.end(), 0);
    std::shuffle(grains.begin(), grains.end(), std::minstd_rand(1));
    std::ofstream out(path);
    for (const auto number : grains)
        out << (write ? "write -q -P 7 " : "read -q ") << number * grain << (write ? " 4k\n" : " 512\n");
}

void first_writes(benchmark::State& state, const std::string& program, const std::string& format) {
    const Place place;
    const auto image = place.path + "/image", words = place.path + "/words", reads = place.path + "/reads";
    make_words(words, true);
    make_words(reads, false);
    const auto size = std::to_string(writes * grain);
    const bool ours = program == "dmu-img";
    const auto named = format + ":" + image;
    const auto use = ours ? std::vector<std::string>{DMU_IMG_PROGRAM, "io", named}
                          : std::vector<std::string>{"qemu-io", "-f", format, image};
    double total = 0;
    for (auto _ : state) {
        std::filesystem::remove(image);
        // By the same program for both.
        if (run({DMU_IMG_PROGRAM, "create", "--cluster-size", "64k", named, size}, "/dev/null") < 0)
            return state.SkipWithError("no image could be made");
        const auto without = run(use, reads), with = run(use, words);
        if (without < 0 || with < 0) return state.SkipWithError("it failed, or is not installed");
        const auto cost = std::max(with - without, 0.0);
        state.SetIterationTime(cost);
        total += cost;
    }
    state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(writes));
    state.counters["us_each"] = total * 1e6 / static_cast<double>(state.iterations()) / writes;
}

}  // namespace

void add_offline_benchmarks() {
    for (const char* format : {"qcow", "qcow2", "vmdk"})
        for (const char* program : {"dmu-img", "qemu-io"})
            benchmark::RegisterBenchmark(("offline_first_writes/" + std::string(format) + "/" + program).c_str(),
                                         first_writes, program, format)
                ->UseManualTime()
                ->Iterations(2)
                ->Unit(benchmark::kMillisecond);
}
