// SPDX-License-Identifier: GPL-2.0-or-later
// dmu-mark empty|write: to the plug-in that counts this machine's instructions.
#include "mark.h"

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
    if (argc == 2 && !strcmp(argv[1], "empty"))
        DMU_MARK(DMU_MARK_EMPTY);
    else if (argc == 2 && !strcmp(argv[1], "write"))
        DMU_MARK(DMU_MARK_WRITE);
    else
        return fprintf(stderr, "usage: dmu-mark empty|write\n"), 2;
    return 0;
}
