// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of dmu-img share: the program, run in a directory of its own.
#pragma once

#include <gmock/gmock.h>

#include "tests/unit/formats/support.h"
#include "xen-backend/control/control.h"

namespace dmu {

using control::Json;

class DmuImg : public ::testing::Test {
protected:
    DmuImg() {
        ::setenv("XEN_DMU_RUNDIR", (directory_ / "run").c_str(), 1);
        ::setenv("XEN_DMU_CONFIG", (directory_ / "none.conf").c_str(), 1);
    }
    ~DmuImg() override {
        ::unsetenv("XEN_DMU_RUNDIR");
        ::unsetenv("XEN_DMU_CONFIG");
    }
    // In the directory; status: of the program.
    Ran shell(const std::string& command) const {
        auto ran = run_command("cd '" + directory_.path() + "' && " + command);
        if (WIFEXITED(ran.status)) ran.status = WEXITSTATUS(ran.status);
        return ran;
    }
    Ran img(const std::string& arguments) const { return shell(DMU_IMG_PROGRAM " " + arguments); }
    void good(const std::string& arguments) const {
        const auto ran = img(arguments);
        EXPECT_EQ(ran.status, 0) << arguments << ": " << ran.output;
    }
    void qemu(const std::string& command) const {
        const auto ran = run_qemu("cd '" + directory_.path() + "' && " + command);
        EXPECT_EQ(ran.status, 0) << command << ": " << ran.output;
    }
    Json info(const std::string& format, const std::string& name) const {
        return Json::parse(img("info --json " + format + ":" + name).output);
    }
    Json theirs(const std::string& format, const std::string& name) const {
        return Json::parse(shell("qemu-img info -U --output=json -f " + format + " " + name).output);
    }
    TempDir directory_{std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp"};
};

}  // namespace dmu
