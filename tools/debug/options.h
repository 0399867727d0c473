// SPDX-License-Identifier: GPL-2.0-or-later
// The live debugger's command line.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "tools/debug/device.h"
#include "tools/debug/engine.h"

namespace dmu::debug {

struct Options {
    std::string source;  // a block device, or FORMAT:PATH
    std::string name;
    std::string log, base;
    KeepData data = KeepData::full;
    LogFilter filter;
    bool log_reads = false;
    std::vector<std::string> rules, commands;
    std::string script, run;
    HeldOrder order;
    std::uint64_t seed = 1, memory = 1ull << 30;
    std::size_t hold_limit = 4096;
    OnDeath on_death = OnDeath::fail;
    bool json = false, stopped = false;
};

// What the options say, once they are parsed.
class OptionParser {
public:
    explicit OptionParser(CLI::App& app);
    Result<Options> take();

private:
    Options options_;
    std::string data_ = "full", on_death_ = "fail", order_ = "random", memory_, ops_, size_;
    std::vector<std::string> ranges_;
};

}  // namespace dmu::debug
