// SPDX-License-Identifier: GPL-2.0-or-later
// The command lines of log, replay, plot and explain; crash and bisect are beside it.
#include "tools/debug/offline/commands.h"

#include <unistd.h>

#include <array>
#include <cstring>
#include <iostream>

#include "tools/debug/offline/command_line.h"
#include "tools/debug/offline/log_writes.h"
#include "tools/debug/offline/plot.h"

namespace dmu::debug {

namespace {

struct LogOptions {
    std::string directory, export_path, import_path, base, device;
    FilterOptions filter;
    std::uint64_t sectors = 0;
    bool json = false, hash = false, explain = false, summary = false;
};

int do_import(const LogOptions& options) {
    auto sectors = options.sectors;
    if (!options.base.empty()) {
        const auto base = ImageFile::open(options.base, ImageFile::Mode::read);
        if (!base) return failed(base.error());
        sectors = base->sectors();
    }
    return ended(import_log_writes(options.import_path, options.directory, sectors));
}

int list(const LogOptions& options) {
    const auto filter = options.filter.parse();
    if (!filter) return failed(filter.error());
    const bool plays = !options.export_path.empty() || (options.explain && !options.base.empty());
    const auto log = plays ? open_whole_log(options.directory) : LogReader::open(options.directory);
    if (!log) return failed(log.error());
    if (!options.export_path.empty()) return ended(export_log_writes(**log, options.export_path));
    if (options.summary) {
        if (options.json)
            std::cout << summary_json(**log) << "\n";
        else
            std::cout << summary_text(**log);
        return 0;
    }
    Result<std::unique_ptr<Explained>> explained = std::unique_ptr<Explained>();
    if (options.explain) explained = Explained::open(**log, options.base, options.device);
    if (!explained) return failed(explained.error());
    for (const auto& record : (*log)->records()) {
        if (!filter->takes(record)) continue;
        std::string hash;
        if (options.hash) {
            const auto computed = (*log)->hash(record);
            if (!computed) return failed(computed.error());
            if (*computed != Hash{}) hash = hash_text(*computed);
        }
        const auto words = *explained ? (*explained)->of(record) : "";
        std::cout << (options.json ? record_json(record, hash, words) : record_text(record, hash, words)) << "\n";
    }
    return 0;
}

}  // namespace

int log_command(int argc, char** argv) {
    CLI::App app("Lists a log, or turns it into another format.", "dmu-debug log");
    LogOptions options;
    app.add_option("DIR", options.directory, "the log")->required();
    options.filter.add_to(app);
    app.add_flag("--json", options.json, "an object of JSON per line");
    app.add_flag("--hash", options.hash, "also the first half of the data's SHA-256");
    app.add_flag("-s,--summary", options.summary, "only how much there is of what");
    auto* explain = app.add_flag("-e,--explain", options.explain, "also what the sectors are");
    app.add_option("--base", options.base, "the image before the log: explain by it and the log; import: its size");
    app.add_option("--device", options.device, "explain by this device or raw image; else the one that was logged")
        ->needs(explain);
    auto* out = app.add_option("--export", options.export_path, "write it as dm-log-writes does, to FILE");
    auto* in = app.add_option("--import", options.import_path, "make the log DIR from one of dm-log-writes");
    app.add_option("--sectors", options.sectors, "import: of the logged device")->needs(in);
    out->excludes(in);
    return run_program(app, argc, argv,
                       [&] { return options.import_path.empty() ? list(options) : do_import(options); });
}

int replay_command(int argc, char** argv) {
    CLI::App app("Makes the device as it was after a request.", "dmu-debug replay");
    std::string directory, base, onto;
    std::uint64_t to = UINT64_MAX;
    bool json = false;
    app.add_option("DIR", directory, "the log")->required();
    app.add_option("--base", base, "the device or raw image as it was before the log")->required();
    app.add_option("--to", to, "the last request that is there; all of them without it");
    app.add_option("--onto", onto, "file or block device, overwritten")->required();
    app.add_flag("--json", json, "the result as JSON");
    return run_program(app, argc, argv, [&] {
        const auto log = open_whole_log(directory);
        if (!log) return failed(log.error());
        if (to != UINT64_MAX && to > (*log)->records().size())
            return failed({Code::invalid, "the log " + directory + " has " + std::to_string((*log)->records().size()) +
                                              " records, no number " + std::to_string(to)});
        const auto applied = reached_up_to(**log, to);
        auto image = make_image(**log, contents_of(applied), base, onto);
        if (!image) return failed(image.error());
        if (auto done = image->sync(); !done) return failed(done.error());
        if (json)
            print_json({{"writes", applied.size()}, {"onto", onto}});
        else
            std::cout << applied.size() << " writes onto " << onto << "\n";
        return 0;
    });
}

int plot_command(int argc, char** argv) {
    CLI::App app("Draws a log as SVG: time against sector.", "dmu-debug plot");
    std::string directory;
    FilterOptions filter;
    bool by_number = false;
    app.add_option("DIR", directory, "the log")->required();
    app.add_flag("-n,--by-number", by_number, "the requests' numbers in the place of the time");
    filter.add_to(app);
    return run_program(app, argc, argv, [&] {
        const auto chosen = filter.parse();
        if (!chosen) return failed(chosen.error());
        const auto log = LogReader::open(directory);
        if (!log) return failed(log.error());
        plot_svg(std::cout, **log, *chosen, by_number);
        return 0;
    });
}

int explain_command(int argc, char** argv) {
    CLI::App app("Says what lies in ranges of a device or raw image.", "dmu-debug explain");
    std::string device;
    std::vector<std::string> ranges;
    bool json = false;
    app.add_option("DEVICE", device, "block device or raw image")->required();
    app.add_option("-r,--range", ranges, "FIRST+COUNT or FIRST-LAST in sectors, or as 1M+4k; the whole without it");
    app.add_flag("--json", json, "an object of JSON per line");
    return run_program(app, argc, argv, [&] { return explain_ranges(device, ranges, json); });
}

Command offline_command(const char* word) {
    constexpr std::array<std::pair<const char*, Command>, 6> commands = {{{"log", log_command},
                                                                          {"replay", replay_command},
                                                                          {"crash", crash_command},
                                                                          {"bisect", bisect_command},
                                                                          {"explain", explain_command},
                                                                          {"plot", plot_command}}};
    for (const auto& [name, command] : commands)
        if (std::strcmp(name, word) == 0) return command;
    return nullptr;
}

}  // namespace dmu::debug
