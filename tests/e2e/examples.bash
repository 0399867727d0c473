# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the tests of tools/examples share; sourced after tests/vm/lib.sh, in the VM.

build=${DMU_BUILD:-/src/build/release}
export LD_LIBRARY_PATH=$build/xen-backend/libdmu
work=/tmp/examples
disk=() # ram disks of 64 MiB
span=32 # MiB: fio works on so many of a device, and in tests of crashes on so many more

prepare() { # NUMBER-OF-DISKS
	local i
	mkdir -p $work
	modprobe -a dm-mod dm-userspace && modprobe brd rd_nr="$1" rd_size=65536 || return
	for ((i = 0; i < $1; i++)); do disk+=("/dev/ram$i"); done
}

zero() { # DEVICE...: the whole of each
	local device
	for device in "$@"; do dd if=/dev/zero of="$device" bs=1M oflag=direct status=none 2>/dev/null; done
	:
}

# Runs an example; it serves when this returns. Tests run in subshells: what they must know is in files.
start() { # NAME ARGUMENT...
	printf '%s\n' "$@" >$work/command
	: >$work/out
	"$build/tools/examples/$1" "${@:2}" >$work/out 2>$work/err &
	echo $! >$work/pid
	wait_for 20 announced_or_dead
	grep -q userspace $work/out || { sed 's/^/# /' $work/err && return 1; }
}

restart() { # [OPTION]
	local words
	mapfile -t words <$work/command
	start "${words[0]}" "$@" "${words[@]:1}"
}

running() {
	local state
	{ read -r _ _ state _ <"/proc/$(cat $work/pid)/stat"; } 2>/dev/null && [ "$state" != Z ]
}

stopped() { ! running; }

announced_or_dead() { grep -q userspace $work/out || stopped; }

refuses() { # NAME ARGUMENT...: it says why, and ends
	! start "$@" >/dev/null && [ -s $work/err ]
}

expect_error() { ! "$@"; }

table_of() { grep " userspace $1 " $work/out; } # KEY

make() { dmsetup create "$1" --table "$(table_of "$1")" && udevadm settle && [ -b "/dev/mapper/$1" ]; } # KEY

kill_hard() {
	kill -9 "$(cat $work/pid)"
	wait_for 5 stopped
}

stop() { # orderly
	kill "$(cat $work/pid)"
	wait_for 20 stopped && [ ! -s $work/err ] || { cat $work/err && return 1; }
}

remove() { # KEY...
	local key
	udevadm settle
	for key in "$@"; do dmsetup remove --retry "$key"; done
}

end() { # KEY...
	remove "$@" && stop
}

# The machine is gone, as far as the example can tell: nothing of the kernel's memory of it is left.
crash() { # KEY...
	local key
	kill_hard
	# Not by the table of errors that comes next: that one takes a flush for done.
	for key in "$@"; do dmsetup message "$key" 0 fail; done
	for key in "$@"; do dmsetup remove --force --retry "$key" 2>/dev/null; done
	for key in "$@"; do ! dmsetup info "$key" >/dev/null 2>&1 || return; done
}

run_tests() { # NAME...: test_NAME of each
	local name begun
	for name in "$@"; do
		begun=$SECONDS
		"test_$name"
		echo "# $name took $((SECONDS - begun)) s"
	done
	finish
}

drop_caches() { sync && echo 3 >/proc/sys/vm/drop_caches; }

same() { # DEVICE DEVICE [BYTES]
	drop_caches
	cmp ${3:+-n "$3"} "$1" "$2"
}

verify() { # KEY [OPTION...]
	fio --name=v --filename="/dev/mapper/$1" --direct=1 --allow_file_create=0 --ioengine=libaio --iodepth=8 --rw=randrw \
		--bsrange=512-64k --blockalign=512 --size=${span}m --io_size=3m --verify=crc32c --verify_backlog=64 \
		--do_verify=1 --verify_fatal=1 --verify_state_save=0 --fsync=50 --randseed=$RANDOM \
		--output=$work/fio.out "${@:2}" || { tail -n 20 $work/fio.out && return 1; }
}

# Whoever still writes when a device goes must not make a file in its place: nocreat, allow_file_create.

# Always the same writes of the same data.
scribble() { # DEVICE [OPTION...]
	fio --name=s --filename="$1" --direct=1 --allow_file_create=0 --ioengine=libaio --iodepth=4 --rw=randwrite --bsrange=4k-64k \
		--size=${span}m --io_size=5m --randseed=7 --allrandrepeat=1 --refill_buffers --end_fsync=1 --output=/dev/null "${@:2}"
}

# Verifies over kills and restarts of the mapper.
verify_over_kills() { # KEY
	local job kills=0
	verify "$1" --io_size=5m >$work/verify.out 2>&1 &
	job=$!
	while kill -0 $job 2>/dev/null && [ $kills -lt 5 ]; do
		sleep 0.$((RANDOM % 5 + 2))
		kill_hard
		restart || return
		kills=$((kills + 1))
	done
	wait $job || { cat $work/verify.out && return 1; }
	echo "$kills kills"
}

# It is told to end before it has read of the last first write, which no flush followed; then all is there again.
ends_with_changes() { # KEY KEY...: one that is written to, all that there are
	local pid
	pid=$(cat $work/pid)
	head -c 65536 /dev/urandom >$work/unflushed
	kill -STOP "$pid"
	dd if=$work/unflushed of="/dev/mapper/$1" bs=64k count=1 seek=1000 oflag=direct conv=notrunc,nocreat status=none || return
	remove "${@:2}"
	kill "$pid" && kill -CONT "$pid"
	wait_for 20 stopped && [ ! -s $work/err ] && restart && make "$1" &&
		cmp $work/unflushed <(dd if="/dev/mapper/$1" bs=64k count=1 skip=1000 iflag=direct status=none)
}

# Nobody comes after a mapper that was killed: what waits for one ends in an error, when it was said, and no later.
ends_without() { # KEY COMMAND...
	local begun=$SECONDS job
	dmsetup message "$1" 0 wait 2
	"${@:2}" >/dev/null 2>&1 &
	job=$!
	sleep 0.3
	kill_hard
	if wait $job; then
		echo "'${*:2}' did not fail" && return 1
	fi
	[ $((SECONDS - begun)) -le 10 ]
}

# Nobody comes after it, but all of it is mapped: nothing waits.
goes_on_without() { # KEY
	kill_hard
	scribble "/dev/mapper/$1" && dd if="/dev/mapper/$1" of=/dev/null bs=1M iflag=direct status=none && remove "$1"
}

# There is always something for the next flush to wait for.
flush_of_changes() { # KEY
	local i
	for ((i = 0; i < 300; i++)); do
		head -c 65536 /dev/urandom | dd of="/dev/mapper/$1" bs=64k seek=$((RANDOM % 900)) count=1 iflag=fullblock \
			oflag=direct conv=fsync,notrunc,nocreat status=none || return
	done
}

# Every block whose flush had ended before the crash is there after it.
survives_crash() { # KEY [BLOCKS]
	local block flushed=0 jobs=()
	head -c 20M /dev/urandom >$work/pattern
	rm -f $work/flushed
	for ((block = 0; block < ${2:-200}; block++)); do
		dd if=$work/pattern of="/dev/mapper/$1" bs=64k seek=$block skip=$block count=1 oflag=direct \
			conv=fsync,notrunc,nocreat status=none || break
		echo $block >$work/flushed
	done 2>/dev/null &
	jobs+=($!)
	scribble "/dev/mapper/$1" --offset=${span}m --time_based --runtime=20 >/dev/null 2>&1 &
	jobs+=($!)
	sleep 3
	crash "$1" || return
	wait "${jobs[@]}"
	flushed=$(cat $work/flushed)
	restart && make "$1" || return
	echo "$flushed blocks were flushed"
	[ "$flushed" -gt 0 ] && same "/dev/mapper/$1" $work/pattern $((flushed * 65536 + 65536))
}
