# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# For the tests in dom0: an ext4 at /vm for images, and images in it.

# /vm is on a disk of the VM if it is given one, else on a file.
make_vm_directory() { # [SIZE]
	local device=${DMU_VM_DISK:-/var/tmp/vm.ext4}
	mkdir -p /vm
	[ -b "$device" ] || truncate -s "${1:-2G}" "$device"
	mke2fs -q -F -t ext4 "$device" && mount_vm_directory
}

mount_vm_directory() {
	local device=${DMU_VM_DISK:-/var/tmp/vm.ext4}
	mkdir -p /vm
	if [ -b "$device" ]; then mount "$device" /vm; else mount -o loop "$device" /vm; fi
}

# A chain of three: random data, partly overwritten twice, and a fresh top.
make_chain() { # TOP SIZE-IN-MIB
	local top=$1 size=$2
	# qemu-img writes this format slowly: little data, all over the disk.
	truncate -s "${size}M" /vm/random
	local i
	for ((i = 0; i < size; i += 8)); do
		dd if=/dev/urandom of=/vm/random bs=64k seek=$((i * 16)) count=4 conv=notrunc status=none
	done
	qemu-img convert -q -f raw -O qcow /vm/random /vm/base.qcow 2>/dev/null
	[ -s /vm/base.qcow ] || return
	qemu-img create -q -f qcow -b /vm/base.qcow -F qcow /vm/middle.qcow "${size}M" &&
		qemu-io -f qcow -c "write -q -P 0x5a 8M 128k" /vm/middle.qcow &&
		qemu-img create -q -f qcow -b /vm/middle.qcow -F qcow "$top" "${size}M" &&
		rm /vm/random
}

# Changes that the kernel has logged and the mapper has not made durable.
uncommitted() { # DEVICE
	local status
	read -ra status < <(dmsetup status "$1")
	echo $((${status[5]} - ${status[6]}))
}

# Nothing of ours is left in dom0.
nothing_left() {
	! dmsetup ls 2>/dev/null | grep -q '^dmu-' && ! pgrep -f xen-dmu-mapper >/dev/null &&
		[ -z "$(ls -A /run/xen-dmu/disks 2>/dev/null)" ]
}
