#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The walk of docs/debugging-a-file-system.md, in a VM: what mkfs and a commit of ext4
# write, in which order; the moment before a commit; a file system without barriers.
# Judges: the kernel's own log of the same writes (dm-log-writes), e2fsck, ext4's recovery.
#
# vm: --kernel 6.1 --timeout 500
# vm-long: --kernel 6.12 --timeout 500
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

work=/tmp/debug-walk
mnt=$work/mnt
sectors=65536
loops=()
mkdir -p $mnt
cd $work || exit 1

clean_up() {
	umount $mnt 2>/dev/null
	[ -z "${served:-}" ] || kill "$served" 2>/dev/null
	dmsetup remove logged 2>/dev/null
	[ ${#loops[@]} -eq 0 ] || losetup -d "${loops[@]}" 2>/dev/null
}
trap clean_up EXIT

loop() { # FILE: $loop is its device
	loop=$(losetup -f --show "$1") && loops+=("$loop")
}

# A device whose writes dm-log-writes keeps: $1.dev, as it was before them in $1.base.
begin() { # NAME
	local device
	[ -e "$1.base" ] || truncate -s $((sectors * 512)) "$1.base"
	cp --sparse=always "$1.base" "$1.dev"
	truncate -s 128M "$1.writes"
	loop "$1.dev"
	device=$loop
	loop "$1.writes"
	dmsetup create logged --table "0 $sectors log-writes $device $loop"
}

mark() { dmsetup message logged 0 mark "$1"; }

end() { # NAME: $1.log
	dmsetup remove --retry logged
	losetup -d "${loops[@]}"
	loops=()
	dmu-debug log "$1.log" --import "$1.writes" --base "$1.base"
}

# One number out of a listing.
number() { # LOG OPTIONS... PATTERN: of the first record that the pattern fits
	local log=$1 pattern=${*: -1}
	set -- "${@:2:$#-2}"
	dmu-debug log "$log.log" --base "$log.base" --explain "$@" | awk -v p="$pattern" '$0 ~ p { print $1; exit }'
}

# --- mkfs, and a commit ----------------------------------------------------------
modprobe -a dm-mod loop dm-log-writes dm-userspace || exit 1
begin walk
mke2fs -q -t ext4 -O ^metadata_csum -E lazy_itable_init=0 /dev/mapper/logged
mark mkfs
mount /dev/mapper/logged $mnt
mark mounted
echo hello >$mnt/hello
sync $mnt/hello
mark synced
umount $mnt
end walk

size=$(dmu-debug log walk.log --export walk.out && stat -c %s walk.out)
check "dm-log-writes' own log and ours are the same bytes" cmp -n "$size" walk.writes walk.out
check "replayed to the end it is the device" dmu-debug replay walk.log --base walk.base --onto walk.last
check "byte for byte" cmp walk.dev walk.last

mkfs=$(number walk 'mark.*"mkfs"')
mounted=$(number walk 'mark.*"mounted"')
synced=$(number walk 'mark.*"synced"')
dmu-debug log walk.log --base walk.base --explain -N "-$mkfs" >mkfs.txt
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
		in_order mkfs.txt "$part" ' flush ' 'ext4 super block' ' flush ' '"mkfs"' || return 1
	done
}
check "mkfs writes the parts, flushes, then the super block, and flushes" parts_first
dmu-debug log walk.log --base walk.base --explain -N "$mounted-$synced" >commit.txt
check "a commit: data, descriptor, contents, flush, commit block by FUA" in_order commit.txt \
	'ext4 file /hello' 'descriptor of transaction' 'journal: contents' ' flush ' 'FUA.*commit of transaction'
check "the descriptor tells whose new versions follow" grep -q 'descriptor of .*inode bitmap of group 0' commit.txt

# --- just before the commit block ------------------------------------------------
commit=$(number walk -N "$mounted-" 'commit of transaction')

mounted_crash() { # AT SHELL-COMMAND: in the file system that a crash there leaves
	local status=0
	dmu-debug crash walk.log --at "$1" --base walk.base --with all --name walked >walked.out 2>&1 &
	served=$!
	wait_for 20 grep -q 'served until' walked.out || { cat walked.out && return 1; }
	{ mount /dev/mapper/walked $mnt && (cd $mnt && eval "$2") && umount $mnt; } || status=1
	umount $mnt 2>/dev/null
	kill $served
	wait $served || status=1
	served=
	[ ! -e /dev/mapper/walked ] || { echo "the device is still there" && status=1; }
	return $status
}
cp walk.base walk.base.before
check "before the commit block the file is not there, and the device can be written" \
	mounted_crash $((commit - 1)) '[ ! -e hello ] && dd if=/dev/zero of=new bs=64k count=8 conv=fsync && rm new'
check "with the commit block it is" mounted_crash "$commit" 'grep -q hello hello'
check "base and log are as they were" cmp walk.base walk.base.before

killed() {
	dmu-debug crash walk.log --at "$commit" --base walk.base --name killed >killed.out 2>&1 &
	served=$!
	wait_for 20 grep -q 'served until' killed.out || { cat killed.out && return 1; }
	kill -9 $served
	wait $served 2>/dev/null
	served=
	! timeout 20 dd if=/dev/mapper/killed of=/dev/null bs=4k count=1 skip=4000 iflag=direct 2>/dev/null &&
		dmsetup remove --retry killed
}
check "killed, its device fails what it is asked, and can be removed" killed

# shellcheck disable=SC2016
sound='e2fsck -E journal_only -y {} >/dev/null; e2fsck -fn {}'
check "every result of a crash between data and flush is sound" \
	dmu-debug crash walk.log --at "$((commit - 2))" --base walk.base --sample 4 -- sh -c "$sound"

# --- barriers, and none ----------------------------------------------------------
work_on() { # NAME MOUNT-OPTIONS
	local i
	cp --sparse=always walk.last "$1.base"
	begin "$1"
	mount -o "$2" /dev/mapper/logged $mnt
	for i in 1 2 3 4; do
		mkdir $mnt/d$i
		dd if=/dev/urandom of=$mnt/d$i/file bs=8k count=4 conv=fsync status=none
		mark "file-$i"
	done
	umount $mnt
	end "$1"
}

bisected() { # NAME OPTIONS...: what bisect says, its status
	local name=$1
	shift
	timeout 300 dmu-debug bisect "$name.log" --base "$name.base" "$@"
}
never_bad() { # NAME OPTIONS...
	local status=0
	bisected "$@" || status=$?
	[ $status -eq 2 ]
}

work_on barriers barrier=1
check "with barriers no crash does harm" never_bad barriers --crash 3 --linear --flags fua -- sh -c "$sound"
# shellcheck disable=SC2016
third_file='e2fsck -E journal_only -y {} >/dev/null; debugfs -R "stat d3/file" {} 2>&1 | grep -q "Size: 32768"'
check "what fsync has acknowledged is there" dmu-debug crash barriers.log \
	--at "$(number barriers 'mark.*"file-3"')" --base barriers.base --sample 4 -- sh -c "$third_file"

work_on none barrier=0
first_bad() { bisected none --crash 12 --quiet --onto bad.img -- sh -c "$sound" >bad.txt || { cat bad.txt && return 1; }; }
check "without, bisect finds the first point at which a crash can" first_bad
check "it names the request" grep -q '^first bad point: [0-9]' bad.txt
check "and e2fsck finds that image bad, too" sh -c '! e2fsck -fn bad.img'
# dm-log-writes logs a mark at once, but unflushed writes only later: the commit itself tells the moment.
third=$(dmu-debug log none.log --base none.base --explain | awk '/commit of transaction/ && ++n == 3 { print $1 }')
check "the kernel sent no flush that would have kept it" sh -c \
	"[ \$(dmu-debug log none.log -k flush -N -$third | wc -l) -eq 0 ]"
lost() {
	local status=0
	dmu-debug crash none.log --at "$third" --base none.base -- sh -c "$third_file" || status=$?
	[ $status -eq 2 ]
}
check "so that what fsync has acknowledged can be lost" lost

# --- the debugger's own log ------------------------------------------------------
live() {
	truncate -s $((sectors * 512)) live.dev
	loop live.dev
	dmu-debug "$loop" --name logged --log live.log --base live.base --run "mke2fs -q -t ext4 -E lazy_itable_init=0 \
		\$DMU_DEBUG_DEVICE && mount \$DMU_DEBUG_DEVICE $mnt && echo hello >$mnt/hello && sync $mnt/hello && umount $mnt"
}
check "the same under the debugger" live
losetup -d "${loops[@]}" && loops=()
check "its log replayed is the device" dmu-debug replay live.log --base live.base --onto live.last
check "byte for byte, too" cmp live.dev live.last
dmu-debug log live.log --base live.base --explain >live.txt
check "and tells the same order of a commit" in_order live.txt 'ext4 file /hello' 'descriptor of transaction' \
	'journal: contents' ' flush ' 'commit of transaction'

# --- a picture -------------------------------------------------------------------
dmu-debug plot walk.log >walk.svg
# shellcheck disable=SC2016
check "the picture has a line per flush and mark, and an end" sh -c \
	'[ "$(grep -c "<line " walk.svg)" -eq "$1" ] && tail -n 1 walk.svg | grep -qx "</svg>"' - \
	"$(dmu-debug log walk.log -k flush,mark | wc -l)"
finish
