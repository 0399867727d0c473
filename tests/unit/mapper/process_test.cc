// SPDX-License-Identifier: GPL-2.0-or-later
// Supervision without systemd, and the pid file.
#include "xen-backend/mapper/process.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/mapper/support.h"

namespace dmu::test {
namespace {

unsigned count_life(const std::string& path) {
    std::ofstream(path, std::ios::app) << "x";
    return static_cast<unsigned>(std::filesystem::file_size(path));
}

// The supervisor's exit status; worker runs in processes of their own.
int run_supervised(const std::function<int()>& worker, const std::function<void(pid_t)>& meanwhile = nullptr) {
    pid_t supervisor = fork();
    if (supervisor == 0) _exit(supervise(worker));
    if (meanwhile) meanwhile(supervisor);
    int status = 0;
    EXPECT_EQ(waitpid(supervisor, &status, 0), supervisor);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Supervise, AKilledWorkerHasASuccessor) {
    Place place;
    std::string lives = place.path("lives");
    EXPECT_EQ(run_supervised([&] {
                  if (count_life(lives) < 3) raise(SIGKILL);
                  return 0;
              }),
              0);
    EXPECT_EQ(std::filesystem::file_size(lives), 3u);
}

TEST(Supervise, WhatIsHopelessIsNotTriedAgain) {
    Place place;
    std::string lives = place.path("lives");
    EXPECT_EQ(run_supervised([&] {
                  count_life(lives);
                  return exit_hopeless;
              }),
              exit_hopeless);
    EXPECT_EQ(std::filesystem::file_size(lives), 1u);
}

TEST(Supervise, WhoMakesWayIsRenewed) {
    Place place;
    const std::string lives = place.path("lives");
    const auto supervised = [&](const std::function<void()>& renew) {
        const pid_t supervisor = fork();
        if (supervisor == 0) _exit(supervise([&] { return count_life(lives) == 1 ? exit_restart : 0; }, renew));
        int status = 0;
        EXPECT_EQ(waitpid(supervisor, &status, 0), supervisor);
        return WEXITSTATUS(status);
    };
    EXPECT_EQ(supervised([] { _exit(77); }), 77);
    std::filesystem::remove(lives);
    EXPECT_EQ(supervised([] {}), 0);
    EXPECT_EQ(std::filesystem::file_size(lives), 2u);
}

TEST(Supervise, TerminationIsForwarded) {
    Place place;
    std::string lives = place.path("lives");
    auto worker = [&] {
        signal(SIGTERM, [](int) { _exit(0); });
        count_life(lives);
        for (;;) pause();
        return 1;
    };
    EXPECT_EQ(run_supervised(worker,
                             [&](pid_t supervisor) {
                                 // It is there before anything is in it.
                                 EXPECT_TRUE(eventually([&] {
                                     std::error_code none;
                                     return std::filesystem::file_size(lives, none) == 1;
                                 }));
                                 kill(supervisor, SIGTERM);
                             }),
              0);
    EXPECT_EQ(std::filesystem::file_size(lives), 1u);
}

TEST(PidFileTest, OneMapperOfAnInstance) {
    Place place;
    std::string path = control::pid_path("dom-5");
    {
        PidFile mine;
        ASSERT_TRUE(mine.take(path));
        EXPECT_EQ(control::mapper_pid("dom-5"), getpid());
        int status = 0;
        pid_t other = fork();
        if (other == 0) {
            PidFile theirs;
            _exit(theirs.take(path) ? 0 : 7);
        }
        ASSERT_EQ(waitpid(other, &status, 0), other);
        EXPECT_EQ(WEXITSTATUS(status), 7);
    }
    EXPECT_EQ(control::mapper_pid("dom-5"), 0) << "a dead one's";
    PidFile successor;
    EXPECT_TRUE(successor.take(path));
    successor.remove();
    EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace dmu::test
