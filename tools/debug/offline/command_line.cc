// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/debug/offline/command_line.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

namespace dmu::debug {

void print_json(const Json& json) {
    std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

int failed(const Error& error) {
    return fail("dmu-debug", error);
}

int ended(const Status& status) {
    return status ? 0 : failed(status.error());
}

Result<std::unique_ptr<LogReader>> open_whole_log(const std::string& directory) {
    auto log = LogReader::open(directory);
    if (log && (*log)->header().partial)
        return Error{Code::invalid, "the log " + directory +
                                        " was made with a filter (--log-range, --log-ops, --log-size): it does not "
                                        "have all that was written, and can only be listed and plotted"};
    return log;
}

void FilterOptions::add_to(CLI::App& app) {
    app.add_option("-r,--range", range, "only what touches these sectors: FIRST+COUNT, FIRST-LAST, or as 1M+4k");
    app.add_option("-N,--numbers", numbers, "only these requests: 5, 5-9, 5- or -9");
    app.add_option("-t,--time", time, "only what came then: FROM..TO, as 1.5s..2s or 20ms..");
    app.add_option("--size", size, "only requests of so many sectors: 8, 8-64, 8-");
    app.add_option("-k,--kind", kinds, "only these: read,write,discard,zero,flush,mark");
    app.add_option("-f,--flags", flags, "only what has all of these: fua,meta,sync");
    app.add_option("-o,--outcome", outcomes, "only what ended so: pending,through,dropped,failed,torn");
}

Result<Filter> FilterOptions::parse() const {
    Filter filter;
    const auto take = [](const std::string& text, auto parse, auto& into) -> Status {
        if (text.empty()) return ok();
        auto parsed = parse(text);
        if (!parsed) return parsed.error();
        into = std::move(*parsed);
        return ok();
    };
    for (const auto& done : {take(range, parse_range, filter.range), take(numbers, parse_span, filter.numbers),
                             take(time, parse_times, filter.times), take(size, parse_sizes, filter.sizes),
                             take(kinds, parse_kinds, filter.kinds), take(flags, parse_flags, filter.flags),
                             take(outcomes, parse_outcomes, filter.outcomes)})
        if (!done) return done.error();
    return filter;
}

Result<std::unique_ptr<Scratch>> Scratch::make() {
    const char* given = std::getenv("TMPDIR");
    std::string directory = std::string(given != nullptr ? given : "/var/tmp") + "/dmu-debug-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) return system_error("cannot make the directory " + directory);
    return std::unique_ptr<Scratch>(new Scratch(directory));
}

Scratch::~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

Result<std::unique_ptr<Explained>> Explained::open(const LogReader& log, const std::string& base,
                                                   const std::string& device) {
    std::unique_ptr<Explained> explained(new Explained(log));
    auto path = device.empty() ? log.header().source : device;
    if (!base.empty()) {
        auto scratch = Scratch::make();
        if (!scratch) return scratch.error();
        explained->scratch_ = std::move(*scratch);
        path = explained->scratch_->file("last");
        const auto image = make_image(log, contents_of(reached_up_to(log, UINT64_MAX)), base, path);
        if (!image) return image.error();
    }
    auto explainer = open_explainer(path);
    if (!explainer)
        return explainer.error().in("explaining (name the device by --device, or the image before the log by --base)");
    explained->explainer_ = std::move(*explainer);
    return explained;
}

std::string Explained::of(const Record& record) const {
    if (record.sectors == 0) return "";
    constexpr std::uint64_t most = 16 << 20;
    std::vector<std::byte> data;
    if (record.has_data() && record.sectors <= most / sector_bytes) {
        data.resize(record.sectors * sector_bytes);
        if (auto done = log_.read_data(record, 0, data); !done) data.clear();
    }
    return explainer_->line(record.sector, record.sectors, data);
}

int explain_ranges(const std::string& device, const std::vector<std::string>& ranges, bool json) {
    std::uint64_t sectors = 0;
    {
        const auto file = ImageFile::open(device, ImageFile::Mode::read);
        if (!file) return failed(file.error());
        sectors = file->sectors();
    }
    std::vector<Range> wanted;
    for (const auto& text : ranges) {
        const auto range = parse_range(text);
        if (!range) return failed(range.error());
        if (range->start >= sectors || range->length > sectors - range->start)
            return failed({Code::invalid, text + ": " + device + " has " + std::to_string(sectors) + " sectors"});
        wanted.push_back(*range);
    }
    if (wanted.empty()) wanted.push_back({0, sectors});
    const auto explainer = open_explainer(device);
    if (!explainer) return failed(explainer.error());
    for (const auto& range : wanted)
        for (const auto& part : (*explainer)->explain(range.start, range.length)) {
            if (json) {
                print_json({{"sector", part.sector}, {"sectors", part.sectors}, {"text", part.text}});
            } else {
                std::cout << part.sector << "+" << part.sectors << " " << part.text << "\n";
            }
        }
    return 0;
}

}  // namespace dmu::debug
