#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What a power failure leaves of cow, thin and mirror, in a VM: at points of a log of
# all that was written below them (dm-log-writes), with any part of what no flush had
# made durable (dmu-debug crash).
#
# vm-long: --kernel 6.1 --timeout 1200
# vm-long: --kernel 6.12 --timeout 1200
#
# Functions are called through "check" and "crashes", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/examples.bash
. "$(dirname "$0")/examples.bash"

sectors=32768 # of what is logged
blocks=40     # of 64 KiB, one after the other, each flushed
points=${DMU_POINTS:-5}
samples=${DMU_SAMPLES:-4}

slice() { dmsetup create "$1" --table "0 $4 linear $2 $3"; } # NAME DEVICE START SECTORS

# From here on the first ram disk is logged, as /dev/mapper/logged.
begin() {
	rm -rf $work/run.log $work/writes
	dd if="${disk[0]}" of=$work/base.img bs=1M count=$((sectors / 2048)) status=none
	truncate -s 256M $work/writes
	dmsetup create logged --table "0 $sectors log-writes ${disk[0]} $(losetup -f --show $work/writes)"
}

flushed_writes() { # KEY
	local block
	for ((block = 0; block < blocks; block++)); do
		dd if=$work/pattern of="/dev/mapper/$1" bs=64k seek=$block skip=$block count=1 oflag=direct \
			conv=fsync,notrunc,nocreat status=none && dmsetup message logged 0 mark "$block" || return
	done
}

# Its flushes are those of the others.
other_writes() { # KEY OFFSET SIZE
	scribble "/dev/mapper/$1" --offset="$2" --size="$3" --io_size=12m --end_fsync=0
}

over() {
	dmsetup remove --retry logged && losetup -D && dmu-debug log $work/run.log --import $work/writes --base $work/base.img
}

flushed_at() { # NUMBER: the last block that was flushed by then, or -1
	dmu-debug log $work/run.log -k mark -N "-$1" | sed -n 's/.*"\([0-9]*\)".*/\1/p' | tail -n 1 | grep . || echo -1
}

# Just before flushes there is most that may be lost.
choose_points() {
	dmu-debug log $work/run.log -k flush | awk -v n="$points" '
		{ at[NR] = $1 - 1 } END { for (i = 1; i <= n; i++) print at[int(NR * i / n)] }'
}

crashes() { # FUNCTION: looks at an image ($1) in which so many blocks ($2) must be
	local point flushed image count=0
	for point in $(choose_points); do
		flushed=$(flushed_at "$point")
		rm -rf $work/crashed && mkdir $work/crashed
		dmu-debug crash $work/run.log --at "$point" --base $work/base.img --sample "$samples" --seed $RANDOM --torn \
			--onto $work/crashed >$work/crash.out || { cat $work/crash.out && return 1; }
		for image in "$work"/crashed/*; do
			"$1" "$image" $((flushed + 1)) || { echo "after request $point, $((flushed + 1)) blocks" && return 1; }
			count=$((count + 1))
		done
	done
	[ $count -ge "$points" ] && [ $((flushed + 1)) -gt 0 ]
}

has_pattern() { # KEY BLOCKS
	[ "$2" -eq 0 ] || same "/dev/mapper/$1" $work/pattern $(($2 * 65536))
}

begin_image() { # IMAGE: $loop
	loop=$(losetup -f --show "$1")
}

test_cow() {
	zero "${disk[0]}" "${disk[1]}"
	begin
	start cow cow "${disk[1]}" /dev/mapper/logged && make cow
	other_writes cow 4m 6m &
	check "cow: writes" flushed_writes cow
	wait $!
	end cow && over
	check "cow: has what was flushed" crashes after_cow
}

after_cow() {
	local loop status
	begin_image "$1"
	start cow after "${disk[1]}" "$loop" && make after && has_pattern after "$2" && scribble /dev/mapper/after --io_size=1m
	status=$?
	end after && losetup -d "$loop" && return $status
}

pool_on() { # DEVICE
	slice meta "$1" 0 2048 && slice data "$1" 2048 $((sectors - 2048)) &&
		start thin /dev/mapper/meta /dev/mapper/data 128 thin-a:32768 thin-b:32768 &&
		wait_for 5 table_of thin-b >/dev/null && make thin-a && make thin-b
}

pool_off() { end thin-a thin-b && remove meta data; }

# Blocks go from one device to the other meanwhile.
fill_and_discard() {
	while [ ! -e $work/enough ]; do
		dd if=$work/bees of=/dev/mapper/thin-b bs=64k count=64 oflag=direct conv=notrunc,nocreat status=none &&
			blkdiscard -l 4M /dev/mapper/thin-b && sleep 0.3 || return
	done
}

test_thin() {
	local job
	head -c 4M /dev/zero | tr '\0' B >$work/bees
	# What nobody wrote must not be seen.
	head -c $((sectors * 512)) /dev/zero | tr '\0' X | dd of="${disk[0]}" bs=1M iflag=fullblock oflag=direct status=none
	zero_start "${disk[0]}"
	begin
	pool_on /dev/mapper/logged
	rm -f $work/enough
	fill_and_discard &
	job=$!
	check "thin: writes" flushed_writes thin-a
	touch $work/enough
	wait $job
	check "thin: the other was filled and emptied" test $? -eq 0
	pool_off && over
	check "thin: has what was flushed, and nothing of others" crashes after_thin
}

zero_start() { dd if=/dev/zero of="$1" bs=1M count=1 oflag=direct conv=notrunc,nocreat status=none; }

after_thin() {
	local loop status
	begin_image "$1"
	pool_on "$loop" && has_pattern thin-a "$2" && [ "$(tr -d '\0B' </dev/mapper/thin-b | wc -c)" -eq 0 ] &&
		scribble /dev/mapper/thin-b --size=4m --io_size=1m
	status=$?
	pool_off && losetup -d "$loop" && return $status
}

legs_on() { # DEVICE
	slice leg0 "$1" 0 $((sectors / 2)) && slice leg1 "$1" $((sectors / 2)) $((sectors / 2))
}

# With so few regions open there is always one that is closed.
mirror() { start mirror --open 2 "$@" mirror /dev/mapper/leg0 /dev/mapper/leg1 && make mirror; }

legs_agree() { same /dev/mapper/leg0 /dev/mapper/leg1 $((7 * 1024 * 1024)); }

test_mirror() {
	zero "${disk[0]}"
	legs_on "${disk[0]}" && mirror --create && wait_for 60 grep -q 'has everything' $work/err
	: >$work/err
	end mirror && remove leg0 leg1
	begin
	legs_on /dev/mapper/logged && mirror
	other_writes mirror 3m 4m &
	check "mirror: writes" flushed_writes mirror
	wait $!
	end mirror && remove leg0 leg1 && over
	check "mirror: has what was flushed, and legs become the same" crashes after_mirror
}

after_mirror() {
	local loop status
	begin_image "$1"
	legs_on "$loop" && mirror && has_pattern mirror "$2" && wait_for 30 legs_agree && has_pattern mirror "$2"
	status=$?
	: >$work/err
	end mirror && remove leg0 leg1 && losetup -d "$loop" && return $status
}

prepare 2 && modprobe -a loop dm-log-writes || fail "modules"
head -c $((blocks * 65536)) /dev/urandom >$work/pattern
[ $# -gt 0 ] || set -- cow thin mirror
run_tests "$@"
