#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What dmu-debug costs: instructions per request of 4 KiB, beside the device that
# it debugs and the kernel's dm-log-writes. Boots a VM in which a nanosecond is an
# instruction.
#
#	tests/bench/debugger.sh [--kernel 6.1|6.12]
#
# Random requests on a null_blk device in memory, one or 32 at a time; the log lies
# on ext4 on another one. "control" has a rule, for sectors that nobody touches.
set -u

repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/bench/common.bash
. "$repo/tests/bench/common.bash"
size=64 # MiB
work=/tmp/bench
columns=("read 1" "read 32" "write 1" "write 32")
rows=(device log-writes control none hash full)

# --- on the host ---------------------------------------------------------------

title() { # ROW
	case $1 in
	device) echo "the device itself" ;;
	log-writes) echo "dm-log-writes" ;;
	control) echo "rules for writes, none matches" ;;
	none) echo "\`--log --data none\`" ;;
	hash) echo "\`--log --data hash\`" ;;
	full) echo "\`--log\` (all data)" ;;
	esac
}

print_table() { # FIGURES
	local row column line
	echo "| | read, depth 1 | 32 | write, depth 1 | 32 |"
	echo "|---|---|---|---|---|"
	for row in "${rows[@]}"; do
		line="| $(title "$row") |"
		for column in "${columns[@]}"; do
			line+=" $(figure "$1" "$row $column") |"
		done
		echo "$line"
	done
}

host() {
	local out kernel=6.12 status=0
	[ "${1:-}" != --kernel ] || kernel=$2
	out=$(mktemp -d)
	in_bench_vm "$kernel" 900 "$out" tests/bench/debugger.sh --in-vm || status=$?
	echo "instructions per request of 4 KiB, Linux $kernel"
	print_table "$out/figures"
	rm -rf "$out"
	return $status
}

# --- in the VM -----------------------------------------------------------------

failed=0

measure() { # ROW DEVICE
	local column kind depth value
	for column in "${columns[@]}"; do
		read -r kind depth <<<"$column"
		value=$(random_requests "$2" "$kind" "$depth" ${size}M)
		echo "# $1 $column $value"
		[[ $value =~ ^[1-9][0-9]*$ ]] && echo "$1 $column $value" >>/out/figures || failed=1
	done
}

debugged() { # ROW OPTION...
	local pid
	dmu-debug /dev/nullb0 --name dbg "${@:2}" >$work/said 2>&1 </dev/null &
	pid=$!
	until [ -e /dev/mapper/dbg ]; do
		kill -0 $pid 2>/dev/null || { cat $work/said && failed=1 && return; }
		sleep 0.05
	done
	measure "$1" /dev/mapper/dbg
	kill $pid
	wait $pid || failed=1
	sed 's/^/# /' $work/said
}

in_vm() {
	mkdir -p $work/logs
	: >/out/figures
	modprobe -a dm-mod dm-userspace dm-log-writes || exit 1
	modprobe null_blk nr_devices=3 gb=1 memory_backed=1 irqmode=2 completion_nsec=1 queue_mode=2 || exit 1
	mkfs.ext4 -q /dev/nullb1 && mount /dev/nullb1 $work/logs || exit 1
	dd if=/dev/urandom of=/dev/nullb0 bs=1M count=$size oflag=direct status=none
	measure device /dev/nullb0
	dmsetup create peer --table "0 $(blockdev --getsz /dev/nullb0) log-writes /dev/nullb0 /dev/nullb2"
	measure log-writes /dev/mapper/peer
	udevadm settle
	dmsetup remove --retry peer
	debugged control --rule 'drop write at 1000M+1M'
	debugged none --log $work/logs/none --data none
	debugged hash --log $work/logs/hash --data hash
	debugged full --log $work/logs/full
	exit $failed
}

case ${1:-} in
--in-vm) in_vm ;;
-h | --help) sed -n '4,12s/^# \{0,1\}//p' "$0" ;;
*) host "$@" ;;
esac
