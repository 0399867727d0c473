#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For crash.sh, in the VM. "write": a guest writes numbered blocks, and every
# round that its flush has acknowledged is told; beside that fio writes. "verify N":
# the image checks clean and holds rounds 1 to N.
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"

DMU_VM_DISK=/dev/vdb
size=128            # MiB; markers in the first half, fio in the second
per_round=8
blocks=$((size / 2 * 256))

# Where marker K goes: a permutation of the first half's blocks.
place_of() { echo $(($1 * 40507 % blocks)); }

marker() { yes "$(printf '%015d' "$1")" | head -c 4096; }

# What the guest does for a round.
round_commands() { # ROUND
	local k last=$(($1 * per_round))
	for ((k = last - per_round + 1; k <= last; k++)); do
		echo "yes $(printf '%015d' "$k") | head -c 4096 | dd of=/dev/xvda bs=4k seek=$(place_of "$k") oflag=direct \
			conv=notrunc 2>/dev/null || exit 1"
	done
	echo "dd if=/dev/null of=/dev/xvda conv=notrunc,fsync 2>/dev/null"
}

write_rounds() {
	local round
	modprobe dm-userspace && make_vm_directory && make_chain /vm/disk.qcow $size || exit 1
	guest_create crash 'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow' || exit 1
	sync # the fresh images; not what the guest writes
	guest_run crash "fio --name=load --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite \
		--bs=4k --offset=$((size / 2))M --size=$((size / 2))M --time_based --runtime=600 --output=/dev/null \
		>/dev/null 2>&1 </dev/null &"
	echo "ready"
	for ((round = 1; round <= 400; round++)); do
		guest_run crash "$(round_commands $round)" || exit 1
		echo "flushed $round"
	done
}

has_marker() { # K
	cmp -s <(dd if=/vm/raw bs=4k skip="$(place_of "$1")" count=1 status=none) <(marker "$1")
}

verify_rounds() { # ROUNDS
	local k missing=0 status
	mount_vm_directory || exit 1
	xen-dmu check qcow:/vm/disk.qcow
	status=$?
	[ $status -eq 0 ] || [ $status -eq 3 ] || { echo "the image is corrupt" && exit 1; }
	qemu-img convert -f qcow -O raw /vm/disk.qcow /vm/raw || exit 1
	for ((k = 1; k <= $1 * per_round; k++)); do
		has_marker "$k" || missing=$((missing + 1))
	done
	echo "$missing of $(($1 * per_round)) flushed blocks are missing"
	[ $missing -eq 0 ]
}

case $1 in
write) write_rounds ;;
verify) verify_rounds "$2" ;;
esac
