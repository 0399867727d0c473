#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The whole way, in a real Xen: xm create of a domain whose disk is literally
# 'dmu:qcow:/vm/disk.qcow,xvda,w'; the guest works on it; the listing; after the
# shutdown others read the image. Runs in dom0.
#
# vm: --kernel xen --timeout 280

# Functions are called through "check" and "wait_for", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

image=/vm/disk.qcow

say() { printf '\n== %s\n' "$*"; }

# Shows a command and its output.
show() {
	echo "# $*"
	"$@"
}

# The file system of /vm takes direct I/O, as a host's does.
prepare() {
	mkdir -p /vm
	truncate -s 1G /var/tmp/vm.ext4 && mke2fs -q -t ext4 /var/tmp/vm.ext4 &&
		mount -o loop /var/tmp/vm.ext4 /vm && modprobe dm-userspace &&
		show qemu-img create -q -f qcow "$image" 256M
}

work_in_guest() {
	cat <<-'END'
		set -e
		mke2fs -q -t ext4 /dev/xvda
		mount /dev/xvda /mnt
		mkdir /mnt/work
		for i in 1 2 3 4 5 6 7 8; do
			dd if=/dev/urandom of=/mnt/work/file$i bs=64k count=16 2>/dev/null
		done
		echo "written in a Xen guest, through dm-userspace" >/mnt/work/hello
		(cd /mnt/work && sha256sum file* hello >SUMS)
		sync
		umount /mnt
		mount /dev/xvda /mnt
		(cd /mnt/work && sha256sum -c SUMS)
		cat /mnt/work/hello
		umount /mnt
	END
}

# By readers that share no code with us.
confirm() {
	local raw=/var/tmp/disk.raw
	check 'qemu-img reads the image' qemu-img convert -f qcow -O raw "$image" "$raw" &&
		check 'e2fsck finds nothing' e2fsck -fn "$raw" &&
		mkdir -p /mnt/check && mount -o loop "$raw" /mnt/check || return
	check 'the files are those of the guest' env -C /mnt/check/work sha256sum --quiet -c SUMS
	umount /mnt/check
	check 'our own checker finds nothing' xen-dmu check "qcow:$image"
}

say "the image and the module"
check 'prepare the image' prepare || finish
echo "# xen-dmu doctor"
xen-dmu doctor

say "xm create, disk = ['dmu:qcow:$image,xvda,w']"
# Not exported: xm itself takes XL for the xl to call.
XL=xm
check 'create the guest' guest_create quickstart "dmu:qcow:$image,xvda,w" || {
	tail -n 20 /var/log/xen/xen-hotplug.log /var/log/xen/xen-dmu-*.log 2>/dev/null
	finish
}
grep '^disk' "/tmp/quickstart.cfg"
show xl list

say "the guest makes a file system, writes, syncs, reads back"
guest_run quickstart "$(work_in_guest)" 120
check 'the guest works on its disk' [ $? -eq 0 ]

say "meanwhile"
show xen-dmu-list
show xm block-list quickstart
check 'the listing shows the disk' grep -q "quickstart.*xvda.*qcow.*$image" <(xen-dmu-list)

say "shutdown; qemu-img and e2fsck look at the image"
check 'the guest ends' guest_stop quickstart
nothing_left() {
	! dmsetup ls 2>/dev/null | grep -q '^dmu-' && ! pgrep -f xen-dmu-mapper >/dev/null
}
check 'device and mapper are gone' wait_for 30 nothing_left
confirm

say "result"
finish
