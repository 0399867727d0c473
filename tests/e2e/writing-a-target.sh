#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# docs/writing-a-target.md is followed as it stands, in a VM: its commands in the rig and
# on a machine, its change of null.
#
# host-long:
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
repo=$(realpath "$here/../..")
stage=${DMU_STAGE:-$repo/build/stage}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
# The indented lines that follow a paragraph of the page.
said() { # WORDS-OF-THE-PARAGRAPH
	awk -v p="$1" '!on && index($0, p) { on = 1; next } on && /^    / { print substr($0, 5); seen = 1; next } seen && /./ { exit }' \
		"$repo/docs/writing-a-target.md"
}

# The page's commands, and null and its change built, for the VM.
prepare() {
	local library
	library=$(dirname "$(dirname "$(find "$stage" -name libdmu.pc)")")
	export PKG_CONFIG_LIBDIR=$library/pkgconfig PKG_CONFIG_SYSROOT_DIR=$stage LD_LIBRARY_PATH=$library
	cp -r "$stage/usr/share/doc/dm-userspace/examples" "$work/page" && make -C "$work/page" null &&
		said 'and there:' >"$work/page/rig" && said 'With the project installed' >"$work/page/real" &&
		said 'as far from the end as' >"$work/page/turn" || return
	[ "$(wc -l <"$work/page/rig")" -ge 6 ] && [ "$(wc -l <"$work/page/real")" -ge 4 ] && [ "$(wc -l <"$work/page/turn")" -eq 3 ] || return
	sed -e "/^    dmu_cmd_map_linear/{r $work/page/turn" -e 'd}' "$work/page/null.c" >"$work/page/turned.c"
	# shellcheck disable=SC2046 # words
	gcc -Wall -Wextra -Werror "$work/page/turned.c" $(pkg-config --cflags --libs libdmu) -o "$work/page/turned"
}

# --- in the VM -------------------------------------------------------------------------
end_of() { # PID: whatever it was told before
	kill "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	:
}

in_the_rig() {
	{
		echo 'set -e'
		cat /mnt/page/rig
		# And what the text says then.
		cat <<-'END'
			echo hello >/mnt/hello && sync /mnt/hello
			kill -9 $!
			echo more >/mnt/more && sync /mnt/more
			/src/build/release/tools/examples/null mine /tmp/disk &
			echo 3 >/proc/sys/vm/drop_caches
			cat /mnt/hello /mnt/more
			dmsetup status mine | grep userspace
			umount /mnt
			dmsetup remove --retry mine
			kill $!
		END
	} >"$work/script"
	# /mnt has the page.
	mkdir -p /tmp/mnt && sed -i 's| /mnt| /tmp/mnt|g; s|>/mnt|>/tmp/mnt|g' "$work/script" && bash "$work/script" && e2fsck -fn /tmp/disk
}

on_a_machine() {
	local loop
	cp /mnt/page/null "$work" && cd "$work" && truncate -s 16M scratch && loop=$(losetup -f --show scratch) || return
	# A VM has no compiler.
	{
		echo 'set -e'
		sed "s|/dev/vg0/scratch|$loop|g; /^cp /d" /mnt/page/real
		echo 'dd if=/dev/mapper/mine of=/dev/null bs=1M status=none'
		echo 'dmsetup remove --retry mine; kill $!'
	} >script
	bash script && losetup -d "$loop"
}

turned() {
	local i pid
	for i in 0 1 2 3 4; do head -c 1M /dev/zero | tr '\0' $i; done >"$work/forth"
	for i in 4 3 2 1 0; do head -c 1M /dev/zero | tr '\0' $i; done >"$work/back"
	/mnt/page/turned mine "$work/forth" &
	pid=$!
	dmsetup create mine --table "0 10240 userspace mine 0" && cmp /dev/mapper/mine "$work/back" &&
		dmsetup remove --retry mine && end_of $pid
}

if [ "${1:-}" = --in-vm ]; then
	modprobe -a loop dm-mod dm-userspace
	check 'the page: a target in the rig' in_the_rig
	check 'the page: on a machine' on_a_machine
	check 'the page: turned around' turned
	finish
fi
check 'the page: null and its change build' prepare || finish
for kernel in 6.1 6.12; do
	"$here/../vm/run" --kernel $kernel --share "$work/page:page" -- "$0" --in-vm || fail "the page, Linux $kernel"
done
finish
