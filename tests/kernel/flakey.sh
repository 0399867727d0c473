#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A destination that fails now and then, in a VM: dm-flakey below a qcow2 image on a
# device. Errors reach the user, what was said to be written is there all the same, and
# the image is whole afterwards. With the debug kernel also memory that cannot be had.
#
# vm-long: --kernel 6.1 --timeout 600
# vm-long: --kernel debug --timeout 1200
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

programs=${DMU_TEST_PROGRAMS:-/src/build/release/tests}
work=/tmp/flakey
size=64 # MiB of the disk
blocks=$((160 * 2048))
seconds=${DMU_SECONDS:-20}
debug=/sys/kernel/debug

become() { # TARGET-LINE: what the device below is now
	dmsetup suspend --noudevsync flaky && dmsetup load flaky --table "0 $blocks $1" && dmsetup resume --noudevsync flaky
}

begin() {
	local device=/dev/ram0
	dd if=/dev/zero of=$device bs=1M count=160 oflag=direct status=none
	dmsetup create flaky --table "0 $blocks linear $device 0" && udevadm settle &&
		qemu-img create -q -f qcow2 /dev/mapper/flaky ${size}M && xen-dmu attach qcow2:/dev/mapper/flaky --name f
}

start_writing() { # SECONDS
	"$programs/dmu-acked" errors /dev/mapper/f --seed $RANDOM --sectors $((size * 2048)) --seconds "$1" \
		--state $work/state >$work/acked.out 2>&1 &
	writer=$!
}

writing() { kill -0 $writer 2>/dev/null; }
written_well() {
	wait $writer || { cat $work/acked.out && return 1; }
	sed 's/^/# /' $work/acked.out >&2
}

some_failed() { grep -Eq 'failed: [1-9][0-9]* of them' $work/acked.out; }

whole() {
	local status=0
	dmu-img check --quiet qcow2:/dev/mapper/flaky || status=$?
	[ $status -eq 0 ] || [ $status -eq 3 ] || return
	qemu-img convert -f qcow2 -O raw /dev/mapper/flaky $work/raw
}

settled() { dd if=/dev/mapper/f of=/dev/null bs=4k count=1 iflag=direct status=none && blockdev --flushbufs /dev/mapper/f; }

judge() { # NAME
	check "$1: flushes go through again" wait_for 60 settled
	check "$1: what was said to be written is there" \
		"$programs/dmu-acked" compare /dev/mapper/f --state $work/state
	check "$1: detach" timeout 120 xen-dmu detach f
	check "$1: the image checks clean (leaks allowed)" whole
	check "$1: qemu-img reads the same" "$programs/dmu-acked" compare $work/raw --state $work/state
	dmsetup remove --retry flaky
}

test_flakey() {
	check "flakey: attach" begin || finish
	start_writing "$seconds"
	while writing; do
		sleep 1
		become "flakey /dev/ram0 0 0 60 1 error_writes"
		sleep 0.$((RANDOM % 9))
		become "flakey /dev/ram0 0 0 60"
		sleep 0.$((RANDOM % 9))
		become "linear /dev/ram0 0"
	done
	become "linear /dev/ram0 0"
	check "flakey: what can be read is right" written_well
	check "flakey: errors reached the user" some_failed
	judge flakey
}

# --- with the debug kernel's means -----------------------------------------------

most_failures=1000000

injected() { [ "$(cat $debug/"$1"/times)" -lt $most_failures ]; } # KIND

inject() { # KIND PROBABILITY
	echo 0 >$debug/$1/verbose
	echo $most_failures >$debug/$1/times
	echo 1 >$debug/$1/interval
	echo "$2" >$debug/$1/probability
}

test_requests() {
	check "requests fail: attach" begin || finish
	start_writing "$seconds"
	inject fail_make_request 4
	while writing; do
		echo 1 >/sys/block/ram0/make-it-fail
		sleep 0.$((RANDOM % 9 + 1))
		echo 0 >/sys/block/ram0/make-it-fail
		sleep 0.5
	done
	echo 0 >$debug/fail_make_request/probability
	check "requests fail: some did" injected fail_make_request
	check "requests fail: what can be read is right" written_well
	check "requests fail: errors reached the user" some_failed
	judge "requests fail"
}

# Allocations fail in what writes, in the mapper, and in the kernel's workers.
victims() { # PID...
	local pid
	for pid in "$@" $(pgrep -f 'kworker|kthreadd|dmu|xen-dmu-mapper'); do
		echo 1 >"/proc/$pid/make-it-fail"
	done 2>/dev/null
}

test_memory() {
	check "no memory: attach" begin || finish
	echo 1 >$debug/failslab/cache-filter
	echo 1 >$debug/failslab/task-filter
	echo N >$debug/failslab/ignore-gfp-wait
	start_writing "$seconds"
	inject failslab 3
	while writing; do
		victims $writer
		sleep 0.5
	done
	echo 0 >$debug/failslab/probability
	check "no memory: some allocations failed" injected failslab
	check "no memory: what can be read is right" written_well
	judge "no memory"
	# And of what a channel can ask for.
	dmsetup create t --noudevsync --table "0 65536 userspace t 5 grain 128 discard 128 write_zeroes"
	"$programs/dmu-channel-fuzz" --key t --block /dev/ram0 --directory /dev/shm --seconds "$seconds" >$work/fuzz.out 2>&1 &
	writer=$!
	fio --name=f --filename=/dev/mapper/t --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k --size=24m \
		--io_size=4g --fsync=20 --time_based --runtime="$seconds" --continue_on_error=all --output=/dev/null 2>/dev/null &
	local job=$!
	inject failslab 5
	while writing; do
		victims $writer $job
		sleep 0.5
	done
	echo 0 >$debug/failslab/probability
	check "no memory: some allocations of the channel's failed" injected failslab
	wait $writer
	check "no memory: the channel takes or refuses all" test $? = 0
	sed 's/^/# /' $work/fuzz.out
	dmsetup message t 0 fail
	wait $job
	check "no memory: the device goes" timeout 30 dmsetup remove --retry t
}

mkdir -p $work
modprobe -a dm-mod dm-flakey dm-userspace && modprobe brd rd_nr=1 rd_size=$((blocks / 2)) || exit 1
[ $# -gt 0 ] || set -- flakey requests memory
for name; do
	case $name in
	requests | memory) [ -d $debug/failslab ] || continue ;;
	esac
	"test_$name"
done
check "the module goes" rmmod dm_userspace
finish
