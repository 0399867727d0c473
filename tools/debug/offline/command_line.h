// SPDX-License-Identifier: GPL-2.0-or-later
// What the offline commands share.
#pragma once

#include <nlohmann/json.hpp>

#include "tools/debug/explain.h"
#include "tools/debug/offline/image_file.h"
#include "tools/debug/offline/listing.h"
#include "tools/lib/program.h"

namespace dmu::debug {

inline constexpr int exit_bad = 2;  // a check has failed, or none has where one was looked for

using Json = nlohmann::ordered_json;
// A line of its own.
void print_json(const Json& json);

int failed(const Error& error);
int ended(const Status& status);

// A log to be played: Code::invalid if a filter has left something out of it.
Result<std::unique_ptr<LogReader>> open_whole_log(const std::string& directory);

// The filters as they are given.
struct FilterOptions {
    std::string range, numbers, time, size, kinds, flags, outcomes;

    void add_to(CLI::App& app);
    Result<Filter> parse() const;
};

// A file of our own, for images: where TMPDIR says, else /var/tmp; gone with the object.
class Scratch {
public:
    static Result<std::unique_ptr<Scratch>> make();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    std::string file(const std::string& name) const { return directory_ + "/" + name; }

private:
    explicit Scratch(std::string directory) : directory_(std::move(directory)) {}
    std::string directory_;
};

// Explains a log's requests by the file system as it was at the end.
class Explained {
public:
    // base: the log is played onto a copy of it; device: that one; neither: what was logged.
    static Result<std::unique_ptr<Explained>> open(const LogReader& log, const std::string& base,
                                                   const std::string& device);
    std::string of(const Record& record) const;

private:
    explicit Explained(const LogReader& log) : log_(log) {}
    const LogReader& log_;
    std::unique_ptr<Scratch> scratch_;
    std::unique_ptr<Explainer> explainer_;
};

int explain_ranges(const std::string& device, const std::vector<std::string>& ranges, bool json);

}  // namespace dmu::debug
