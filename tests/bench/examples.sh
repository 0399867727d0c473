#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tools/examples beside the kernel's own targets: instructions per request of
# 4 KiB, and lines of code. Boots a VM in which a nanosecond is an instruction.
#
#	tests/bench/examples.sh [--kernel 6.1|6.12] [EXAMPLE]...
#
# One request at a time, random, on null_blk devices in memory, all of which has
# been written before. "read" and "write" are warm; "first write" is one of 4 KiB
# to each of 64 KiB, with what the mapper does for it then and at the flush that
# follows.
set -u

repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/bench/common.bash
. "$repo/tests/bench/common.bash"
examples=$repo/tools/examples
build=${DMU_BUILD:-/src/build/release}
size=64 # MiB
work=/tmp/bench

# --- on the host ---------------------------------------------------------------

code_lines() { # FILE...: without comments and empty lines
	cat "$@" | sed -e 's|/\*.*\*/||' -e '/\/\*/,/\*\//d' | grep -cv '^[[:space:]]*$'
}

files() { # EXAMPLE
	case $1 in
	mirror) echo "$examples/mirror.c" "$examples/legs.c" "$examples/legs.h" ;;
	thin) echo "$examples/thin.c" "$examples/pool.c" "$examples/pool.h" ;;
	*) echo "$examples/$1.c" ;;
	esac
}

# Counted in the same way, in drivers/md of Linux 6.1: linear, stripe; raid1, region-hash, log;
# snap, snap-persistent, exception-store; thin, thin-metadata, bio-prison-v1, persistent-data/.
kernel_lines() { # EXAMPLE
	sed -n "s/^$1 //p" <<-'END'
		null -
		linear 173
		stripe 359
		mirror 2116
		cow 2718
		thin 10379
	END
}

print_table() { # FIGURES
	local name
	echo "| | lines of code | read | write | first write |"
	echo "|---|---|---|---|---|"
	for name in null linear stripe mirror cow thin; do
		# shellcheck disable=SC2046 # words
		row "$name" "$(code_lines $(files $name))" ours "$1"
		[ $name = null ] || row "$(peer $name)" "$(kernel_lines $name)" kernel "$1" $name
	done
	row "the device itself" - raw "$1" null
	echo "common.c and table.c: $(code_lines "$examples/common.c" "$examples/table.c") lines"
}

peer() { # EXAMPLE
	case $1 in
	mirror) echo "dm-mirror (dm-raid1)" ;;
	cow) echo "dm-snapshot" ;;
	*) echo "dm-$1" ;;
	esac
}

row() { # TITLE LINES WHO FIGURES [EXAMPLE]
	local what line="| $1 | $2 |"
	for what in read write first; do
		line+=" $(figure "$4" "${5:-$1} $3 $what") |"
	done
	echo "$line"
}

host() {
	local out kernel=6.12 status=0
	[ "${1:-}" != --kernel ] || { kernel=$2 && shift 2; }
	out=$(mktemp -d)
	in_bench_vm "$kernel" 1200 "$out" tests/bench/examples.sh --in-vm "$@" || status=$?
	echo "instructions per request of 4 KiB, Linux $kernel"
	print_table "$out/figures"
	rm -rf "$out"
	return $status
}

# --- in the VM -----------------------------------------------------------------

failed=0

emit() { # EXAMPLE WHO WHAT INSTRUCTIONS
	echo "# $*"
	[[ $4 =~ ^[0-9]+$ ]] && [ "$4" -gt 0 ] || { failed=1 && return; }
	echo "$*" >>/out/figures
}

warm() { # EXAMPLE WHO DEVICE
	local what
	dd if=/dev/urandom of="$3" bs=1M count=$size oflag=direct status=none
	for what in read write; do
		emit "$1" "$2" $what "$(random_requests "$3" $what 1 ${size}M)"
	done
}

first() { # EXAMPLE WHO DEVICE [PID]
	local count=$((size * 16)) value before
	first_write_pattern "$3" $count >$work/pattern
	value=$(fio_json "$3" --iodepth=1 --read_iolog=$work/pattern --replay_no_stall=1 | per_request)
	if [ -n "${4:-}" ]; then
		# One CPU: what it ran meanwhile is in the figure.
		before=$(mapper_time "$4")
		sync "$3"
		value=$((value + ($(mapper_time "$4") - before) / count))
	fi
	emit "$1" "$2" first "$value"
}

ours() { # EXAMPLE KEY ARGUMENT...: a device ours
	local key=$2
	"$build/tools/examples/$1" "${@:3}" >$work/out 2>$work/err &
	pid=$!
	until grep -q " userspace $key " $work/out; do sleep 0.05; done
	dmsetup create ours --table "$(grep " userspace $key " $work/out)"
}

end_ours() {
	udevadm settle
	dmsetup remove --retry ours
	kill $pid
	wait $pid
}

peer_of() { # EXAMPLE TABLE
	dmsetup create peer --table "$2" || failed=1
}

end_peer() {
	udevadm settle
	dmsetup remove --retry peer
}

d=/dev/nullb
sectors=$((size * 2048))

# Its first page says that there is nothing yet.
blank() { dd if=/dev/zero of="$1" bs=1M count=1 oflag=direct status=none; } # DEVICE

both_null() {
	warm null raw ${d}0
	ours null k k ${d}0 && warm null ours /dev/mapper/ours && end_ours
}

both_linear() {
	ours linear k k ${d}0 2048 $sectors && warm linear ours /dev/mapper/ours && end_ours
	peer_of linear "0 $sectors linear ${d}0 2048" && warm linear kernel /dev/mapper/peer && end_peer
}

both_stripe() {
	ours stripe k k 128 ${d}0 0 ${d}1 0 && warm stripe ours /dev/mapper/ours && end_ours
	peer_of stripe "0 $((2 * sectors)) striped 2 128 ${d}0 0 ${d}1 0" && warm stripe kernel /dev/mapper/peer && end_peer
}

both_mirror() {
	ours mirror k --create k ${d}0 ${d}1
	until grep -q everything $work/err; do sleep 0.2; done
	warm mirror ours /dev/mapper/ours && end_ours
	peer_of mirror "0 $sectors mirror core 2 1024 nosync 2 ${d}0 0 ${d}1 0" && warm mirror kernel /dev/mapper/peer && end_peer
}

both_cow() {
	blank ${d}1
	ours cow k k ${d}0 ${d}1 && first cow ours /dev/mapper/ours $pid && warm cow ours /dev/mapper/ours && end_ours
	blank ${d}2
	peer_of cow "0 $sectors snapshot ${d}0 ${d}2 P 128" && first cow kernel /dev/mapper/peer && warm cow kernel /dev/mapper/peer && end_peer
}

both_thin() {
	blank ${d}2
	ours thin a ${d}2 ${d}3 128 a:$sectors && first thin ours /dev/mapper/ours $pid && warm thin ours /dev/mapper/ours && end_ours
	blank ${d}2
	dmsetup create pool --table "0 $((sectors * 2)) thin-pool ${d}2 ${d}3 128 0" && udevadm settle &&
		dmsetup message pool 0 "create_thin 0" && peer_of thin "0 $sectors thin /dev/mapper/pool 0" &&
		first thin kernel /dev/mapper/peer && warm thin kernel /dev/mapper/peer && end_peer && dmsetup remove pool
}

in_vm() { # EXAMPLE...
	local i
	export LD_LIBRARY_PATH=$build/xen-backend/libdmu
	mkdir -p $work
	: >/out/figures
	modprobe -a dm-mod dm-userspace dm-mirror dm-snapshot dm-thin-pool || exit 1
	modprobe null_blk nr_devices=4 gb=1 memory_backed=1 irqmode=2 completion_nsec=1 queue_mode=2 || exit 1
	# The first write of a page is dearer for null_blk, whoever does it.
	for i in 0 1 2 3; do dd if=/dev/zero of=$d$i bs=1M count=$((size * 3 / 2)) oflag=direct status=none; done
	[ $# -gt 0 ] || set -- null linear stripe mirror cow thin
	for i in "$@"; do "both_$i"; done
	exit $failed
}

case ${1:-} in
--in-vm) shift && in_vm "$@" ;;
-h | --help) sed -n '4,13s/^# \{0,1\}//p' "$0" ;;
*) host "$@" ;;
esac
