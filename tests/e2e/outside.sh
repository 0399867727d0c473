#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Programs outside the tree build against the staged installation, by pkg-config
# alone: the installed examples, and the program in the head of dmu.h. What the
# library exports is what its version script says, and each function has a page.
#
# host:
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
stage=${DMU_STAGE:-$here/../../build/stage}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pc=$(find "$stage" -name libdmu.pc 2>/dev/null | head -n 1)
if [ -z "$pc" ]; then
	fail "outside: there is no libdmu.pc below $stage; packaging/stage makes it"
	finish
fi
library=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_LIBDIR=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$stage LD_LIBRARY_PATH=$library

examples() {
	cp -r "$stage/usr/share/doc/dm-userspace/examples" "$work/examples" &&
		make -C "$work/examples" CFLAGS='-O2 -Wall -Wextra -Werror' &&
		ldd "$work/examples/thin" | grep -q "libdmu.so.0 => $library"
}

# Between the line that announces it and the end of the comment, without the asterisks.
header_program() {
	sed -n '/^ \* A whole program/,/^ \* and then/s/^ \* \{0,5\}//p' "$stage/usr/include/dmu/dmu.h" |
		sed '1d; /^and then/d' >"$work/body.c"
	printf '#include <fcntl.h>\n' | cat - "$work/body.c" >"$work/program.c"
	# shellcheck disable=SC2046 # words
	gcc -Wall -Wextra -Werror -Wno-unused-parameter "$work/program.c" $(pkg-config --cflags --libs libdmu) -o "$work/program" &&
		! "$work/program" /nonexistent
}

cxx() {
	printf '#include <dmu/dmu.h>\n#include <cstdio>\nint main() { std::puts(dmu_version()); }\n' >"$work/p.cc"
	# shellcheck disable=SC2046 # words
	g++ -Wall -Wextra -Werror "$work/p.cc" $(pkg-config --cflags --libs libdmu) -o "$work/p" &&
		[ "$("$work/p")" = "$(pkg-config --modversion libdmu)" ]
}

exported() { nm -D --defined-only "$library/libdmu.so.0" | sed -n 's/.* T \(dmu_[a-z_]*\)@.*/\1/p' | sort; }

declared() { grep -o 'DMU_API [a-z0-9_ *]*[ *]dmu_[a-z_]*(' "$stage/usr/include/dmu/dmu.h" | grep -o 'dmu_[a-z_]*($' | tr -d '(' | sort; }

symbols() {
	exported >"$work/exported"
	declared >"$work/declared"
	[ -s "$work/exported" ] && diff "$work/declared" "$work/exported" &&
		! nm -D --defined-only "$library/libdmu.so.0" | grep ' [TDB] ' | grep -v '@@DMU_'
}

pages() {
	local name missing=0
	for name in dmu $(exported); do
		[ -e "$stage/usr/share/man/man3/$name.3" ] || { echo "$name has no page" && missing=1; }
	done
	return $missing
}

check "outside: the installed examples build" examples
check "outside: so does the program in the head of dmu.h" header_program
check "outside: and one in C++" cxx
check "outside: what is exported is what is declared, with a version" symbols
check "outside: every function has a manual page" pages
finish
