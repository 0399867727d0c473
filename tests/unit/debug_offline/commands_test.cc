// SPDX-License-Identifier: GPL-2.0-or-later
// The commands as they are called.
#include "tools/debug/offline/commands.h"

#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/unit/debug_offline/recorder.h"

namespace dmu::debug {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Commands : public Recorded {
protected:
    Commands() { write_file(base_, Bytes(sectors * 512, std::byte{'-'})); }

    // out_, err_: what it said.
    int run(std::vector<std::string> words) {
        std::vector<char*> arguments;
        for (auto& word : words) arguments.push_back(word.data());
        const auto command = offline_command(arguments[0]);
        EXPECT_NE(command, nullptr) << words[0];
        std::ostringstream out, err;
        auto* old_out = std::cout.rdbuf(out.rdbuf());
        auto* old_err = std::cerr.rdbuf(err.rdbuf());
        const int status = command(static_cast<int>(arguments.size()), arguments.data());
        std::cout.rdbuf(old_out);
        std::cerr.rdbuf(old_err);
        out_ = out.str(), err_ = err.str();
        return status;
    }
    std::size_t lines() const { return static_cast<std::size_t>(std::count(out_.begin(), out_.end(), '\n')); }

    // Good as long as sector 2 is not 'X': a check that a text tool can do.
    const std::vector<std::string> check_ = {"--", "sh", "-c",
                                             "! dd if={} bs=512 skip=2 count=1 2>/dev/null | grep -q X"};
    std::vector<std::string> with_check(std::vector<std::string> words) const {
        words.insert(words.end(), check_.begin(), check_.end());
        return words;
    }
    std::string out_, err_;
};

TEST_F(Commands, LogListsAndFilters) {
    Recorder& r = recorder();
    r.write(0, 8, 'a');
    r.change(Op::write, 100, 1, flag_fua | flag_meta);
    r.flush();
    r.mark("here");
    r.write(8, 8, 'b', Outcome::dropped);
    const auto count = [&](std::vector<std::string> words) {
        words.insert(words.begin(), {"log", path_});
        EXPECT_EQ(run(words), 0) << err_;
        return lines();
    };
    EXPECT_EQ(count({}), 5u);
    EXPECT_THAT(out_, HasSubstr("100+1"));
    EXPECT_THAT(out_, HasSubstr("FUA,META"));
    EXPECT_THAT(out_, HasSubstr("\"here\""));
    EXPECT_EQ(count({"-k", "flush,mark"}), 2u);
    EXPECT_EQ(count({"-r", "4+1"}), 1u);
    EXPECT_EQ(count({"-r", "7-8"}), 2u);
    EXPECT_EQ(count({"-r", "4k+512B"}), 1u);
    EXPECT_EQ(count({"--size", "8-"}), 2u);
    EXPECT_EQ(count({"-f", "fua"}), 1u);
    EXPECT_EQ(count({"-N", "2-3"}), 2u);
    EXPECT_EQ(count({"-N", "-2"}), 2u);
    EXPECT_EQ(count({"-t", "..30ns"}), 2u);
    EXPECT_EQ(count({"-o", "dropped"}), 1u);
    EXPECT_EQ(count({"-s"}), 2u);
    EXPECT_THAT(out_, HasSubstr("5 records: 3 write (17 sectors) 1 flush 1 mark"));
    EXPECT_EQ(run({"log", path_, "--json", "--hash", "-N", "1"}), 0);
    EXPECT_EQ(out_,
              "{\"number\":1,\"time\":10,\"kind\":\"write\",\"sector\":0,\"sectors\":8,\"flags\":[],"
              "\"outcome\":\"through\",\"end\":20,\"order\":1,\"data\":0,\"hash\":\"" +
                  hash_text(hash_of(Bytes(8 * 512, std::byte{'a'}))) + "\"}\n");
}

TEST_F(Commands, LogSaysWhatIsWrong) {
    recorder();
    for (const auto& words : std::vector<std::vector<std::string>>{{"-k", "writes"},
                                                                   {"-r", "5+0"},
                                                                   {"-r", "9-5"},
                                                                   {"-r", "1000B+1"},
                                                                   {"-f", "x"},
                                                                   {"-N", "-"},
                                                                   {"-t", "1s"}}) {
        std::vector<std::string> all = {"log", path_};
        all.insert(all.end(), words.begin(), words.end());
        EXPECT_EQ(run(all), 1) << words[1];
        EXPECT_THAT(err_, StartsWith("dmu-debug: '" + words[1] + "'"));
    }
    EXPECT_EQ(run({"log", directory_ / "none"}), 1);
    EXPECT_THAT(err_, HasSubstr("cannot open"));
    EXPECT_EQ(run({"log"}), 64);
}

TEST_F(Commands, ReplayMakesAnyMoment) {
    Recorder& r = recorder();
    r.write(0, 2, 'a');
    r.write(1, 2, 'b');
    r.change(Op::discard, 0, 1);
    const auto onto = directory_ / "onto";
    const auto at = [&](const std::string& number) {
        EXPECT_EQ(run({"replay", path_, "--base", base_, "--to", number, "--onto", onto}), 0) << err_;
        return letters(onto).substr(0, 4);
    };
    EXPECT_EQ(at("0"), "----");
    EXPECT_EQ(at("1"), "aa--");
    EXPECT_EQ(at("2"), "abb-");
    EXPECT_EQ(at("3"), ".bb-");
    EXPECT_EQ(letters(base_), std::string(sectors, '-'));
    EXPECT_EQ(run({"replay", path_, "--base", base_, "--to", "4", "--onto", onto}), 1);
    EXPECT_EQ(run({"replay", path_, "--base", base_, "--onto", base_}), 1);
    EXPECT_THAT(err_, HasSubstr("is the base itself"));
    write_file(base_, Bytes(512));
    EXPECT_EQ(run({"replay", path_, "--base", base_, "--onto", onto}), 1);
    EXPECT_THAT(err_, HasSubstr("it is not a copy of it"));
}

TEST_F(Commands, AFilteredLogIsListedButNotPlayed) {
    const auto path = directory_ / "part";
    {
        const auto made = LogWriter::create(path, {sectors, 512, 0, "test", true});
        ASSERT_OK(made);
        Record flush;
        flush.op = Op::flush;
        ASSERT_OK((*made)->append(flush));
    }
    EXPECT_EQ(run({"log", path}), 0) << err_;
    EXPECT_EQ(lines(), 1u);
    EXPECT_EQ(run({"plot", path}), 0) << err_;
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"replay", path, "--base", base_, "--onto", "x"},
          {"crash", path, "--at", "1"},
          {"log", path, "--export", "x"},
          {"log", path, "--explain", "--base", base_},
          with_check({"bisect", path, "--base", base_})}) {
        EXPECT_EQ(run(words), 1) << words[0];
        EXPECT_THAT(err_, HasSubstr("was made with a filter"));
    }
}

TEST_F(Commands, ReplayIsSparse) {
    std::filesystem::resize_file(base_, 0);
    std::filesystem::resize_file(base_, sectors * 512);
    recorder().write(128, 8, 'a');
    EXPECT_EQ(run({"replay", path_, "--base", base_, "--onto", directory_ / "onto"}), 0) << err_;
    EXPECT_EQ(letters(directory_ / "onto").substr(127, 10), ".aaaaaaaa.");
    const auto blocks = std::system(("test $(stat -c %b '" + (directory_ / "onto") + "') -lt 64").c_str());
    EXPECT_EQ(blocks, 0);
}

TEST_F(Commands, CrashDescribesMakesAndChecks) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    r.flush();
    r.write(2, 1, 'X');
    r.write(3, 1, 'c');
    EXPECT_EQ(run({"crash", path_, "--at", "4"}), 0);
    EXPECT_THAT(out_, StartsWith("crash at 4: 1 writes are safe, 2 uncertain; at most 4 results\n"));
    EXPECT_EQ(lines(), 3u);
    const auto onto = directory_ / "onto";
    EXPECT_EQ(run({"crash", path_, "--at", "4", "--base", base_, "--onto", onto}), 0) << err_;
    EXPECT_EQ(letters(onto).substr(0, 4), "a---");
    EXPECT_EQ(run({"crash", path_, "--at", "4", "--base", base_, "--with", "4", "--onto", onto}), 0) << err_;
    EXPECT_EQ(letters(onto).substr(0, 4), "a--c");
    EXPECT_EQ(run({"crash", path_, "--at", "4", "--base", base_, "--all", "--onto", directory_ / "all"}), 0) << err_;
    EXPECT_EQ(letters(directory_ / "all/crash-0004.img").substr(0, 4), "a-Xc");
    EXPECT_EQ(run(with_check({"crash", path_, "--at", "4", "--base", base_, "--all"})), 2) << err_;
    EXPECT_THAT(out_, HasSubstr("bad (status 1), with 3; without 4"));
    EXPECT_THAT(out_, HasSubstr("2 of 4 bad"));
    EXPECT_EQ(run(with_check({"crash", path_, "--at", "2", "--base", base_, "--sample", "5"})), 0) << err_;
    EXPECT_EQ(run({"crash", path_, "--at", "4", "--onto", onto}), 1);
    EXPECT_THAT(err_, HasSubstr("--base is needed"));
    EXPECT_EQ(run({"crash", path_, "--at", "4", "--base", base_, "--all", "--limit", "3", "--onto", onto}), 1);
}

TEST_F(Commands, BisectFindsTheFirstBadPoint) {
    Recorder& r = recorder();
    for (std::uint64_t i = 0; i < 20; i++) r.write(10 + i, 1, 'w');
    r.write(2, 1, 'X');  // 21
    for (std::uint64_t i = 0; i < 20; i++) r.write(10 + i, 1, 'w');
    const auto onto = directory_ / "bad";
    EXPECT_EQ(run(with_check({"bisect", path_, "--base", base_, "--onto", onto})), 0) << err_;
    EXPECT_THAT(out_, HasSubstr("first bad point: 21 (good: 20)"));
    EXPECT_EQ(letters(onto).substr(0, 31), "--X-------wwwwwwwwwwwwwwwwwwww-");
    EXPECT_THAT(out_, HasSubstr("2+1"));
    EXPECT_LT(lines(), 16u);
    EXPECT_EQ(run(with_check({"bisect", path_, "--base", base_, "-q", "--linear"})), 0) << err_;
    EXPECT_THAT(out_, StartsWith("first bad point: 21 (good: 20), found by 22 checks"));
    EXPECT_EQ(run({"bisect", path_, "--base", base_, "--", "true"}), 1);
    EXPECT_THAT(err_, HasSubstr("needs {}"));
    EXPECT_EQ(run({"bisect", path_, "--base", base_, "--", "/nonexistent/x", "{}"}), 1);
    EXPECT_THAT(err_, HasSubstr("cannot run '/nonexistent/x'"));
    EXPECT_EQ(run({"bisect", path_, "--base", base_, "--", "test", "-e", "{}"}), 2);
    EXPECT_THAT(out_, HasSubstr("no bad point"));
    EXPECT_EQ(run({"bisect", path_, "--base", base_, "--", "test", "!", "-e", "{}"}), 1);
    EXPECT_THAT(err_, HasSubstr("fails on the base"));
}

TEST_F(Commands, AsJson) {
    Recorder& r = recorder();
    r.write(0, 1, 'a');
    r.flush();
    r.write(2, 1, 'X');
    const auto parsed = [&](std::vector<std::string> words, int status) {
        EXPECT_EQ(run(std::move(words)), status) << err_;
        std::vector<nlohmann::json> all;
        std::istringstream in(out_);
        for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
        return all;
    };
    const auto summary = parsed({"log", path_, "--summary", "--json"}, 0).at(0);
    EXPECT_EQ(summary["records"], 3);
    EXPECT_EQ(summary["kinds"]["write"], (nlohmann::json{{"count", 2}, {"sectors", 2}}));
    const auto replay = parsed({"replay", path_, "--base", base_, "--onto", directory_ / "onto", "--json"}, 0).at(0);
    EXPECT_EQ(replay["writes"], 2);
    auto crash = parsed(with_check({"crash", path_, "--at", "3", "--base", base_, "--all", "--json"}), 2);
    ASSERT_EQ(crash.size(), 4u);
    EXPECT_EQ(crash[0]["kind"], "crash");
    EXPECT_EQ(crash[0]["uncertain"], 1);
    EXPECT_TRUE(crash[1]["good"]);
    EXPECT_FALSE(crash[2]["good"]);
    EXPECT_EQ(crash[3], (nlohmann::json{{"kind", "verdict"}, {"bad", 1}, {"of", 2}}));
    crash = parsed({"crash", path_, "--at", "3", "--base", base_, "--onto", directory_ / "onto", "--json"}, 0);
    EXPECT_EQ(crash.at(1)["path"], directory_ / "onto");
    const auto bisect = parsed(with_check({"bisect", path_, "--base", base_, "--json"}), 0);
    EXPECT_EQ(bisect.front()["kind"], "tried");
    EXPECT_EQ(bisect.back()["kind"], "bad");
    EXPECT_EQ(bisect.back()["number"], 3);
    EXPECT_EQ(bisect.back()["record"]["sector"], 2);
    EXPECT_EQ(parsed({"bisect", path_, "--base", base_, "-q", "--json", "--", "test", "-e", "{}"}, 2).at(0)["kind"],
              "none");
}

TEST_F(Commands, BisectOfWhatIsBadOnlyForAWhile) {
    Recorder& r = recorder();
    r.write(9, 1, 'w');
    r.write(2, 1, 'X');
    r.write(2, 1, 'o');
    EXPECT_EQ(run(with_check({"bisect", path_, "--base", base_, "-q"})), 2);
    EXPECT_EQ(run(with_check({"bisect", path_, "--base", base_, "-q", "--linear"})), 0);
    EXPECT_THAT(out_, StartsWith("first bad point: 2 (good: 1)"));
}

// Two writes that must be there together: only a crash can part them.
TEST_F(Commands, BisectOfCrashes) {
    Recorder& r = recorder();
    r.write(5, 1, 'a');
    r.flush();
    r.write(6, 1, 'o');
    r.write(2, 1, 'X');
    const std::vector<std::string> words = {"bisect", path_, "--base", base_};
    const std::vector<std::string> check = {
        "--", "sh", "-c",
        "dd if={} bs=512 skip=6 count=1 2>/dev/null | grep -q o || ! dd if={} bs=512 skip=2 count=1 "
        "2>/dev/null | grep -q X"};
    auto plain = words;
    plain.insert(plain.end(), check.begin(), check.end());
    EXPECT_EQ(run(plain), 2) << out_;
    auto crash = words;
    crash.insert(crash.end(), {"--crash", "8"});
    crash.insert(crash.end(), check.begin(), check.end());
    EXPECT_EQ(run(crash), 0) << err_;
    EXPECT_THAT(out_, HasSubstr("first bad point: 4 (good: 3)"));
    EXPECT_THAT(out_, HasSubstr("after a crash there with 4; without 3"));
}

TEST_F(Commands, PlotDrawsEveryRequest) {
    Recorder& r = recorder();
    r.write(0, 8, 'a');
    r.change(Op::write, 100, 1, flag_meta);
    r.flush();
    r.mark("<&>");
    EXPECT_EQ(run({"plot", path_}), 0);
    EXPECT_THAT(out_, StartsWith("<svg xmlns="));
    EXPECT_THAT(out_, HasSubstr(">&lt;&amp;&gt;</text>"));
    EXPECT_THAT(out_, Not(HasSubstr("<&>")));
    const auto count = [&](const std::string& what) {
        std::size_t found = 0;
        for (auto at = out_.find(what); at != std::string::npos; at = out_.find(what, at + 1)) found++;
        return found;
    };
    EXPECT_EQ(count("</title></rect>"), 2u);
    EXPECT_EQ(count("</title></line>"), 2u);
    EXPECT_EQ(count("<svg"), count("</svg>"));
    EXPECT_EQ(run({"plot", path_, "-n", "-k", "read"}), 0);
    EXPECT_EQ(count("</title>"), 0u);
}

TEST_F(Commands, ExplainTakesRanges) {
    EXPECT_EQ(run({"explain", base_, "-r", "0+4", "-r", "8+8"}), 0) << err_;
    EXPECT_EQ(out_, "0+4 no file system that is known\n8+8 no file system that is known\n");
    EXPECT_EQ(run({"explain", base_, "--json", "-r", "1"}), 0);
    EXPECT_EQ(out_, "{\"sector\":1,\"sectors\":1,\"text\":\"no file system that is known\"}\n");
    EXPECT_EQ(run({"explain", base_, "-r", "256"}), 1);
    EXPECT_THAT(err_, HasSubstr("has 256 sectors"));
}

TEST_F(Commands, OtherWordsAreNotOurs) {
    EXPECT_EQ(offline_command("live"), nullptr);
}

}  // namespace
}  // namespace dmu::debug
