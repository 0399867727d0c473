#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images in a file system on an image: what a write of one waits for, a journal's
# say, are writes of the other, which must not wait behind it.
#
# vm: --kernel 6.12 --timeout 600
# vm-long: --kernel 6.1 --timeout 600
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

# The smallest journal, so that it is full all the time.
outside_and_inside() {
	modprobe dm-userspace && make_store /vm 600M && qemu-img create -q -f qcow2 /vm/outside.qcow2 400M &&
		xen-dmu attach qcow2:/vm/outside.qcow2 --name outside &&
		mke2fs -q -t ext4 -J size=4 /dev/mapper/outside && mkdir -p /nested && mount /dev/mapper/outside /nested &&
		fallocate -l 64M /nested/inside.raw && qemu-img create -q -f qcow2 /nested/inside.qcow2 64M &&
		xen-dmu attach raw:/nested/inside.raw --name inside-raw &&
		xen-dmu attach qcow2:/nested/inside.qcow2 --name inside-qcow2
}

fio_verify() { # NAME FILE OPTION...
	timeout 240 fio --name="$1" --filename="$2" --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k --size=60M \
		--io_size=3M --fsync=48 --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \
		--output="/tmp/$1.out" "${@:3}" || { tail -n 30 "/tmp/$1.out" && return 1; }
}

# Side by side: to both images inside, and to a file beside them.
work() {
	local pid pids=() status=0
	fio_verify raw /dev/mapper/inside-raw &
	pids+=($!)
	fio_verify qcow2 /dev/mapper/inside-qcow2 &
	pids+=($!)
	fio_verify file /nested/file --fallocate=none &
	pids+=($!)
	for pid in "${pids[@]}"; do wait "$pid" || status=1; done
	return $status
}

take_down() {
	xen-dmu detach inside-raw && xen-dmu detach inside-qcow2 && qemu-img check -q -f qcow2 /nested/inside.qcow2 &&
		umount /nested && xen-dmu detach outside && qemu-img check -q -f qcow2 /vm/outside.qcow2
}

check 'images in a file system on an image' outside_and_inside || { show_logs && finish; }
for i in 1 2; do check "written at depth, with fsyncs, verified ($i)" work || break; done
check 'taken down, and whole' take_down || show_logs
check_clean 'nothing is left'
check 'the module can be removed' modprobe -r dm-userspace
finish
