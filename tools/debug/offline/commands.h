// SPDX-License-Identifier: GPL-2.0-or-later
// The words of dmu-debug that need no device: what is done with a log. Each takes the
// words behind dmu-debug (argv[0] is its own: "log", "replay", ...) and gives the exit status.
#pragma once

namespace dmu::debug {

int log_command(int argc, char** argv);
int replay_command(int argc, char** argv);
int crash_command(int argc, char** argv);
int bisect_command(int argc, char** argv);
int explain_command(int argc, char** argv);
int plot_command(int argc, char** argv);

// The word's command; nullptr: it is none of these.
using Command = int (*)(int argc, char** argv);
Command offline_command(const char* word);

}  // namespace dmu::debug
