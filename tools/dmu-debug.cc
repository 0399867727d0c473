// SPDX-License-Identifier: GPL-2.0-or-later
// The debugger of what is written to a disk: live, or of a log.
#include <chrono>

#include "tools/debug/explain.h"
#include "tools/debug/live.h"
#include "tools/debug/offline/commands.h"

namespace {

using namespace dmu::debug;

// Of a device that changes: looked at anew, but not for each of several questions at once.
Session::Explain explain_device(const std::string& path) {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::seconds fresh{2};
    std::shared_ptr<Explainer> explainer;
    return
        [=, looked = Clock::time_point()](const Range& range, std::span<const std::byte> data) mutable -> std::string {
            if (!explainer) {
                auto opened = open_explainer(path);
                if (!opened) return "";
                explainer = std::move(*opened);
            } else if (Clock::now() - looked > fresh) {
                explainer->refresh();
            }
            looked = Clock::now();
            return explainer->line(range.start, range.length, data);
        };
}

}  // namespace

int main(int argc, char** argv) {
    if (const auto command = argc > 1 ? offline_command(argv[1]) : nullptr) return command(argc - 1, argv + 1);
    return live_command(argc, argv, explain_device);
}
