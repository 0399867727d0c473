// SPDX-License-Identifier: GPL-2.0-or-later
// The command lines: what the live debugger's says, and that pages and completion know all
// of every command's.
#include "tools/debug/options.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace dmu::debug {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<Options> parsed(std::vector<std::string> words) {
    CLI::App app;
    OptionParser parser(app);
    std::reverse(words.begin(), words.end());
    app.parse(words);
    return parser.take();
}

TEST(Options, FiltersOfTheLog) {
    const auto options = parsed({"/dev/x", "--name", "dbg", "--log-range", "2048+8", "--log-range", "1M+4K",
                                 "--log-ops", "write,flush", "--log-size", "8-4K"});
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_THAT(options->filter.ranges, ElementsAre(Range{2048, 8}, Range{2048, 8}));
    EXPECT_EQ(options->filter.size, (Span{8, 8}));
    EXPECT_FALSE(options->log_reads);
    Request request;
    request.range = {2050, 8};
    request.op = Op::write;
    EXPECT_TRUE(options->filter.lets(request));
    request.op = Op::discard;
    EXPECT_FALSE(options->filter.lets(request));
    request.op = Op::write, request.range = {2056, 8};
    EXPECT_FALSE(options->filter.lets(request)) << "another range";
    request.range = {2048, 9};
    EXPECT_FALSE(options->filter.lets(request)) << "another size";
    EXPECT_TRUE(options->filter.leaves_out());
    EXPECT_TRUE(parsed({"/dev/x", "--name", "dbg", "--log-ops", "read"})->log_reads);
    EXPECT_FALSE(parsed({"/dev/x", "--name", "dbg"})->filter.leaves_out());
    EXPECT_FALSE(parsed({"/dev/x", "--name", "dbg", "--log-ops", "write,discard,zero,flush"})->filter.leaves_out());
}

TEST(Options, WhatIsKept) {
    EXPECT_EQ(parsed({"/dev/x", "-n", "dbg"})->data, KeepData::full);
    EXPECT_EQ(parsed({"/dev/x", "-n", "dbg", "--data", "hash"})->data, KeepData::hash);
    const auto options = parsed({"/dev/x", "-n", "dbg", "--data", "none", "--memory", "16M", "--on-death", "wait"});
    EXPECT_EQ(options->data, KeepData::none);
    EXPECT_EQ(options->memory, 16u << 20);
    EXPECT_EQ(options->on_death, OnDeath::wait);
    EXPECT_THROW(parsed({"/dev/x", "-n", "dbg", "--data", "some"}), CLI::ValidationError);
}

TEST(Options, SayWhatIsWrong) {
    const auto refused = [](const std::string& option, const std::string& value) {
        const auto options = parsed({"/dev/x", "-n", "dbg", option, value});
        return options ? "" : options.error().message;
    };
    EXPECT_THAT(refused("--log-range", "8+0"), HasSubstr("--log-range: '8+0' is not a range"));
    EXPECT_THAT(refused("--log-size", "x"), HasSubstr("--log-size: 'x' is not a size"));
    EXPECT_THAT(refused("--log-ops", "write,wipe"), HasSubstr("there is no 'wipe'"));
    EXPECT_THAT(refused("--memory", "lots"), HasSubstr("--memory"));
    EXPECT_THAT(refused("--order", "up"), HasSubstr("not an order"));
}

// ----------------------------------------------------- what is told of them

std::string output_of(const std::string& command) {
    std::string text;
    std::FILE* pipe = popen(command.c_str(), "r");
    char buffer[1024];
    for (std::size_t got; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, got);
    EXPECT_EQ(pclose(pipe), 0) << command;
    return text;
}

std::set<std::string> long_options(const std::string& text) {
    const std::regex option("--[a-z][a-z-]*");
    return {std::sregex_token_iterator(text.begin(), text.end(), option), {}};
}

class EachCommand : public testing::TestWithParam<const char*> {
protected:
    // Their names, not what is said about them.
    std::set<std::string> options() const {
        std::string names;
        std::istringstream lines(output_of(std::string(DMU_DEBUG_PROGRAM) + " " + GetParam() + " --help"));
        for (std::string line; std::getline(lines, line);)
            if (line.starts_with("  -")) names += line.substr(0, line.find(' ', 2)) + "\n";
        auto found = long_options(names);
        EXPECT_EQ(found.erase("--help"), 1u);
        return found;
    }
};

TEST_P(EachCommand, IsCompleted) {
    const auto words = output_of(std::string("bash -c '. " DMU_TOOLS_SOURCE "/xen-dmu.bash && _dmu_debug_options ") +
                                 GetParam() + "'");
    EXPECT_EQ(long_options(words), options());
}

TEST_P(EachCommand, IsDescribed) {
    const std::string name = *GetParam() ? "dmu-debug-log.8" : "dmu-debug.8";
    std::ifstream file(std::string(DMU_TOOLS_SOURCE "/") + name);
    std::string page{std::istreambuf_iterator<char>(file), {}};
    std::erase(page, '\\');
    const auto described = long_options(page);
    for (const auto& option : options()) EXPECT_TRUE(described.contains(option)) << name << " has no " << option;
}

INSTANTIATE_TEST_SUITE_P(Of, EachCommand, testing::Values("", "log", "replay", "crash", "bisect", "explain", "plot"));

}  // namespace
}  // namespace dmu::debug
