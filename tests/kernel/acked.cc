// SPDX-License-Identifier: GPL-2.0-or-later
// Writes of which it can be told afterwards what must be there: for crashes
// (log-writes.sh) and for errors.
//
//     dmu-acked write DEVICE --seed N --rounds N --mark COMMAND
//         rounds of random writes, an fsync after each, then "COMMAND ROUND"
//     dmu-acked check RAW --seed N --rounds N --acked N --base N
//         what round N and those before it wrote is there, or what came later
//     dmu-acked fill RAW --base N
//         a file of which each sector was written by write N
//     dmu-acked absent FILE
//         no sector of the file was written by any write
//     dmu-acked errors DEVICE --seed N --seconds N --state FILE
//         random writes, reads and fsyncs that may fail; the file tells what may be where
//     dmu-acked compare RAW --state FILE
//         every sector can be read and holds something of that
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t sector_size = 512, longest = 160;
constexpr unsigned zones = 4;  // written to side by side

struct Options {
    std::string path, mark, state;
    uint64_t seed = 1, rounds = 10, acked = 0, base = 0, sectors = 131072, seconds = 10;
};

[[noreturn]] void die(const std::string& what) {
    fprintf(stderr, "acked: %s: %s\n", what.c_str(), strerror(errno));
    exit(2);
}

using Buffer = std::unique_ptr<char, decltype(&free)>;

Buffer buffer(uint64_t bytes) {
    return {static_cast<char*>(aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)), &free};
}

// --- what a sector holds: its own number, and that of the write ---

void fill(char* at, uint64_t sector, uint64_t number) {
    std::array<uint64_t, sector_size / 8> words;
    uint64_t mixed = sector * 0x9e3779b97f4a7c15ull + number;
    words[0] = sector;
    words[1] = number;
    for (size_t i = 2; i < words.size(); i++) words[i] = mixed = (mixed ^ (mixed >> 29)) * 0xbf58476d1ce4e5b9ull;
    memcpy(at, words.data(), sector_size);
}

// The write's number, 0 for zeros, -1 for neither.
int64_t number_in(const char* at, uint64_t sector) {
    std::array<char, sector_size> expected{};
    if (!memcmp(at, expected.data(), sector_size)) return 0;
    uint64_t words[2];
    memcpy(words, at, sizeof(words));
    fill(expected.data(), sector, words[1]);
    return words[0] == sector && !memcmp(at, expected.data(), sector_size) ? int64_t(words[1]) : -1;
}

// What each sector may hold; zeros where nothing was written.
using Possible = std::vector<std::vector<uint64_t>>;

bool is_possible(const Possible& possible, uint64_t sector, const char* at) {
    const int64_t found = number_in(at, sector);
    const auto& may = possible[sector];
    if (found >= 0 && std::find(may.begin(), may.end(), uint64_t(found)) != may.end()) return true;
    printf("sector %llu holds write %lld, not one of", static_cast<unsigned long long>(sector),
           static_cast<long long>(found));
    for (uint64_t number : may) printf(" %llu", static_cast<unsigned long long>(number));
    printf("\n");
    return false;
}

bool compare(const std::string& path, const Possible& possible) {
    constexpr uint64_t chunk = 2048;
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(path);
    const Buffer data = buffer(chunk * sector_size);
    unsigned bad = 0;
    for (uint64_t at = 0; at < possible.size() && bad < 8; at += chunk) {
        const uint64_t count = std::min(chunk, possible.size() - at);
        if (pread(fd, data.get(), count * sector_size, off_t(at * sector_size)) != ssize_t(count * sector_size))
            die("read " + path);
        for (uint64_t i = 0; i < count && bad < 8; i++)
            bad += !is_possible(possible, at + i, data.get() + i * sector_size);
    }
    close(fd);
    return bad == 0;
}

// --- writes whose order is known ---

struct Write {
    uint64_t number, round, start, count;
};

Write any_write(std::mt19937_64& random, uint64_t from, uint64_t sectors) {
    const uint64_t unit = random() % 4 ? 8 : 1;
    Write write{};
    write.count = (1 + random() % (longest / unit)) * unit;
    write.start = from + random() % ((sectors - write.count) / unit) * unit;
    return write;
}

std::vector<Write> all_writes(const Options& o) {
    std::mt19937_64 random(o.seed);
    std::vector<Write> writes;
    uint64_t number = 0;
    for (uint64_t round = 1; round <= o.rounds; round++)
        for (uint64_t i = 0, count = zones * (1 + random() % 3); i < count; i++) {
            Write write = any_write(random, i % zones * (o.sectors / zones), o.sectors / zones);
            write.number = ++number;
            write.round = round;
            writes.push_back(write);
        }
    return writes;
}

bool put(int fd, const Write& write) {
    const Buffer data = buffer(write.count * sector_size);
    for (uint64_t i = 0; i < write.count; i++) fill(data.get() + i * sector_size, write.start + i, write.number);
    const auto bytes = ssize_t(write.count * sector_size);
    return pwrite(fd, data.get(), size_t(bytes), off_t(write.start * sector_size)) == bytes;
}

int write_rounds(const Options& o) {
    const int fd = open(o.path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) die(o.path);
    const std::vector<Write> writes = all_writes(o);
    for (uint64_t round = 1; round <= o.rounds; round++) {
        std::vector<std::thread> threads;
        for (unsigned zone = 0; zone < zones; zone++)
            threads.emplace_back([&, zone] {
                for (const Write& write : writes)
                    if (write.round == round && write.start / (o.sectors / zones) == zone && !put(fd, write))
                        die("write");
            });
        for (std::thread& thread : threads) thread.join();
        if (fsync(fd)) die("fsync");
        if (system((o.mark + " " + std::to_string(round)).c_str())) die(o.mark);
    }
    close(fd);
    printf("%zu writes\n", writes.size());
    return 0;
}

int check(const Options& o) {
    Possible possible(o.sectors, {o.base});
    for (const Write& write : all_writes(o))
        for (uint64_t at = write.start; at < write.start + write.count; at++) {
            if (write.round <= o.acked) possible[at].clear();
            possible[at].push_back(write.number);
        }
    return compare(o.path, possible) ? 0 : 1;
}

// --- what lies below, and what may lie nowhere ---

int fill_file(const Options& o) {
    std::ofstream out(o.path, std::ios::binary);
    std::array<char, sector_size> data{};
    for (uint64_t sector = 0; sector < o.sectors; sector++) {
        fill(data.data(), sector, o.base);
        out.write(data.data(), sector_size);
    }
    if (!out.flush()) die(o.path);
    return 0;
}

int absent(const Options& o) {
    std::ifstream in(o.path, std::ios::binary);
    if (!in) die(o.path);
    std::array<char, sector_size> data{};
    uint64_t sectors = 0;
    for (; in.read(data.data(), sector_size); sectors++) {
        uint64_t number = 0;
        memcpy(&number, data.data(), sizeof(number));
        if (number_in(data.data(), number) <= 0) continue;
        printf("%s: its sector %llu is that of a write, sector %llu of the disk\n", o.path.c_str(),
               static_cast<unsigned long long>(sectors), static_cast<unsigned long long>(number));
        return 1;
    }
    return sectors ? 0 : 1;
}

// --- writes that may fail ---

bool read_back(int fd, const Write& where, const Possible& possible, uint64_t* failed) {
    const Buffer data = buffer(where.count * sector_size);
    const auto bytes = ssize_t(where.count * sector_size);
    if (pread(fd, data.get(), size_t(bytes), off_t(where.start * sector_size)) != bytes) {
        ++*failed;
        return true;
    }
    bool good = true;
    for (uint64_t i = 0; i < where.count && good; i++)
        good = is_possible(possible, where.start + i, data.get() + i * sector_size);
    return good;
}

void save(const std::string& path, const Possible& possible) {
    std::ofstream out(path);
    out << possible.size() << "\n";
    for (uint64_t sector = 0; sector < possible.size(); sector++) {
        if (possible[sector].size() == 1 && !possible[sector][0]) continue;
        out << sector;
        for (uint64_t number : possible[sector]) out << " " << number;
        out << "\n";
    }
    if (!out.flush()) die(path);
}

Possible load(const std::string& path) {
    std::ifstream in(path);
    std::string line;
    if (!std::getline(in, line)) die(path);
    Possible possible(std::stoull(line), {0});
    while (std::getline(in, line)) {
        std::istringstream words(line);
        uint64_t sector = 0;
        words >> sector;
        possible.at(sector).clear();
        for (uint64_t number = 0; words >> number;) possible[sector].push_back(number);
    }
    return possible;
}

int with_errors(const Options& o) {
    const int fd = open(o.path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) die(o.path);
    std::mt19937_64 random(o.seed);
    Possible possible(o.sectors, {0});
    uint64_t writes = 0, failed_writes = 0, failed_reads = 0, failed_syncs = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(o.seconds);
    bool good = true;
    while (good && std::chrono::steady_clock::now() < end) {
        Write write = any_write(random, 0, o.sectors);
        switch (random() % 16) {
            case 0:
                failed_syncs += fsync(fd) != 0;
                break;
            case 1:
            case 2:
            case 3:
                good = read_back(fd, write, possible, &failed_reads);
                break;
            default: {
                write.number = ++writes;
                const bool done = put(fd, write);
                failed_writes += !done;
                for (uint64_t at = write.start; at < write.start + write.count; at++) {
                    if (done) possible[at].clear();
                    possible[at].push_back(write.number);
                }
            }
        }
    }
    close(fd);
    save(o.state, possible);
    printf("%llu writes, failed: %llu of them, %llu reads, %llu fsyncs\n", static_cast<unsigned long long>(writes),
           static_cast<unsigned long long>(failed_writes), static_cast<unsigned long long>(failed_reads),
           static_cast<unsigned long long>(failed_syncs));
    return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app{"Writes of which it can be told what must be there"};
    app.require_subcommand(1);
    const auto sub = [&](const char* name) {
        CLI::App* command = app.add_subcommand(name);
        command->add_option("PATH", o.path)->required();
        command->add_option("--seed", o.seed);
        command->add_option("--rounds", o.rounds);
        command->add_option("--sectors", o.sectors);
        command->add_option("--mark", o.mark);
        command->add_option("--acked", o.acked);
        command->add_option("--base", o.base);
        command->add_option("--seconds", o.seconds);
        command->add_option("--state", o.state);
        return command;
    };
    const CLI::App *write = sub("write"), *checked = sub("check"), *errors = sub("errors"), *compared = sub("compare"),
                   *filled = sub("fill"), *missed = sub("absent");
    CLI11_PARSE(app, argc, argv);
    if (*write) return write_rounds(o);
    if (*checked) return check(o);
    if (*errors) return with_errors(o);
    if (*filled) return fill_file(o);
    if (*missed) return absent(o);
    return *compared && compare(o.path, load(o.state)) ? 0 : 1;
}
