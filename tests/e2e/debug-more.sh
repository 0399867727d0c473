#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# More of dmu-debug's logs, in a VM: an XFS and a partition explained, every result of
# a crash as a device that is mounted, a bisect by qemu-img.
# With $DMU_REPLAY_LOG the replay tool of dm-log-writes reads what is exported.
#
# vm-long: --kernel 6.1 --mem 2048 --timeout 900
# vm-long: --kernel 6.12 --mem 2048 --timeout 900
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

work=/tmp/debug-more
mnt=$work/mnt
mkdir -p $mnt && cd $work || exit 1
modprobe -a dm-mod loop dm-userspace || exit 1

disk() { # SIZE
	[ -z "${disk:-}" ] || losetup -d "$disk"
	rm -f disk && truncate -s "$1" disk && disk=$(losetup -f --show disk)
}

# Runs shell commands on a debugged device; NAME.log, NAME.base.
logged() { # NAME COMMANDS [OPTION...]
	dmu-debug "$disk" --name dbg --log "$1.log" --base "$1.base" "${@:3}" --run "dev=\$DMU_DEBUG_DEVICE; $2" >said 2>&1 ||
		{ cat said && return 1; }
}

explained() { # NAME PATTERN...: each in some line
	local pattern
	dmu-debug log "$1.log" --base "$1.base" --explain >explained || return
	for pattern in "${@:2}"; do
		grep -Eq "$pattern" explained || { echo "no '$pattern' in:" && cat explained && return 1; }
	done
}

# --- other file systems and partitions ------------------------------------------
disk 320M
check 'XFS' logged xfs "mkfs.xfs -q \$dev && mount \$dev $mnt && echo hello >$mnt/hello && sync $mnt/hello && umount $mnt"
check 'its parts are known' explained xfs 'write .*# XFS super block of group 0' 'XFS inode header \(AGI\) of group [0-9]' \
	'XFS free space header \(AGF\) of group [0-9]' 'write .*# XFS log'
replays() { dmu-debug replay "$1.log" --base "$1.base" --onto again && cmp again disk; }
check 'its log replays to what is below' replays xfs
check 'and xfs_repair is content with it' xfs_repair -n -f again

disk 32M
# Two of type Linux, from sector 2048 with 16384 sectors and from 20480 with 40960; the VM has no tool for it.
cat >partition <<'END'
printf '\0\0\0\0\203\0\0\0\0\10\0\0\0\100\0\0\0\0\0\0\203\0\0\0\0\120\0\0\0\240\0\0' |
	dd of="$1" bs=1 seek=446 conv=notrunc status=none &&
	printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc,fsync status=none
END
check 'partitions' logged parts "bash ./partition \$dev && part=\$(losetup -f --show -o 10M --sizelimit 20M \$dev) &&
	mke2fs -q -t ext4 \$part && losetup -d \$part"
check 'they are known, and the file system in one' explained parts 'write .* 0\+[18] .*# partition table \(MBR\)' \
	'partition 2: ext4 super block'

# --- every crash a device ---------------------------------------------------------
disk 16M
small_files() {
	mke2fs -q -t ext4 -O ^metadata_csum -E lazy_itable_init=0 "$disk" && logged small "mount \$dev $mnt &&
		echo one >$mnt/one && sync $mnt/one && echo two >$mnt/two && sync $mnt/two && umount $mnt"
}
check 'small files' small_files
# The third write behind the first commit: what the second one begins with.
at=$(dmu-debug log small.log --base small.base --explain | awk '/commit of transaction/ { after = 1 }
	after && $3 == "write" && ++n == 4 { print $1; exit }')
devices() {
	local served image count=0 bad=0
	dmu-debug crash small.log --at "$at" --base small.base --all --limit 64 --name state >served 2>&1 &
	served=$!
	wait_for 60 grep -q 'served until' served || { cat served && return 1; }
	for image in /dev/mapper/state-*; do
		count=$((count + 1))
		{ mount "$image" $mnt && grep -q one $mnt/one && echo new >$mnt/new && umount $mnt; } || bad=$((bad + 1))
		e2fsck -fn "$image" >/dev/null 2>&1 || bad=$((bad + 1))
	done
	kill -INT $served
	wait $served || bad=$((bad + 1))
	echo "$count devices, $bad bad" && head -n 1 served
	[ $bad -eq 0 ] && [ $count -ge 4 ] && [ $count -eq "$(grep -c '^/dev/mapper/state-' served)" ] &&
		! ls /dev/mapper/state-* 2>/dev/null
}
check 'every result of a crash is mounted, and has what was synced' devices

# --- bisect by another check ---------------------------------------------------------
disk 32M
l2_damage() {
	qemu-img create -q -f qcow2 "$disk" 16M && qemu-io -f qcow2 -c 'write -q 0 64k' "$disk" >/dev/null &&
		logged qcow2 "qemu-io -f qcow2 -c 'write -q 1M 128k' -c flush \$dev &&
			l1=\$(od -An -t u4 --endian=big -j 44 -N 4 \$dev) &&
			l2=\$((\$(od -An -t u4 --endian=big -j \$((l1 + 4)) -N 4 \$dev) & 0xfffffe00)) &&
			printf '\\200\\0\\0\\0\\0\\1\\0\\0' | dd of=\$dev bs=1 seek=\$((l2 + 8)) conv=notrunc,fsync status=none &&
			qemu-io -f qcow2 -c 'write -q 4M 64k' -c flush \$dev"
}
check 'an image on the device, with one wrong entry' l2_damage
# Status 3: only leaks, which are no harm.
by_qemu() {
	dmu-debug bisect qcow2.log --base qcow2.base --onto bad.qcow2 -- sh -c 'qemu-img check -q -f qcow2 {}; [ $? -ne 2 ]' >bisected ||
		{ cat bisected && return 1; }
}
check 'bisect by qemu-img check' by_qemu
before_it() {
	local number
	number=$(sed -n 's/^first bad point: \([0-9]*\).*/\1/p' bisected)
	[ -n "$number" ] && dmu-debug replay qcow2.log --base qcow2.base --to $((number - 1)) --onto good.qcow2 || return
	qemu-img check -q -f qcow2 good.qcow2
	[ $? -ne 2 ] && ! qemu-img check -q -f qcow2 bad.qcow2
}
check 'qemu-img finds that one bad, and the one before good' before_it

# --- dm-log-writes' own tool --------------------------------------------------------
by_its_tool() {
	dmu-debug log small.log --export small.writes && cp --sparse=always small.base replayed &&
		"$DMU_REPLAY_LOG" --log small.writes --replay replayed &&
		dmu-debug replay small.log --base small.base --onto again && cmp again replayed
}
if [ -n "${DMU_REPLAY_LOG:-}" ]; then
	check "dm-log-writes' replay tool makes the same of it" by_its_tool
else
	skip "dm-log-writes' replay tool" 'DMU_REPLAY_LOG names none, and Debian has no package of it'
fi
losetup -d "$disk"
finish
