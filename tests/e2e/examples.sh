#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# tools/examples in a VM, beside the kernel's own targets: null, linear, stripe, cow, thin.
#
# vm: --kernel 6.1 --timeout 1200
# vm-long: --kernel 6.1 --timeout 1200 -- null linear stripe cow thin cow_crash thin_crash
# vm-long: --kernel 6.12 --timeout 1200 -- null linear stripe cow thin cow_crash thin_crash
#
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/examples.bash
. "$(dirname "$0")/examples.bash"

sectors=$((128 * 1024)) # of a disk

test_null() {
	start null null "${disk[0]}"
	make null
	check "null: fio verifies" verify null
	check "null: it is the device below" same /dev/mapper/null "${disk[0]}"
	check "null: fio verifies over kills of the mapper" verify_over_kills null
	remove null
	kill_hard
	# Where nothing is mapped yet.
	restart
	kill -STOP "$(cat $work/pid)"
	dmsetup create null --noudevsync --table "0 $sectors userspace null 0"
	check "null: killed for good, a read ends in an error" ends_without null \
		dd if=/dev/mapper/null of=/dev/null bs=4k count=1 skip=999 iflag=direct
	remove null
}

test_linear() {
	start linear linear "${disk[0]}" 2048 40000 "${disk[1]}" 8 50000 "${disk[0]}" 60000 1000
	make linear
	dmsetup create kernel <<-END
		0 40000 linear ${disk[0]} 2048
		40000 50000 linear ${disk[1]} 8
		90000 1000 linear ${disk[0]} 60000
	END
	check "linear: fio verifies" verify linear
	check "linear: dm-linear reads the same" same /dev/mapper/kernel /dev/mapper/linear
	check "linear: dm-linear's writes" scribble /dev/mapper/kernel
	check "linear: are read here" same /dev/mapper/kernel /dev/mapper/linear
	check "linear: fio verifies over kills of the mapper" verify_over_kills linear
	dmsetup remove kernel
	check "linear: killed for good, what is mapped goes on" goes_on_without linear
	check "linear: what does not fit is refused" refuses linear linear "${disk[0]}" 0 $((sectors + 1))
}

test_stripe() {
	start stripe stripe 128 "${disk[0]}" 0 "${disk[1]}" 256 "${disk[2]}" 8
	make stripe
	dmsetup create kernel --table "0 $(table_of stripe | cut -d' ' -f2) striped 3 128 ${disk[0]} 0 ${disk[1]} 256 ${disk[2]} 8"
	check "stripe: fio verifies" verify stripe
	check "stripe: dm-stripe reads the same" same /dev/mapper/kernel /dev/mapper/stripe
	check "stripe: dm-stripe's writes" scribble /dev/mapper/kernel
	check "stripe: are read here" same /dev/mapper/kernel /dev/mapper/stripe
	check "stripe: fio verifies over kills of the mapper" verify_over_kills stripe
	dmsetup remove kernel
	check "stripe: killed for good, what is mapped goes on" goes_on_without stripe
}

test_cow() {
	local before
	head -c 64M /dev/urandom | dd of="${disk[0]}" bs=1M iflag=fullblock oflag=direct status=none
	before=$(sha256sum <"${disk[0]}")
	zero "${disk[1]}" "${disk[2]}"
	start cow cow "${disk[0]}" "${disk[1]}"
	make cow
	check "cow: reads the base" same /dev/mapper/cow "${disk[0]}"
	dmsetup create kernel --table "0 $sectors snapshot ${disk[0]} ${disk[2]} P 128"
	check "cow: writes" scribble /dev/mapper/cow
	check "cow: dm-snapshot takes the same" scribble /dev/mapper/kernel
	check "cow: and reads the same" same /dev/mapper/kernel /dev/mapper/cow
	check "cow: an orderly end" end cow
	check "cow: and all of it is there again" eval 'restart && make cow && same /dev/mapper/kernel /dev/mapper/cow'
	check "cow: so is what no flush followed" ends_with_changes cow cow
	dmsetup remove kernel
	check "cow: fio verifies" verify cow
	check "cow: fio verifies over kills of the mapper" verify_over_kills cow
	check "cow: what was flushed survives a crash" survives_crash cow
	check "cow: killed for good, a flush ends in an error" ends_without cow flush_of_changes cow
	remove cow
	check "cow: the base is as it was" test "$(drop_caches && sha256sum <"${disk[0]}")" = "$before"
	check "cow: another base's store is refused" refuses cow cow "${disk[1]}" "${disk[0]}"
	dd if=/dev/urandom of="${disk[1]}" bs=4k seek=1 count=1 oflag=direct conv=notrunc status=none
	check "cow: a damaged table is refused" refuses cow cow "${disk[0]}" "${disk[1]}"
	zero "${disk[1]}"
	head -c 20M /dev/zero >$work/store
	start cow cow "${disk[0]}" $work/store && make cow
	check "cow: a full store is an error of the write" expect_error fill cow 30
	check "cow: and of nothing else" dd if=/dev/mapper/cow of=/dev/null bs=1M iflag=direct status=none
	end cow
}

fill() { # KEY MEGABYTES
	dd if=/dev/urandom of="/dev/mapper/$1" bs=1M count="$2" oflag=direct conv=fsync,nocreat status=none
}

empty() { blkdiscard "/dev/mapper/$1" && sync "/dev/mapper/$1"; } # KEY

test_thin() {
	zero "${disk[1]}" "${disk[2]}"
	dd if=/dev/urandom of="${disk[0]}" bs=1M oflag=direct status=none 2>/dev/null
	start thin "${disk[1]}" "${disk[0]}" 128 thin-a:$((2 * sectors)) thin-b:$((2 * sectors))
	wait_for 5 table_of thin-b >/dev/null
	make thin-a && make thin-b
	modprobe -a dm-thin-pool
	dmsetup create pool --table "0 $sectors thin-pool ${disk[2]} ${disk[3]} 128 0" &&
		dmsetup message pool 0 "create_thin 0" &&
		dmsetup create kernel --table "0 $((2 * sectors)) thin /dev/mapper/pool 0"
	check "thin: reads zeros" same /dev/mapper/thin-a /dev/zero $((sectors * 1024))
	check "thin: writes" scribble /dev/mapper/thin-a
	check "thin: dm-thin takes the same" scribble /dev/mapper/kernel
	check "thin: and reads the same" same /dev/mapper/thin-a /dev/mapper/kernel
	blkdiscard -o 1M -l 3M /dev/mapper/thin-a && blkdiscard -o 1M -l 3M /dev/mapper/kernel
	blkdiscard -z -o 5242368 -l 200704 /dev/mapper/thin-a && blkdiscard -z -o 5242368 -l 200704 /dev/mapper/kernel
	check "thin: discards and zeros as dm-thin" same /dev/mapper/thin-a /dev/mapper/kernel
	check "thin: an orderly end" end thin-a thin-b
	check "thin: and all of it is there again" eval \
		'restart && wait_for 5 table_of thin-b && make thin-a && make thin-b && same /dev/mapper/thin-a /dev/mapper/kernel'
	check "thin: so is what no flush followed" ends_with_changes thin-a thin-a thin-b
	wait_for 5 table_of thin-b >/dev/null && make thin-b
	dmsetup remove kernel
	dmsetup remove pool
	check "thin: the neighbour has nothing of it" same /dev/mapper/thin-b /dev/zero $((sectors * 1024))
	check "thin: fio verifies" verify thin-b --io_size=4m
	check "thin: fio verifies over kills of the mapper" verify_over_kills thin-a
	empty thin-a && empty thin-b
	check "thin: the whole pool for one" fill thin-a 64
	check "thin: then it is full" expect_error fill thin-b 1
	empty thin-a
	check "thin: a discard gives it back" fill thin-b 64
	check "thin: the other reads zeros there" same /dev/mapper/thin-a /dev/zero $((sectors * 1024))
	empty thin-b
	check "thin: what was flushed survives a crash" crash_of_two
	check "thin: killed for good, a flush ends in an error" ends_without thin-a flush_of_changes thin-a
	remove thin-a thin-b
	dd if=/dev/urandom of="${disk[1]}" bs=4k seek=5 count=1 oflag=direct conv=notrunc status=none
	check "thin: a damaged table is refused" refuses thin "${disk[1]}" "${disk[0]}" 128
}

# The other device discards what it has meanwhile: none of its blocks may be given away too early.
crash_of_two() {
	local job
	rm -f $work/enough
	while [ ! -e $work/enough ] && fill thin-b 8 && blkdiscard -l 8M /dev/mapper/thin-b; do :; done >/dev/null 2>&1 &
	job=$!
	sleep 0.5
	dmsetup message thin-b 0 wait 1
	survives_crash thin-a 300 || return
	touch $work/enough
	wait $job
	dmsetup remove --retry thin-b
	make thin-b && fill thin-b 8
}

# More crashes than the others have time for.
test_cow_crash() {
	local i
	zero "${disk[0]}" "${disk[1]}"
	start cow cow "${disk[0]}" "${disk[1]}" && make cow
	for i in 1 2 3; do check "cow: what was flushed survives crash $i" survives_crash cow; done
	end cow
}

test_thin_crash() {
	local i
	zero "${disk[0]}" "${disk[1]}"
	start thin "${disk[1]}" "${disk[0]}" 128 thin-a:$((2 * sectors)) thin-b:$((2 * sectors))
	wait_for 5 table_of thin-b >/dev/null
	make thin-a && make thin-b
	for i in 1 2 3; do
		check "thin: what was flushed survives crash $i" crash_of_two
		empty thin-a && empty thin-b
	done
	end thin-a thin-b
}

prepare 4 || fail "modules"
[ $# -gt 0 ] || set -- null linear stripe cow thin
run_tests "$@"
