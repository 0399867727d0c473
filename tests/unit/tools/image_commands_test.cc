// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/lib/image_commands.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace dmu {
namespace {

using ::testing::HasSubstr;

class Images : public ::testing::Test {
protected:
    Images() {
        std::string path = ::testing::TempDir() + "images.XXXXXX";
        directory_ = mkdtemp(path.data());
        setenv("XEN_DMU_RUNDIR", (directory_ / "run").c_str(), 1);
    }
    ~Images() override {
        unsetenv("XEN_DMU_RUNDIR");
        std::filesystem::remove_all(directory_);
    }
    std::string qcow(const std::string& name) { return "qcow:" + (directory_ / name).string(); }

    std::filesystem::path directory_;
};

TEST_F(Images, AreMadeAndGood) {
    const auto made = create_image({.spec = qcow("a b,c"), .size = 64 << 20});
    ASSERT_TRUE(made) << made.error().message;
    const auto report = check_image(qcow("a b,c"), false);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(check_status(*report), 0);
    EXPECT_THAT(check_text(*report), HasSubstr("no faults"));
}

TEST_F(Images, AreNotOverwritten) {
    ASSERT_TRUE(create_image({.spec = qcow("a"), .size = 1 << 20}));
    const auto again = create_image({.spec = qcow("a"), .size = 1 << 20});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Code::busy);
}

TEST_F(Images, TakeTheSizeOfTheirBackingImage) {
    ASSERT_TRUE(create_image({.spec = qcow("base"), .size = 3 << 20}));
    const auto made = create_image({.spec = qcow("top"), .backing = "qcow:base"});
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_TRUE(check_image(qcow("top"), false));
    EXPECT_FALSE(create_image({.spec = qcow("bad"), .backing = "qcow:missing"}));
    EXPECT_FALSE(std::filesystem::exists(directory_ / "bad"));
}

TEST_F(Images, LeaveNothingWhereTheyFail) {
    EXPECT_FALSE(create_image({.spec = qcow("a")}));
    EXPECT_FALSE(create_image({.spec = qcow("a"), .size = 1 << 20, .cluster_size = 1000}));
    EXPECT_FALSE(create_image({.spec = "nothing:" + (directory_ / "a").string(), .size = 1}));
    EXPECT_FALSE(std::filesystem::exists(directory_ / "a"));
}

TEST_F(Images, AreNotCheckedWhileAttached) {
    ASSERT_TRUE(create_image({.spec = qcow("a"), .size = 1 << 20}));
    struct stat info;
    ASSERT_EQ(stat((directory_ / "a").c_str(), &info), 0);
    char key[64];
    std::snprintf(key, sizeof key, "%jx-%jx", static_cast<std::uintmax_t>(info.st_dev),
                  static_cast<std::uintmax_t>(info.st_ino));
    control::DiskState state;
    state.instance = "name-a";
    state.name = "a";
    state.key = key;
    state.uuid = std::string("DMU-") + key;
    state.spec = qcow("a");
    state.writable = true;
    state.on_full = "wait";
    ASSERT_TRUE(control::write_state(state));
    const auto report = check_image(qcow("a"), false);
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, Code::busy);
    EXPECT_TRUE(check_image(qcow("a"), true));
}

TEST_F(Images, ReportsHaveAStatus) {
    CheckReport report;
    report.leaks = 1;
    EXPECT_EQ(check_status(report), 3);
    EXPECT_EQ(check_json(report)["leaks"], 1);
    report.corruptions = 2;
    report.messages = {"one"};
    EXPECT_EQ(check_status(report), 2);
    EXPECT_THAT(check_text(report), HasSubstr("(2 more)"));
    std::ofstream(directory_ / "junk") << std::string(4096, 'j');
    const auto junk = check_image(qcow("junk"), false);
    EXPECT_TRUE(!junk || check_status(*junk) == 2);
}

}  // namespace
}  // namespace dmu
