// SPDX-License-Identifier: GPL-2.0-or-later
// The debugger of what is written to a disk.
#include "tools/debug/live.h"

int main(int argc, char** argv) {
    return dmu::debug::live_command(argc, argv, {});
}
