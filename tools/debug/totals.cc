// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstdio>

#include "tools/debug/session.h"
#include "tools/lib/sizes.h"

namespace dmu::debug {
namespace {

double seconds(std::chrono::nanoseconds time) {
    return std::chrono::duration<double>(time).count();
}

// What the debugger itself took, of all that its requests took.
std::chrono::nanoseconds overhead(const Totals& totals) {
    return std::max(std::chrono::nanoseconds{}, totals.total - totals.below - totals.waiting);
}

std::uint64_t count(const Totals& totals) {
    std::uint64_t sum = 0;
    for (const auto of : totals.requests) sum += of;
    return sum;
}

}  // namespace

std::string totals_text(const Totals& totals) {
    std::string text = std::to_string(count(totals)) + " requests:";
    for (const Op op : {Op::read, Op::write, Op::discard, Op::zero, Op::flush}) {
        const auto of = totals.requests[static_cast<std::size_t>(op)];
        if (of) text += " " + std::to_string(of) + " " + op_text(op);
    }
    text += "; " + short_size(totals.bytes_written) + " written, " + short_size(totals.bytes_read) + " read\n";
    text += std::to_string(totals.logged) + " logged, " + short_size(totals.bytes_kept) + " of data\n";
    const struct {
        std::uint64_t number;
        const char* what;
    } done[] = {{totals.stopped, "stopped"},    {totals.dropped, "dropped"}, {totals.failed, "failed"},
                {totals.torn, "torn"},          {totals.delayed, "delayed"}, {totals.held, "held"},
                {totals.corrupted, "corrupted"}};
    std::string list;
    for (const auto& entry : done)
        if (entry.number) list += (list.empty() ? "" : ", ") + std::to_string(entry.number) + " " + entry.what;
    if (!list.empty()) text += list + "\n";
    char times[200];
    const double each = count(totals) ? seconds(overhead(totals)) / static_cast<double>(count(totals)) : 0;
    std::snprintf(times, sizeof times,
                  "time of all requests: %.3f s below, %.3f s stopped or delayed, %.3f s of debugging "
                  "(%.3f s of it keeping data); %.0f us a request\n",
                  seconds(totals.below), seconds(totals.waiting), seconds(overhead(totals)), seconds(totals.catching),
                  each * 1e6);
    return text + times;
}

Json totals_json(const Totals& totals) {
    Json requests;
    for (const Op op : {Op::read, Op::write, Op::discard, Op::zero, Op::flush})
        requests[op_text(op)] = totals.requests[static_cast<std::size_t>(op)];
    return {{"requests", requests},
            {"bytes_written", totals.bytes_written},
            {"bytes_read", totals.bytes_read},
            {"logged", totals.logged},
            {"bytes_kept", totals.bytes_kept},
            {"stopped", totals.stopped},
            {"dropped", totals.dropped},
            {"failed", totals.failed},
            {"torn", totals.torn},
            {"delayed", totals.delayed},
            {"held", totals.held},
            {"corrupted", totals.corrupted},
            {"seconds_below", seconds(totals.below)},
            {"seconds_waiting", seconds(totals.waiting)},
            {"seconds_overhead", seconds(overhead(totals))},
            {"seconds_keeping", seconds(totals.catching)}};
}

}  // namespace dmu::debug
