#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Crashes of the host, all of them that a log of the destination's writes holds, in a
# VM: dm-log-writes below an image that is written to, with fsyncs. At every flush, at
# every acknowledged fsync and at points between, what a crash could leave is made, with
# parts of what was not yet durable: the image has to check clean (leaks allowed), and
# what was acknowledged has to be there. Judges: our checker, qemu-img, ext4's recovery.
# Of encrypted images also: no sector is garbage, and none lies there as plain text.
#
# vm-long: --kernel 6.1 --timeout 3000
# vm-long: --kernel 6.12 --timeout 3000 -- luks-file luks-2m-over-raw aes-over-raw
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

acked=${DMU_ACKED:-/src/build/release/tests/dmu-acked}
work=/tmp/log-writes
rounds=${DMU_ROUNDS:-6}
samples=${DMU_RESULTS:-2} # of each crash
base=1000000 # the write that a backing file holds
size=32 # MiB of the disk
device_size=96
seed=${DMU_SEED:-$RANDOM}
key=$work/key secret="secret,id=s,file=$work/key"
loops=()

clean_up() {
	umount $work/mnt 2>/dev/null
	dmsetup remove logged 2>/dev/null
	[ ${#loops[@]} -eq 0 ] || losetup -d "${loops[@]}" 2>/dev/null
}
trap clean_up EXIT

loop() { # FILE: $loop is its device
	loop=$(losetup -f --show "$1") && loops+=("$loop")
}

# What is tried: the image lies on the device itself, or in a file system on it.
make_image() { # KIND
	local encrypt='' options=()
	case $1 in
	luks-*) encrypt=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 ;;
	aes-*) encrypt=encrypt.format=aes,encrypt.key-secret=s ;;
	esac
	[[ $1 != *-2m-* ]] || encrypt+=,cluster_size=2M
	[ -z "$encrypt" ] || options=(--object "$secret" -o "$encrypt")
	case $1 in
	*-device) qemu-img create -q -f qcow2 $work/logged.dev ${size}M ;;
	*-over-raw) "$acked" fill $work/mnt/base --base $base --sectors $((size * 2048)) &&
		qemu-img create -q -f qcow2 "${options[@]}" -b base -F raw $work/mnt/image ;;
	vmdk-*) qemu-img create -q -f vmdk $work/mnt/image ${size}M ;;
	*) qemu-img create -q -f qcow2 "${options[@]}" $work/mnt/image ${size}M ;;
	esac
}

format_of() { # KIND
	case $1 in
	vmdk-*) echo vmdk ;;
	*) echo qcow2 ;;
	esac
}
is_encrypted() { [[ $1 == luks-* || $1 == aes-* ]]; } # KIND
before() { if [[ $1 == *-over-raw ]]; then echo $base; else echo 0; fi; } # KIND: what no write has changed

prepare_device() { # KIND
	rm -rf $work/logged.* $work/log
	truncate -s ${device_size}M $work/logged.dev
	truncate -s 512M $work/logged.writes
	case $1 in
	*-device) make_image "$1" && truncate -s ${device_size}M $work/logged.dev ;;
	*) mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $work/logged.dev &&
		mount -o loop $work/logged.dev $work/mnt && make_image "$1" && umount $work/mnt ;;
	esac || return
	cp --sparse=always $work/logged.dev $work/logged.base
	loop $work/logged.dev && local device=$loop
	loop $work/logged.writes
	dmsetup create logged --table "0 $((device_size * 2048)) log-writes $device $loop"
	[[ $1 == *-device ]] || mount /dev/mapper/logged $work/mnt
}

image_of() { # KIND
	case $1 in
	qcow2-device) echo qcow2:/dev/mapper/logged ;;
	# By itself it takes no leases.
	vmdk-file) echo "vmdk;lease-ahead=yes:$work/mnt/image" ;;
	luks-* | aes-*) echo "qcow2;key-file=$key:$work/mnt/image" ;;
	*) echo "qcow2:$work/mnt/image" ;;
	esac
}

workload() { # KIND
	xen-dmu attach "$(image_of "$1")" --name w || return
	"$acked" write /dev/mapper/w --seed "$seed" --rounds "$rounds" --sectors $((size * 2048)) \
		--mark 'dmsetup message logged 0 mark' || return
	xen-dmu detach w || return
	mountpoint -q $work/mnt && { umount $work/mnt || return; }
	dmsetup remove --retry logged && losetup -d "${loops[@]}" && loops=()
	dmu-debug log $work/log --import $work/logged.writes --base $work/logged.base
}

# --- what a crash has left ---------------------------------------------------------

# The last fsync that the log says was acknowledged before this point.
acknowledged() { # POINT
	dmu-debug log $work/log -k mark -N "-$1" | sed -n 's/.*"\([0-9]*\)".*/\1/p' | tail -n 1
}

judge_image() { # KIND IMAGE ACKED
	local format status opened=()
	format=$(format_of "$1")
	opened=(-f "$format" "$2")
	! is_encrypted "$1" || opened=(--object "$secret" --image-opts "driver=qcow2,file.filename=$2,encrypt.key-secret=s")
	dmu-img check --quiet "$format:$2"
	status=$?
	[ $status -eq 0 ] || [ $status -eq 3 ] || { echo "our checker: status $status" && return 1; }
	qemu-img check -q "${opened[@]}"
	status=$?
	[ $status -eq 0 ] || [ $status -eq 3 ] || { echo "qemu-img check: status $status" && return 1; }
	! is_encrypted "$1" || "$acked" absent "$2" || return
	qemu-img convert "${opened[@]}" -O raw $work/raw &&
		"$acked" check $work/raw --seed "$seed" --rounds "$rounds" --sectors $((size * 2048)) --acked "$3" \
			--base "$(before "$1")"
}

# Runs for each result: log-writes.sh judge KIND ACKED IMAGE.
judge() { # KIND ACKED DEVICE-IMAGE
	local status=0
	if [[ $1 == *-device ]]; then
		judge_image "$1" "$3" "$2"
		return
	fi
	mount -o loop "$3" $work/crashed || return
	judge_image "$1" $work/crashed/image "$2" || status=1
	umount $work/crashed || status=1
	return $status
}

# Flushes, marks, and of what is left every fifth, or fewer: sixty.
points() {
	local all step
	all=$(dmu-debug log $work/log)
	step=$(($(wc -l <<<"$all") / 60))
	awk -v step=$((step > 5 ? step : 5)) '$3 == "flush" || $3 == "mark" || /FUA/ { print $1; next }
		++n % step == 0 { print $1 }' <<<"$all"
}

crash_everywhere() { # KIND
	local point done_points=0 acked_there bad=0
	mapfile -t all < <(points)
	for point in "${all[@]}"; do
		acked_there=$(acknowledged "$point")
		if ! dmu-debug crash $work/log --at "$point" --base $work/logged.base --sample "$samples" --seed "$point" -- \
			bash "$0" judge "$1" "${acked_there:-0}" {} >$work/crash.out 2>&1; then
			echo "# $1: a crash at $point, $acked_there acknowledged"
			tail -n 20 $work/crash.out | sed 's/^/# /'
			[ $((++bad)) -lt 5 ] || break
		fi
		done_points=$((done_points + 1))
	done
	echo "# $1: seed $seed, $(dmu-debug log $work/log | wc -l) requests, $done_points points, up to $samples results each"
	[ $bad -eq 0 ] && [ $done_points -gt "$rounds" ]
}

try() { # KIND
	check "$1: an image on a device whose writes are logged" prepare_device "$1" || return
	check "$1: $rounds rounds of writes, each acknowledged" workload "$1" || return
	check "$1: the log tells of all of them" test "$(acknowledged 1000000)" = "$rounds" || return
	if crash_everywhere "$1"; then pass "$1: after every crash the image is whole and what was acknowledged is there"; else
		fail "$1: after every crash the image is whole and what was acknowledged is there"
	fi
}

if [ "${1:-}" = judge ]; then
	seed=$DMU_SEED
	judge "$2" "$3" "$4"
	exit
fi
export DMU_SEED=$seed DMU_ROUNDS=$rounds
mkdir -p $work/mnt $work/crashed
printf 'correct-horse-battery' >$key
modprobe -a dm-mod loop dm-log-writes dm-userspace || exit 1
[ $# -gt 0 ] || set -- qcow2-device qcow2-file vmdk-file
for kind; do try "$kind"; done
finish
