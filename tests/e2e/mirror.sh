#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# tools/examples/mirror in a VM: beside dm-mirror, with legs that fail and come back, crashes, stale legs.
#
# vm-long: --kernel 6.1 --timeout 1200
# vm-long: --kernel 6.12 --timeout 600
#
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/examples.bash
. "$(dirname "$0")/examples.bash"

sectors=$((25 * 2048))
bytes=$((24 * 1024 * 1024)) # of the mirror
span=12                     # MiB: half of it
legs=(/dev/mapper/leg0 /dev/mapper/leg1)

# A leg is a table over a ram disk, which can be made one that fails.
leg_table() { # LEG good|bad
	case $2 in
	good) echo "0 $sectors linear ${disk[$1]} 0" ;;
	bad) echo "0 $sectors error" ;;
	esac
}

turn() { # LEG good|bad
	dmsetup suspend --noflush --nolockfs "leg$1" && dmsetup reload "leg$1" --table "$(leg_table "$1" "$2")" &&
		dmsetup resume "leg$1"
}

hang_up() { kill -HUP "$(cat $work/pid)"; }

whole() { grep -q 'has everything' $work/err; }

# What the mirror said was meant, and is not to be taken for trouble by stop().
heard() { : >$work/err; }

legs_agree() { same "${disk[0]}" "${disk[1]}" $bytes; }

reads_of() { awk '{ print $1 }' "/sys/block/$(basename "$(readlink -f "${legs[$1]}")")/stat"; } # LEG

both_are_read() {
	local before=("$(reads_of 0)" "$(reads_of 1)")
	dd if=/dev/mapper/mirror of=/dev/null bs=1M iflag=direct status=none
	[ "$(reads_of 0)" -gt "${before[0]}" ] && [ "$(reads_of 1)" -gt "${before[1]}" ]
}

# The last run begins when the command has ended.
verify_again_and_again() {
	local last=
	while [ -z "$last" ]; do
		[ ! -e $work/enough ] || last=yes
		verify mirror --io_size=6m --randseed=$RANDOM || return
	done
}

verify_while() { # COMMAND...: and fio sees nothing of it
	local job
	rm -f $work/enough
	verify_again_and_again >$work/verify.out 2>&1 &
	job=$!
	sleep 1
	"$@" || echo "'$*' failed"
	touch $work/enough
	wait $job || { cat $work/verify.out && return 1; }
}

lose() { turn "$1" bad; } # LEG

come_back() { # LEG: with what happened meanwhile, and until it has everything
	heard
	turn "$1" good && sleep 0.5 && hang_up && wait_for 60 whole
}

test_plain() {
	dd if=/dev/urandom of="${disk[0]}" bs=1M count=8 oflag=direct status=none
	start mirror --create mirror "${legs[@]}"
	check "mirror: is made, and the second leg copied" wait_for 60 whole
	heard
	check "mirror: ends" stop
	check "mirror: what was there is on both" legs_agree
	# With so few regions open there is always one that is closed.
	start mirror --open 6 mirror "${legs[@]}"
	make mirror
	check "mirror: fio verifies" verify mirror
	check "mirror: writes" scribble /dev/mapper/mirror
	check "mirror: the legs are the same" legs_agree
	check "mirror: both are read" both_are_read
	dd if=/dev/mapper/mirror of="${disk[2]}" bs=1M oflag=direct iflag=direct status=none
	modprobe dm-mirror
	dmsetup create kernel --table "0 $((bytes / 512)) mirror core 2 1024 nosync 2 ${disk[2]} 0 ${disk[3]} 0"
	dd if=/dev/mapper/mirror of=/dev/mapper/kernel bs=1M oflag=direct iflag=direct status=none
	check "mirror: dm-mirror takes the same writes" scribble /dev/mapper/kernel --randseed=9
	check "mirror: so does ours" scribble /dev/mapper/mirror --randseed=9
	check "mirror: and both read the same" same /dev/mapper/kernel /dev/mapper/mirror $bytes
	check "mirror: and so do all four legs" same "${disk[3]}" "${disk[1]}" $bytes
	dmsetup remove kernel
	check "mirror: fio verifies over kills of the mapper" verify_over_kills mirror
	heard
	check "mirror: an orderly end" end mirror
	check "mirror: begins without copying" eval 'restart && make mirror && sleep 1 && [ ! -s $work/err ]'
}

test_legs() {
	local leg
	for leg in 1 0; do
		check "mirror: leg $leg fails under writes, and nobody notices" verify_while lose $leg
		check "mirror: it was left behind" grep -q "leg$leg: .*going on without it" $work/err
		check "mirror: writes without it" scribble /dev/mapper/mirror --randseed=$((leg + 11))
		check "mirror: it comes back under writes" verify_while come_back $leg
		check "mirror: the legs are the same again" legs_agree
	done
	check "mirror: leg 1 fails in a flush" eval 'turn 1 bad && sync /dev/mapper/mirror &&
		dd if=/dev/zero of=/dev/mapper/mirror bs=4k count=1 oflag=direct conv=fsync,notrunc,nocreat status=none'
	check "mirror: it comes back" come_back 1
	check "mirror: leg 1 fails while it is copied to" eval \
		'turn 1 bad && scribble /dev/mapper/mirror && turn 1 good && hang_up && turn 1 bad && verify mirror'
	check "mirror: killed then, and started anew with both" eval \
		'turn 1 good && kill_hard && restart && wait_for 60 whole && legs_agree'
	heard
	turn 0 bad
	dd if=/dev/mapper/mirror of=/dev/null bs=1M iflag=direct status=none
	turn 1 bad
	check "mirror: with both gone there is an error" expect_error \
		dd if=/dev/mapper/mirror of=/dev/null bs=1M iflag=direct
	turn 0 good && turn 1 good
	heard
}

# The legs differ where writes were under way: the bits say where, and one of them wins.
test_crash() {
	local job
	crash mirror
	restart && make mirror
	check "mirror: after a crash it is whole" wait_for 60 whole_or_same
	heard
	scribble /dev/mapper/mirror
	# In a region that is open for writing, and no other leg would have.
	dd if=/dev/zero of=/dev/mapper/mirror bs=4k count=1 oflag=direct conv=notrunc,nocreat status=none
	crash mirror
	dd if=/dev/urandom of="${disk[1]}" bs=64k seek=8 count=4 oflag=direct conv=notrunc,nocreat status=none
	restart && make mirror
	check "mirror: legs that a crash left different are made the same" wait_for 60 legs_agree
	check "mirror: what was flushed survives a crash" survives_crash mirror 180
	heard
	check "mirror: killed for good, a write ends in an error" ends_without mirror \
		fio --name=e --filename=/dev/mapper/mirror --rw=randwrite --bs=4k --size=24m --allow_file_create=0 --ioengine=sync --direct=1 --fsync=1
	remove mirror
}

whole_or_same() { whole || legs_agree; }

test_stale() {
	restart && make mirror && wait_for 60 legs_agree
	turn 1 bad
	scribble /dev/mapper/mirror --randseed=20
	sha256sum </dev/mapper/mirror >$work/sum
	crash mirror
	turn 1 good
	check "mirror: the newer leg alone will do" eval 'turn 1 bad && restart && crash_unmade'
	turn 1 good && turn 0 bad
	check "mirror: the stale leg alone is refused" refuses mirror mirror "${legs[@]}"
	turn 0 good
	restart && make mirror
	check "mirror: with both, the newer data is read" eval 'drop_caches; sha256sum </dev/mapper/mirror | cmp - $work/sum'
	check "mirror: and copied" wait_for 60 whole
	check "mirror: to the last byte" legs_agree
	heard
	check "mirror: ends" end mirror
	check "mirror: goes on alone if told to, and ends" eval 'turn 1 bad && restart --degraded && make mirror &&
		scribble /dev/mapper/mirror && heard && end mirror && turn 1 good'
	turn 0 bad && check "mirror: the other, too, goes on alone if told to" eval 'restart --degraded && crash_unmade'
	turn 0 good
	check "mirror: then they are no mirror any more" refuses mirror mirror "${legs[@]}"
	dd if=/dev/zero of="${disk[1]}" bs=1M seek=24 count=1 oflag=direct conv=notrunc,nocreat status=none
	check "mirror: unless one is given up" eval 'refuses mirror mirror "${legs[@]}"; start mirror --replace mirror "${legs[@]}" && wait_for 60 whole && legs_agree'
	heard
	stop
}

crash_unmade() { kill_hard; }

prepare 4 || fail "modules"
for leg in 0 1; do dmsetup create leg$leg --table "$(leg_table $leg good)"; done
[ $# -gt 0 ] || set -- plain legs crash stale
run_tests "$@"
