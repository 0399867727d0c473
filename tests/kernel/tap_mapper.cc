// SPDX-License-Identifier: GPL-2.0-or-later
// A mapper for the tests of mirrors and of requests that come back. It writes down
// every event on standard output, a line each, for a script to look at.
#include <dm-userspace.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

namespace {

constexpr unsigned first_number = 1, second_number = 2;
volatile sig_atomic_t invalidate_wanted = 0;

struct Options {
    std::string key, first, second;
    uint64_t sectors = 0, offset = 0, piece = ~0ull;
    uint64_t fail_at = ~0ull;
    bool ask = false, mix = false, hold = false, drop = false, fail_flush = false;
};

[[noreturn]] void die(const char* what, int error) {
    fprintf(stderr, "tap_mapper: %s: %s\n", what, strerror(error < 0 ? -error : error));
    exit(1);
}

void check(const char* what, int result) {
    if (result < 0) die(what, result);
}

std::string flag_names(uint32_t flags) {
    static const struct {
        uint32_t flag;
        const char* name;
    } all[] = {{DMU_MISS_AGAIN, "again"},          {DMU_MISS_RETURNED, "returned"}, {DMU_MISS_FIRST_FAILED, "first"},
               {DMU_MISS_SECOND_FAILED, "second"}, {DMU_MISS_FUA, "fua"},           {DMU_MISS_META, "meta"},
               {DMU_FLUSH_ASKED, "asked"}};
    std::string names;
    for (const auto& each : all)
        if (flags & each.flag) names += std::string(" ") + each.name;
    return names;
}

class Mapper {
public:
    explicit Mapper(const Options& options) : o_(options) {}

    void start() {
        check("attach", dmu_attach(o_.key.c_str(), DMU_ATTACH_CREATE, &channel_));
        add(first_number, o_.first);
        if (!o_.second.empty()) add(second_number, o_.second);
    }

    [[noreturn]] void run() {
        printf("serving\n");
        for (;;) {
            pollfd fd{dmu_fd(channel_), POLLIN, 0};
            poll(&fd, 1, 50);
            if (invalidate_wanted) {
                invalidate_wanted = 0;
                invalidate();
            }
            dmu_event events[64];
            const int count = dmu_next_events(channel_, events, 64);
            check("events", count);
            if (o_.mix) std::shuffle(events, events + count, random_);
            for (int i = 0; i < count; i++) handle(events[i]);
            fflush(stdout);
        }
    }

private:
    void add(unsigned number, const std::string& path) {
        dmu_destination known;
        if (dmu_destination_get(channel_, number, &known) == 0) return;
        const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0) die(path.c_str(), errno);
        check(path.c_str(), dmu_destination_add(channel_, number, fd, 0, 0, nullptr));
        close(fd);
    }

    void handle(const dmu_event& event) {
        static const char* const ops[] = {"read", "write", "discard", "zero"};
        if (event.type == DMU_EV_MISS) {
            printf("miss %s start=%llu length=%llu error=%u%s\n", ops[event.op], (unsigned long long)event.start,
                   (unsigned long long)event.length, event.error, flag_names(event.flags).c_str());
            event.flags& DMU_MISS_RETURNED ? returned(event) : miss(event);
        } else if (event.type == DMU_EV_FLUSH) {
            printf("flush%s\n", flag_names(event.flags).c_str());
            flush(event);
        } else if (event.type == DMU_EV_INVALIDATED) {
            printf("invalidated\n");
        }
    }

    // A request that is asked about anew each time, or once for all.
    void miss(const dmu_event& event) {
        dmu_command command;
        if (!o_.ask) {
            map(event.id);
        } else if (!known_) {
            dmu_cmd_map_ask(&command, event.id, 0, o_.sectors);
            send(command);
            known_ = true;
        } else if (o_.drop && event.op == DMU_OP_READ) {
            dmu_cmd_done(&command, event.id);
            send(command);
        } else {
            once(event, DMU_MAP_RETURN);
        }
    }

    // In several extents it is told of failures in every other one only, so that they stay several.
    void map(uint64_t id) {
        uint64_t at = 0;
        for (; o_.sectors - at > o_.piece; at += o_.piece) map(0, at, o_.piece);
        map(id, at, o_.sectors - at);
    }

    void map(uint64_t id, uint64_t start, uint64_t length) {
        dmu_command command;
        const bool first = !(failed_ & DMU_MISS_FIRST_FAILED);
        const bool second = !o_.second.empty() && !(failed_ & DMU_MISS_SECOND_FAILED);
        const bool tell = start / o_.piece % 2 == 0;
        dmu_cmd_map_linear(&command, id, start, length, first ? first_number : second_number,
                           first ? start : start + o_.offset, DMU_MAP_WRITABLE | (tell ? DMU_MAP_TELL : 0));
        if (first && second) dmu_cmd_mirror(&command, second_number, start + o_.offset);
        dmu_cmd_policies(&command, DMU_POLICY_PASS, DMU_POLICY_PASS);
        send(command);
    }

    void once(const dmu_event& event, uint32_t flags) {
        dmu_command command;
        dmu_cmd_map_linear(&command, event.id, event.start, std::min<uint64_t>(event.length, o_.piece), first_number,
                           event.start, DMU_MAP_WRITABLE | DMU_MAP_ONCE | flags);
        if (!o_.second.empty()) dmu_cmd_mirror(&command, second_number, event.start + o_.offset);
        send(command);
    }

    void returned(const dmu_event& event) {
        dmu_command command;
        if (o_.hold && event.op == DMU_OP_WRITE) return;
        if (!o_.ask) {
            // A mirror goes on with what is left of it; a request that failed is done again there.
            failed_ |= event.flags & (DMU_MISS_FIRST_FAILED | DMU_MISS_SECOND_FAILED);
            invalidate();
            map(event.id);
        } else if (event.error || event.start == o_.fail_at) {
            dmu_cmd_fail(&command, event.id, event.error ? event.error : ENOSPC);
            send(command);
        } else if (o_.mix && random_() % 3) {
            once(event, random_() % 2 ? DMU_MAP_RETURN : 0);
        } else {
            dmu_cmd_done(&command, event.id);
            send(command);
        }
    }

    void flush(const dmu_event& event) {
        dmu_command command;
        if (o_.hold) return;
        if (o_.fail_flush)
            dmu_cmd_fail(&command, event.id, EIO);
        else
            dmu_cmd_done(&command, event.id);
        send(command);
    }

    void invalidate() {
        dmu_command command;
        dmu_cmd_invalidate(&command, 1, 0, o_.sectors);
        send(command);
        known_ = false;
    }

    void send(const dmu_command& command) {
        const int error = dmu_send(channel_, &command, 1, nullptr);
        if (error == 0) return;
        fprintf(stderr, "tap_mapper: command %u id %llu start %llu length %llu\n", command.type,
                (unsigned long long)command.id, (unsigned long long)command.start, (unsigned long long)command.length);
        die("refused", error);
    }

    const Options o_;
    dmu_channel* channel_ = nullptr;
    std::mt19937 random_{1};
    uint32_t failed_ = 0;
    bool known_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app{"A mapper for the tests of mirrors and returned requests"};
    app.add_option("--key", o.key)->required();
    app.add_option("--sectors", o.sectors)->required();
    app.add_option("--first", o.first)->required();
    app.add_option("--second", o.second, "makes a mirror of it");
    app.add_option("--offset", o.offset, "where the second begins");
    app.add_option("--piece", o.piece, "maps so many sectors at once, at most");
    app.add_option("--fail-at", o.fail_at, "a request that starts there ends in ENOSPC");
    app.add_flag("--ask", o.ask, "asks for every request, and has it come back");
    app.add_flag("--mix", o.mix, "answers in no order, and sends some again");
    app.add_flag("--hold", o.hold, "does not answer writes that have come back, nor flushes");
    app.add_flag("--drop", o.drop, "reads are done before they are begun");
    app.add_flag("--fail-flush", o.fail_flush);
    CLI11_PARSE(app, argc, argv);
    signal(SIGUSR1, [](int) { invalidate_wanted = 1; });
    Mapper mapper(o);
    mapper.start();
    mapper.run();
}
