#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs in the VM (tests/bench/run starts it): FS CASE...; a line "CASE DEVICE
# INSTRUCTIONS" for each figure goes to /out/figures. With --profile DEVICE before
# (tests/bench/profile) only this one is measured, and for each figure what it is made
# of is counted, for a few requests and for more.
#
# Below everything are null_blk devices in memory that complete in an interrupt
# of their own: nullb0 with the file system, nullb1 and nullb2 bare.
set -u

# shellcheck source=tests/bench/common.bash
. "$(dirname "$0")/common.bash"
# shellcheck source=tests/bench/devices.bash
. "$(dirname "$0")/devices.bash"

profile=''
[ "$1" != --profile ] || { profile=$2 && shift 2 && echo 0 >/proc/sys/kernel/randomize_va_space; }
fs=$1
shift
figures=/out/figures
requests=2048

emit() { # CASE DEVICE INSTRUCTIONS
	[[ $3 =~ ^[0-9]+$ ]] && [ "$3" -gt 0 ] || { trouble "no figure for $1 $2" && return; }
	echo "$1 $2 $3" >>$figures
	echo "# $1 $2 $3"
}

trouble() {
	echo "# trouble: $*"
	failed=1
}
failed=0

# --- devices -----------------------------------------------------------------

modprobe -a loop dm-mod dm-userspace nbd || exit 1
modprobe null_blk nr_devices=3 gb=4 memory_backed=1 irqmode=2 completion_nsec=1 queue_mode=2 || exit 1
# Their memory is there before anybody's figure would have it in.
fill_bare() { dd if=/dev/zero of="$1" bs=1M count="$2" oflag=direct status=none; } # DEVICE MIB
# Copies of a backing file's grains end far behind all else.
reserved=768
[[ " $* " == *backing* ]] && reserved=1536
fill_bare /dev/nullb0 $reserved
fill_bare /dev/nullb1 $((size * 2))
fill_bare /dev/nullb2 $((size * 2))
mkdir -p /vm
case $fs in
ext4) mke2fs -q -F -t ext4 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/nullb0 || exit 1 ;;
xfs) mkfs.xfs -q -f -K /dev/nullb0 || exit 1 ;;
esac
mount /dev/nullb0 /vm || exit 1
: >$figures

# --- figures -----------------------------------------------------------------

is_wanted() { [ -z "$profile" ] || [ "$profile" = "$1" ]; } # DEVICE

small() { # CASE DEVICE PATH [SIZE-IN-MIB]
	local depth rw some
	is_wanted "$2" || return 0
	for depth in 1 32; do
		for rw in read write; do
			emit "$1-$rw-$depth" "$2" "$(random_requests "$3" $rw $depth "${4:-$size}M" "${count:-4000}")"
			[ -z "$profile" ] || for some in 2000 6000; do
				counted "$1-$rw-$depth" "$2" $some random_requests "$3" $rw $depth "${4:-$size}M" $some
			done
		done
	done
}

first_writes() { # CASE DEVICE PATH DEPTH [MAPPER-PID]
	local value start=0 before after
	is_wanted "$2" || return 0
	first_write_pattern "$3" $requests >/tmp/pattern
	[ -z "$profile" ] || { first_writes_counted "$@" && return; }
	[ -z "${5:-}" ] || start=$(mapper_time "$5")
	value=$(fio_json "$3" --read_iolog=/tmp/pattern --replay_no_stall=1 --iodepth="$4" | per_request)
	if [ -n "${5:-}" ]; then
		before=$(mapper_time "$5")
		sync "$3"
		sleep 1.5
		after=$(mapper_time "$5")
		echo "# $1-$4 $2: the mapper ran $(((before - start) / requests)) for each meanwhile, $(((after - before) / requests)) afterwards"
		value=$((value + (after - before) / requests))
	fi
	emit "$1-$4" "$2" "$value"
}

# An eighth for what only the first ones find; then a few, and then the rest, each with
# what is to be done afterwards.
first_writes_counted() { # CASE DEVICE PATH DEPTH
	local from to
	for from in 0 1 2; do
		to=$((from < 2 ? from + 1 : 8))
		awk -v from=$((requests * from / 8)) -v to=$((requests * to / 8)) '
			/ write / && (n++ < from || n > to) { next } { print }' /tmp/pattern >/tmp/part
		if [ "$from" = 0 ]; then
			pattern_and_after "$3" "$4" >/dev/null
		else
			counted "$1-$4" "$2" "$(grep -c ' write ' /tmp/part)" pattern_and_after "$3" "$4"
		fi
	done
}
pattern_and_after() { # PATH DEPTH
	fio_json "$1" --read_iolog=/tmp/part --replay_no_stall=1 --iodepth="$2"
	sync "$1"
	sleep 1.5
}

# --- cases -------------------------------------------------------------------

# Each of these is on a device all of which has been written: FUNCTION CASE DEVICE PATH.
written=(null file loop linear-on-loop ours-raw ours-qcow ours-qcow2 ours-vmdk qemu-nbd qemu-storage-daemon thin)

# What a first writer finds: nothing of it has a place. OPTIONS are of the disk's specification.
fresh_ours() { # FORMAT [OPTIONS [CREATE-ARGUMENT...]]
	xen-dmu create "$1:/vm/ours" --cluster-size 64k "${@:3}" ${size}M >/dev/null || trouble "create $1"
	attach "$1${2:+;$2}:/vm/ours"
}

end_fresh() {
	detach
	rm /vm/ours
}

fill() { dd if=/dev/urandom of="$1" bs=1M count=$size oflag=direct status=none; } # DEVICE

on_written() { # DEVICE FUNCTION CASE
	local format=${1#ours-}
	is_wanted "$1" || return 0
	case $1 in
	null) "$2" "$3" "$1" /dev/nullb1 ;;
	file)
		written_file raw
		"$2" "$3" "$1" /vm/raw
		;;
	loop)
		written_file raw
		loop_on raw
		"$2" "$3" "$1" "$loop"
		losetup -d "$loop"
		;;
	linear-on-loop)
		written_file raw
		loop_on raw
		dmsetup create linear --table "0 $((size * 2048)) linear $loop 0"
		"$2" "$3" "$1" /dev/mapper/linear
		dmsetup remove --retry linear
		losetup -d "$loop"
		;;
	ours-*)
		case $format in
		raw) reserved_file image ;;
		qcow) xen-dmu create qcow:/vm/image --cluster-size 64k ${size}M >/dev/null ;;
		*) qemu-img create -q -f "$format" /vm/image ${size}M ;;
		esac || trouble "create $format"
		attach "$format:/vm/image"
		fill /dev/mapper/ours
		"$2" "$3" "$1" /dev/mapper/ours
		detach
		;;
	qemu-nbd)
		qemu-img create -q -f qcow2 /vm/image ${size}M
		nbd_on -f qcow2 --discard=unmap /vm/image
		fill /dev/nbd0
		"$2" "$3" "$1" /dev/nbd0
		end_nbd
		;;
	qemu-storage-daemon)
		qemu-img create -q -f qcow2 /vm/image ${size}M
		daemon_on /vm/image || return
		fill /run/daemon.raw
		"$2" "$3" "$1" /run/daemon.raw
		kill $daemon
		wait $daemon
		;;
	thin)
		thin_on_bare
		fill /dev/mapper/thin
		"$2" "$3" "$1" /dev/mapper/thin
		end_thin
		;;
	esac
	rm -f /vm/raw /vm/image
}

case_warm() {
	local device
	for device in "${written[@]}"; do on_written "$device" small warm; done
}

case_uring() {
	local device engine=io_uring
	for device in file loop ours-qcow2 qemu-nbd; do on_written "$device" small uring; done
}

mixed() { # CASE DEVICE PATH
	local depth
	for depth in 1 32; do
		emit "$1-$depth" "$2" "$(fio_json "$3" --rw=randrw --rwmixread=70 --bs=4k --iodepth=$depth --size=${size}M \
			--number_ios=4000 --norandommap | per_request)"
	done
}

case_mixed() {
	local device
	for device in "${written[@]}"; do on_written "$device" mixed mixed; done
}

discards() { # CASE DEVICE PATH: each 64 KiB once
	emit "$1" "$2" "$(fio_json "$3" --rw=randtrim --bs=64k --iodepth=1 --size=${size}M | per_request)"
}

case_discard() {
	local device
	for device in loop ours-qcow2 qemu-nbd thin; do on_written "$device" discards discard; done
}

# A map of a million extents, none of which merges with its neighbour.
case_extents() {
	local sectors=8000000 count=32000 # fio counts time in milliseconds
	# What was never written is read in less, and of it the first device finds more.
	fill_bare /dev/nullb1 3906
	dmsetup create linear --table "0 $sectors linear /dev/nullb1 0"
	small extents linear /dev/mapper/linear 3900
	dmsetup remove linear
	start_ours $sectors 8 --store /dev/nullb1 --wide $sectors --shuffle
	dd if=/dev/mapper/ours of=/dev/null bs=4k count=1 iflag=direct status=none
	# What the map's making left behind is freed meanwhile.
	sleep 5
	echo "# extents, bytes of map: $(dmsetup status ours | awk '{ print $9, $10 }')"
	small extents ours-million /dev/mapper/ours 3900
	end_ours
}

case_first-write() {
	local depth format
	for depth in 1 32; do
		reserved_file raw
		first_writes first-write file /vm/raw $depth
		rm /vm/raw
		reserved_file raw
		loop_on raw
		first_writes first-write loop "$loop" $depth
		losetup -d "$loop"
		rm /vm/raw
		qemu-img create -q -f qcow2 /vm/q2 ${size}M
		nbd_on -f qcow2 /vm/q2
		first_writes first-write qemu-nbd /dev/nbd0 $depth
		end_nbd
		rm /vm/q2
		for format in qcow2 qcow vmdk; do
			is_wanted ours-$format || continue
			fresh_ours $format
			first_writes first-write ours-$format /dev/mapper/ours $depth "$mapper_pid"
			echo "# $(dmsetup status ours)"
			end_fresh
		done
	done
}

case_first-write-block() {
	local depth
	for depth in 1 32; do
		thin_on_bare
		first_writes first-write-block thin /dev/mapper/thin $depth
		end_thin
		start_ours $((size * 2048)) 128 --store /dev/nullb1 --leases 256 --wide $((size * 2048))
		first_writes first-write-block ours /dev/mapper/ours $depth $mapper_pid
		echo "# $(dmsetup status ours)"
		end_ours
	done
}

case_first-write-backing() {
	local depth format
	dd if=/dev/urandom of=/dev/nullb1 bs=1M count=$size oflag=direct status=none
	for depth in 1 32; do
		dd if=/dev/zero of=/dev/nullb2 bs=4k count=1 oflag=direct status=none
		dmsetup create snapshot --table "0 $((size * 2048)) snapshot /dev/nullb1 /dev/nullb2 P 128" || trouble snapshot
		first_writes first-write-backing snapshot /dev/mapper/snapshot $depth
		dmsetup remove snapshot
		start_ours $((size * 2048)) 128 --base /dev/nullb1 --store /dev/nullb2 --leases 256 --wide $((size * 2048))
		first_writes first-write-backing ours-block /dev/mapper/ours $depth $mapper_pid
		end_ours
		written_file base
		qemu-img create -q -f qcow2 -b /vm/base -F raw /vm/q2 ${size}M
		nbd_on -f qcow2 /vm/q2
		first_writes first-write-backing qemu-nbd /dev/nbd0 $depth
		end_nbd
		rm /vm/q2
		for format in qcow2 qcow; do
			is_wanted ours-$format || continue
			fresh_ours $format backing-format=raw --backing raw:/vm/base
			first_writes first-write-backing ours-$format /dev/mapper/ours $depth "$mapper_pid"
			end_fresh
		done
		rm /vm/base
	done
}

sequential() { # CASE DEVICE PATH RW
	emit "$1" "$2" "$(fio_json "$3" --rw="$4" --bs=1M --iodepth=4 --size=${size}M | per_request)"
}

sequentials() { # DEVICE PATH
	sequential sequential-first-write "$1" "$2" write
	sequential sequential-write "$1" "$2" write
	sequential sequential-read "$1" "$2" read
}

case_sequential() {
	local format
	reserved_file raw
	sequentials file /vm/raw
	rm /vm/raw
	reserved_file raw
	loop_on raw
	sequentials loop "$loop"
	losetup -d "$loop"
	rm /vm/raw
	for format in qcow2 qcow; do
		fresh_ours $format
		sequentials ours-$format /dev/mapper/ours
		end_fresh
	done
	qemu-img create -q -f qcow2 /vm/q2 ${size}M
	nbd_on -f qcow2 /vm/q2
	sequentials qemu-nbd /dev/nbd0
	end_nbd
	rm /vm/q2
}

fsyncs() { # DEVICE PATH
	local began
	first_write_pattern "$2" $requests >/tmp/pattern
	awk -v n=256 '/ write / { if (n-- > 0) { print; print $1 " datasync 0 0" } next } { print }' /tmp/pattern >/tmp/synced
	began=$(fio_json "$2" --read_iolog=/tmp/synced --replay_no_stall=1 --iodepth=1 | per_request)
	emit fsync "$1" "$began"
}

case_fsync() {
	local format
	reserved_file raw
	fsyncs file /vm/raw
	rm /vm/raw
	reserved_file raw
	loop_on raw
	fsyncs loop "$loop"
	losetup -d "$loop"
	rm /vm/raw
	qemu-img create -q -f qcow2 /vm/q2 ${size}M
	nbd_on -f qcow2 /vm/q2
	fsyncs qemu-nbd /dev/nbd0
	end_nbd
	rm /vm/q2
	for format in qcow2 qcow; do
		fresh_ours $format
		fsyncs ours-$format /dev/mapper/ours
		end_fresh
	done
}

# How often a first reader of 512 MiB asks.
case_cold-read() {
	local format size=512
	for format in qcow2 qcow; do
		fresh_ours $format
		fill /dev/mapper/ours
		detach
		attach $format:/vm/ours
		dd if=/dev/mapper/ours of=/dev/null bs=1M count=$size iflag=direct status=none
		emit cold-read-misses ours-$format "$(dmsetup status ours | awk '{ print $13 }')"
		end_fresh
	done
}

for name in "$@"; do
	echo "# case $name"
	"case_$name"
done
[ -z "$profile" ] || cat /proc/kallsyms >/out/kallsyms
exit $failed
