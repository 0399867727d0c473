// SPDX-License-Identifier: GPL-2.0-or-later
// The fake behaves as xenstored does where the mapper cares; and the real one says what is wrong.
#include "tests/fakes/fake_xenstore.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

namespace dmu {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

bool readable(const Xenstore& store) {
    pollfd poller{store.poll_descriptor(), POLLIN, 0};
    return poll(&poller, 1, 0) == 1;
}

TEST(FakeXenstore, ReadWriteRemove) {
    FakeXenstore store;
    const auto xs = store.connect();
    EXPECT_EQ(xs->read("/a/b").error().code, Code::not_found);
    EXPECT_THAT(xs->read("/a/b").error().message, HasSubstr("/a/b"));
    ASSERT_TRUE(xs->write("/a/b/c", "1"));
    ASSERT_TRUE(xs->write("/a/b/d", "2"));
    EXPECT_EQ(*xs->read("/a/b/c"), "1");
    EXPECT_EQ(*xs->read("/a/b"), "");
    EXPECT_THAT(*xs->directory("/a/b"), ElementsAre("c", "d"));
    EXPECT_THAT(*xs->directory("/"), ElementsAre("a"));
    EXPECT_TRUE(*xs->exists("/a"));
    ASSERT_TRUE(xs->remove("/a/b"));
    EXPECT_FALSE(*xs->exists("/a/b/c"));
    EXPECT_TRUE(xs->remove("/a/b"));
}

TEST(FakeXenstore, RelativePaths) {
    FakeXenstore store;
    const auto xs = store.connect();
    ASSERT_TRUE(xs->write("backend/vbd/5/51712/state", "4"));
    EXPECT_THAT(*xs->directory("backend/vbd/5"), ElementsAre("51712"));
}

TEST(FakeXenstore, WatchFiresWhenSetAndBelowAndAbove) {
    FakeXenstore store;
    const auto xs = store.connect();
    store.set("/b/5/state", "4");
    ASSERT_TRUE(xs->watch("/b/5", "t"));
    EXPECT_TRUE(readable(*xs));
    EXPECT_THAT(*xs->fired(), SizeIs(1));
    EXPECT_FALSE(readable(*xs));
    EXPECT_THAT(*xs->fired(), SizeIs(0));
    store.set("/b/5/state", "5");
    store.set("/b/6/state", "5");
    auto events = *xs->fired();
    ASSERT_THAT(events, SizeIs(1));
    EXPECT_EQ(events[0].path, "/b/5/state");
    EXPECT_EQ(events[0].token, "t");
    store.remove("/b");
    events = *xs->fired();
    ASSERT_THAT(events, SizeIs(1));
    EXPECT_EQ(events[0].path, "/b/5");
    EXPECT_FALSE(*xs->exists("/b/5"));
    ASSERT_TRUE(xs->unwatch("/b/5", "t"));
    store.set("/b/5/state", "1");
    EXPECT_THAT(*xs->fired(), SizeIs(0));
}

TEST(FakeXenstore, TransactionIsTriedAgainOnConflict) {
    FakeXenstore store;
    const auto xs = store.connect();
    store.set("/n", "1");
    unsigned runs = 0;
    store.conflict_next(2);
    ASSERT_TRUE(xs->transaction([&](XenstoreView& view) -> Status {
        ++runs;
        EXPECT_EQ(store.get("/n"), "1");  // nothing is seen before the end
        return view.write("/n", "2");
    }));
    EXPECT_EQ(runs, 3u);
    EXPECT_EQ(store.get("/n"), "2");
    store.conflict_next(1000);
    EXPECT_EQ(xs->transaction([](XenstoreView& view) { return view.write("/n", "3"); }).error().code, Code::busy);
}

TEST(FakeXenstore, FailedTransactionChangesNothing) {
    FakeXenstore store;
    const auto xs = store.connect();
    const Status done = xs->transaction([](XenstoreView& view) -> Status {
        EXPECT_TRUE(view.write("/n", "3"));
        return Error{Code::invalid, "no"};
    });
    EXPECT_EQ(done.error().message, "no");
    EXPECT_FALSE(store.exists("/n"));
}

TEST(FakeXenstore, LostConnection) {
    FakeXenstore store;
    const auto xs = store.connect();
    store.disconnect();
    EXPECT_TRUE(readable(*xs));
    EXPECT_EQ(xs->fired().error().code, Code::io);
    EXPECT_EQ(xs->read("/a").error().code, Code::io);
}

TEST(Xenstore, NoXenstoredIsSaidInWords) {
    setenv("XENSTORED_PATH", "/nonexistent/xenstored", 1);
    const auto opened = open_xenstore();
    unsetenv("XENSTORED_PATH");
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Code::not_found);
    EXPECT_THAT(opened.error().message, HasSubstr("cannot connect to xenstore"));
    EXPECT_THAT(opened.error().message, HasSubstr("/nonexistent/xenstored"));
}

}  // namespace
}  // namespace dmu
