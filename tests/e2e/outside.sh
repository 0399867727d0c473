#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Programs outside the tree build against the staged installation, by pkg-config
# alone: the installed examples, and the program in the head of dmu.h. What the
# library exports is what its version script says, and each function has a page.
# docs/writing-a-target.md is followed as it stands, in a VM.
#
# host
set -u
here=$(cd "$(dirname "$0")" && pwd)
stage=${DMU_STAGE:-$here/../../build/stage}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0

check() { # NAME COMMAND...
	if "${@:2}" >"$work/log" 2>&1; then
		echo "ok $1"
	else
		echo "not ok $1"
		sed 's/^/  /' "$work/log"
		bad=1
	fi
}

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

# What a paragraph of the page is followed by, indented; without a prompt's comments.
said() { # PATTERN
	awk -v p="$1" '!on && index($0, p) { on = 1; next } on && /^    / { print substr($0, 5); seen = 1; next } seen && /./ { exit }' \
		"$here/../../docs/writing-a-target.md"
}

# The page's change of null, and its commands, for the VM.
page() {
	mkdir "$work/page"
	said "and there:" >"$work/page/rig" && said "With the project installed" | grep -v '^cp ' >"$work/page/real" &&
		said "as far from the end as" >"$work/turn" && [ "$(wc -l <"$work/turn")" -eq 3 ] || return
	cp "$work/examples/null" "$work/page"
	sed -e "/^    dmu_cmd_map_linear/{r $work/turn" -e 'd}' "$work/examples/null.c" >"$work/turned.c"
	# shellcheck disable=SC2046 # words
	gcc -Wall -Wextra -Werror "$work/turned.c" $(pkg-config --cflags --libs libdmu) -o "$work/page/turned"
}

in_the_rig() {
	{
		echo 'set -em'
		cat /mnt/page/rig
		cat <<-'END'
			echo hello >/mnt/hello
			sync /mnt/hello
			kill -9 %1
			sleep 0.2
			echo more >/mnt/more
			sync /mnt/more
			/src/build/release/tools/examples/null mine /tmp/disk &
			echo 3 >/proc/sys/vm/drop_caches
			cat /mnt/hello /mnt/more
			dmsetup status mine
			umount /mnt
			dmsetup remove --retry mine
			kill %2
		END
	} >"$work/script"
	bash "$work/script" && e2fsck -fn /tmp/disk
}

on_a_machine() {
	cp /mnt/page/null "$work" && cd "$work" || return
	truncate -s 16M scratch
	losetup /dev/loop0 scratch
	sed 's|/dev/vg0/scratch|/dev/loop0|g' /mnt/page/real >script
	echo 'dmsetup remove --retry mine; kill %1' >>script
	grep -q dmsetup script && bash -em script && losetup -d /dev/loop0
}

turned() {
	local i
	for i in 0 1 2 3 4; do head -c 1M /dev/zero | tr '\0' $i; done >"$work/forth"
	for i in 4 3 2 1 0; do head -c 1M /dev/zero | tr '\0' $i; done >"$work/back"
	/mnt/page/turned mine "$work/forth" &
	dmsetup create mine --table "0 10240 userspace mine 0" && cmp /dev/mapper/mine "$work/back"
}

in_vm() {
	modprobe -a loop dm-mod dm-userspace
	check "the page: a target in the rig" in_the_rig
	check "the page: on a machine" on_a_machine
	check "the page: turned around" turned
	exit $bad
}

[ "${1:-}" != --in-vm ] || in_vm

pc=$(find "$stage" -name libdmu.pc 2>/dev/null | head -n 1)
if [ -z "$pc" ]; then
	echo "not ok outside: there is no libdmu.pc below $stage; packaging/stage makes it"
	exit 1
fi
library=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_LIBDIR=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$stage LD_LIBRARY_PATH=$library

check "outside: the installed examples build" examples
check "outside: so does the program in the head of dmu.h" header_program
check "outside: and one in C++" cxx
check "outside: what is exported is what is declared, with a version" symbols
check "outside: every function has a manual page" pages
check "the page: its change builds" page
"$here/../vm/run" --share "$work/page:page" -- tests/e2e/outside.sh --in-vm || bad=1
exit $bad
