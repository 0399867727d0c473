// SPDX-License-Identifier: GPL-2.0-or-later
#include <gmock/gmock.h>

#include <sstream>
#include <thread>

#include "tests/unit/debug/bench.h"
#include "tools/debug/session.h"

namespace dmu::debug {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

class SessionTest : public EngineTest {
protected:
    void SetUp() override {
        EngineTest::SetUp();
        open(false);
    }
    void open(bool json) {
        output = std::make_unique<Output>(text, json);
        session = std::make_unique<Session>(*engine, *output, nullptr);
    }
    // What a command says.
    std::string take(const std::string& line, bool batch = false) {
        text.str("");
        session->take(line, batch);
        EXPECT_TRUE(engine->send());
        return text.str();
    }

    std::ostringstream text;
    std::unique_ptr<Output> output;
    std::unique_ptr<Session> session;
};

TEST_F(SessionTest, RulesAreMadeListedRemoved) {
    EXPECT_EQ(take("break before write at 8"), "rule 1: stop before write at 8\n");
    EXPECT_EQ(take("rule fail write; rules"),
              "rule 2: fail write\n1  stop before write at 8  matched 0\n2  fail write  matched 0\n");
    EXPECT_EQ(take("disable 1; delete 2"), "");
    EXPECT_THAT(take("rules"), HasSubstr("1  (disabled) stop"));
    EXPECT_THAT(take("delete all; rules"), "no rules\n");
    EXPECT_FALSE(session->failed());
}

TEST_F(SessionTest, SaysWhatIsWrong) {
    EXPECT_THAT(take("frobnicate"), HasSubstr("help lists"));
    EXPECT_TRUE(session->failed());
    EXPECT_THAT(take("delete 7"), HasSubstr("no rule 7"));
    EXPECT_THAT(take("drop"), HasSubstr("no request is stopped"));
    EXPECT_THAT(take("step x"), HasSubstr("not a number"));
    EXPECT_THAT(take("run away"), HasSubstr("run to NUMBER"));
    EXPECT_THAT(take("explain"), HasSubstr("explain RANGE"));
    EXPECT_THAT(take("order sideways"), HasSubstr("not an order"));
}

TEST_F(SessionTest, AStoppedRequestIsShownAndDecided) {
    take("break write");
    const auto a = write(8, 0x41);
    EXPECT_THAT(take("show"), HasSubstr("#1 write 8+1  stopped"));
    take("data 0 4; drop");
    EXPECT_FALSE(ended(a)) << "drop waits for the data";
    text.str("");
    settle();
    EXPECT_THAT(text.str(), HasSubstr("41 41 41 41"));
    EXPECT_TRUE(session->ready());
    EXPECT_TRUE(engine->send());
    EXPECT_TRUE(ended(a));
    EXPECT_THAT(take("show"), HasSubstr("paused"));
    take("go");
    EXPECT_THAT(take("show"), HasSubstr("running"));
}

TEST_F(SessionTest, AScriptWaitsForTheNextStop) {
    take("break write; go; fail ENOSPC; go", true);
    EXPECT_FALSE(session->ready());
    const auto a = write(8, 1);
    EXPECT_FALSE(session->ready()) << "it goes on to the next";
    EXPECT_TRUE(engine->send());
    EXPECT_EQ(sent(a).error, ENOSPC);
    EXPECT_FALSE(engine->paused());
}

TEST_F(SessionTest, WaitHasALimit) {
    take("wait stop 1us", true);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_TRUE(session->ready());
    EXPECT_TRUE(session->failed());
}

TEST_F(SessionTest, CommentsAndQuotes) {
    EXPECT_EQ(take("# rules"), "");
    EXPECT_EQ(take("break write data \"a;b # c\""), "rule 1: stop write data \"a;b # c\"\n");
}

TEST_F(SessionTest, JsonIsOneObjectALine) {
    open(true);
    take("break write");
    write(8, 1);
    session->stopped(engine->current(), "rule 1");
    std::istringstream lines(take("show; rules; status; help; mark x; nonsense"));
    std::vector<std::string> kinds;
    for (std::string line; std::getline(lines, line);) {
        const auto json = Json::parse(line, nullptr, false);
        ASSERT_TRUE(json.is_object()) << line;
        kinds.push_back(json["kind"]);
    }
    EXPECT_THAT(kinds, testing::ElementsAre("request", "rule", "status", "help", "mark", "error"));
}

TEST_F(SessionTest, Completion) {
    EXPECT_THAT(session->completions({}), Contains("break"));
    EXPECT_THAT(session->completions({"break"}), Contains("after"));
    EXPECT_THAT(session->completions({"rule"}), Contains("corrupt"));
    EXPECT_THAT(session->completions({"rule", "fail"}), Contains("ENOSPC"));
    EXPECT_THAT(session->completions({"rule"}), Not(Contains("break")));
}

TEST_F(SessionTest, Quit) {
    take("quit");
    EXPECT_TRUE(session->quits());
}

}  // namespace
}  // namespace dmu::debug
