#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# docs/debugging-a-file-system.md typed as it stands, in a VM, and what it says that one
# sees. Judges besides: the kernel's own log of such writes (dm-log-writes), e2fsck, ext4's
# recovery. With --out DIR of tests/vm/run what was said to each command goes there, to
# renew the page.
#
# vm: --kernel 6.1 --timeout 1000
# vm-long: --kernel 6.12 --timeout 1000
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

page=$(realpath "$(dirname "$0")/../../docs/debugging-a-file-system.md")
work=/tmp/debug-walk
sectors=65536
mkdir -p $work && cd $work || exit 1
modprobe -a dm-mod loop dm-log-writes dm-userspace || exit 1

clean_up() {
	umount $work/mnt $work/mnt 2>/dev/null
	[ -z "${served:-}" ] || kill "$served" 2>/dev/null
	dmsetup remove logged 2>/dev/null
	losetup -D
}
trap clean_up EXIT

# --- the page --------------------------------------------------------------------
# Of the N-th command N.typed, N.shown, what it said N.out; page.sh does them all.
awk '
	/^    \$ / { n++; typed = 1; print "exec >" n ".out 2>&1" >"page.sh"; line = substr($0, 7) }
	/^    > / && typed { line = substr($0, 7) }
	!/^    / { typed = 0 }
	/^    [$>] / && typed { print line >"page.sh"; print line >(n ".typed"); next }
	/^    / && n { typed = 0; print substr($0, 5) >(n ".shown") }
' "$page"
timeout 800 bash page.sh </dev/null || fail "the page's last command: $(tail -n 1 page.sh)"
[ ! -d /out ] || cp ./*.out ./*.typed /out

# Numbers, times and widths differ from run to run; "..." stands for what was left out.
masked() { sed -E 's/[0-9]+(\.[0-9]+)?[KMG]?/N/g; s/ +/ /g; s/^ //; s/ $//' "$1"; }
is_as_shown() { # N: what the page shows was said
	local line bad=0
	masked "$1.out" >said
	while read -r line; do
		case $line in
		'' | ...) continue ;;
		*...) awk -v s="${line% ...}" 'index($0, s) == 1 { found = 1 } END { exit !found }' said ;;
		*) grep -Fqx -- "$line" said ;;
		esac || { echo "not said: $line" && bad=1; }
	done < <(masked "$1.shown")
	[ $bad -eq 0 ] || { cat "$1.out" && return 1; }
}
for shown in $(printf '%s\n' *.shown | sort -n); do
	n=${shown%.shown}
	check "as on the page: $(head -n 1 "$n.typed")" is_as_shown "$n"
done
out_of() { # PATTERN: what was said to the command that it fits
	local typed
	typed=$(grep -El -- "$1" ./*.typed | head -n 1)
	echo "${typed%.typed}.out"
}
said() { grep -Eq -- "$2" "$(out_of "$1")"; } # COMMAND-PATTERN PATTERN

# One number out of a listing.
number() { # LOG NTH PATTERN: of the n-th record that the pattern fits
	dmu-debug log "$1.log" --base "$1.base" --explain | awk -v p="$3" -v n="$2" '$0 ~ p && ++i == n { print $1; exit }'
}

# --- mkfs, and a commit ----------------------------------------------------------
replays() { # LOG NEXT: played onto its base it is the next one's base
	dmu-debug replay "$1.log" --base "$1.base" --onto last && cmp last "$2.base"
}
check "the log of mkfs replayed is the device, byte for byte" replays mkfs walk
check "that of the commit, too" replays walk barrier-1
in_order() { # FILE PATTERN...: the first lines with these come in this order
	local file=$1 last=0 line pattern
	shift
	for pattern; do
		line=$(awk -v p="$pattern" -v after="$last" 'NR > after && $0 ~ p { print NR; exit }' "$file")
		[ -n "$line" ] || { echo "no '$pattern' behind line $last:" && cat "$file" && return 1; }
		last=$line
	done
}
# The parts come in any order, as they are written back.
parts_first() {
	local part
	for part in 'inode table of group' 'block bitmap of group 0' 'journal block 0: super block' 'directory /lost.found'; do
		in_order "$(out_of 'debug log mkfs.log')" "$part" ' flush ' 'ext4 super block' ' flush ' || return 1
	done
}
check "mkfs writes the parts, flushes, then the super block, and flushes" parts_first
check "a commit: data, descriptor, contents, flush, commit block by FUA" in_order "$(out_of 'debug log walk.log')" \
	'ext4 file /hello' 'descriptor of transaction' 'journal: contents' ' flush ' 'FUA.*commit of transaction'
check "the descriptor tells whose new versions follow" said 'debug log walk.log' 'descriptor of .*inode bitmap of group 0'

# --- just before the commit block ------------------------------------------------
check "before the commit block the file is not there" said 'mount /dev/mapper/before' '^lost.found$'
check "not at all" sh -c "! grep hello '$(out_of 'mount /dev/mapper/before')'"
check "with the commit block it is" said 'mount /dev/mapper/after' '^hello$'
check "both are gone" sh -c '! ls /dev/mapper/before /dev/mapper/after 2>/dev/null'
check "every result of a crash between data and flush is sound" said 'walk.log .*--sample 4' '^0 of 4 bad$'

commit=$(number walk 1 'commit of transaction')
serve() { # OPTION...: a device of the crash at the commit, until $served ends
	dmu-debug crash walk.log --at "$commit" --base walk.base --name walked "$@" >served.out 2>&1 &
	served=$!
	wait_for 20 grep -q 'served until' served.out || { cat served.out && return 1; }
}
written() {
	local before status=0
	before=$(sha256sum walk.base walk.log/*)
	serve --with all || return
	{ mount /dev/mapper/walked mnt && grep -q hello mnt/hello && dd if=/dev/zero of=mnt/new bs=64k count=8 conv=fsync &&
		umount mnt; } || status=1
	umount mnt 2>/dev/null
	kill $served
	wait $served || status=1
	served=
	[ ! -e /dev/mapper/walked ] && [ "$before" = "$(sha256sum walk.base walk.log/*)" ] && return $status
}
check "the device can be written; base and log stay" written
killed() {
	serve || return
	kill -9 $served
	wait $served 2>/dev/null
	served=
	! timeout 20 dd if=/dev/mapper/walked of=/dev/null bs=4k count=1 skip=4000 iflag=direct 2>/dev/null &&
		dmsetup remove --retry walked
}
check "killed, its device fails what it is asked, and can be removed" killed

# --- barriers, and none ----------------------------------------------------------
check "with barriers no crash does harm" said 'bisect barrier-1' '^no bad point'
# shellcheck disable=SC2016
acknowledged() {
	dmu-debug crash barrier-1.log --at "$(number barrier-1 3 'commit of transaction')" --base barrier-1.base --sample 4 -- sh -c \
		'e2fsck -E journal_only -y {} >/dev/null; debugfs -R "stat 1-3/file" {} 2>&1 | grep -q "Size: 32768"'
}
check "what fsync has acknowledged is there" acknowledged
check "without, bisect finds the first point at which a crash can" said 'bisect barrier-0' '^first bad point: [0-9]'
check "and e2fsck finds that image bad, too" sh -c '! e2fsck -fn bad.img'
check "the kernel sent no flush that would have kept it" sh -c \
	"[ \$(dmu-debug log barrier-0.log -k flush -N -$(number barrier-0 3 'commit of transaction') | wc -l) -eq 0 ]"
check "so that what fsync has acknowledged can be lost" said 'crash barrier-0' '^1 of 1 bad$'

# --- a stop, a picture -----------------------------------------------------------
check "the debugger has stopped before the commit block" said 'break before' 'journal block [0-9]*: commit of transaction'
# shellcheck disable=SC2016
check "the picture has a line per flush, and an end" sh -c \
	'[ "$(grep -c "<line " walk.svg)" -eq "$1" ] && tail -n 1 walk.svg | grep -qx "</svg>"' - \
	"$(dmu-debug log walk.log -k flush,mark | wc -l)"

# --- the kernel's own log --------------------------------------------------------
# What dm-log-writes keeps of the same, in kernel.log.
by_the_kernel() {
	local device writes
	truncate -s $((sectors * 512)) kernel.base kernel.dev && truncate -s 128M kernel.writes
	device=$(losetup -f --show kernel.dev) && writes=$(losetup -f --show kernel.writes) || return
	dmsetup create logged --table "0 $sectors log-writes $device $writes" && mke2fs -q -t ext4 /dev/mapper/logged &&
		dmsetup message logged 0 mark mkfs && mount /dev/mapper/logged mnt && echo hello >mnt/hello && sync mnt/hello &&
		dmsetup message logged 0 mark synced && umount mnt && dmsetup remove --retry logged && losetup -d "$device" "$writes" &&
		dmu-debug log kernel.log --import kernel.writes --base kernel.base
}
check "a log of dm-log-writes is read" by_the_kernel
same_bytes() { dmu-debug log kernel.log --export kernel.out && cmp -n "$(stat -c %s kernel.out)" kernel.writes kernel.out; }
check "and written again, the same bytes" same_bytes
same_device() { dmu-debug replay kernel.log --base kernel.base --onto kernel.last && cmp kernel.dev kernel.last; }
check "replayed it is the device" same_device
dmu-debug log kernel.log --base kernel.base --explain >kernel.txt
check "in which a commit is the same, and the marks stand" in_order kernel.txt '"mkfs"' 'ext4 file /hello' \
	'descriptor of transaction' 'journal: contents' ' flush ' 'FUA.*commit of transaction' '"synced"'
finish
