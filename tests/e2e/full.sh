#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The file system below an image is full: the guest waits, and goes on when there
# is space again; with on-full=error it gets an error. And dom0 goes down with a
# busy guest: nothing hangs, the last flush is in the image.
#
# vm: --kernel xen --timeout 900
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"

free_space() { # KIB: leaves about so much
	local have
	have=$(df --output=avail -k /vm | tail -n 1)
	fallocate -l $(((have - $1) * 1024)) /vm/ballast
}

alarm_shown() { xen-dmu-list --json | grep -qi 'full\|no space'; }

modprobe dm-userspace && make_vm_directory 512M || fail prepare
qemu-img create -q -f qcow /vm/disk.qcow 128M
qemu-img create -q -f qcow /vm/other.qcow 128M
check "create the guest" guest_create full 'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow' \
	'vdev=xvdb,access=w,script=block-dmu,target=qcow;on-full=error:/vm/other.qcow' || finish
id=$(guest_id full)
free_space 16384

guest_start full 'dd if=/dev/zero bs=64k count=640 2>/dev/null | tr "\0" "Z" |
	dd of=/dev/xvda bs=64k iflag=fullblock oflag=direct 2>&1 && sync'
request=$guest_request
check "the listing shows that the disk is full" wait_for 90 alarm_shown
sleep 3
check "the guest waits" test -z "$(sed -n "/@@$request end/p" "$(guest_path full .console)")"
rm /vm/ballast
check "the guest goes on when space is back" guest_wait full 120 "$request"
check "what it wrote is there" guest_run full \
	'[ "$(dd if=/dev/xvda bs=64k count=640 iflag=direct 2>/dev/null | tr -d Z | wc -c)" = 0 ]'

free_space 8192
# More than what the file system keeps for root besides.
guest_run full 'dd if=/dev/zero bs=64k count=1000 2>/dev/null | tr "\0" "Y" |
	dd of=/dev/xvdb bs=64k iflag=fullblock oflag=direct' >/tmp/error.out 2>&1
check "with on-full=error the guest gets an error" [ $? -ne 0 ]
grep -i error /tmp/error.out | head -n 2
rm /vm/ballast

# Now the host goes down: the guest is destroyed while busy, as xendomains does
# with one that does not shut down; the mapper gets SIGTERM, file systems go.
guest_run full 'dd if=/dev/zero bs=4k count=64 2>/dev/null | tr "\0" "L" |
	dd of=/dev/xvda bs=4k seek=20000 oflag=direct conv=notrunc,fsync' >/dev/null 2>&1
check "the last flush" [ $? -eq 0 ]
guest_start full 'fio --name=busy --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k \
	--offset=96M --size=32M --time_based --runtime=300 --output=/dev/null'
sleep 2
mapper=$(cat "/run/xen-dmu/mapper-dom-$id.pid")
check "the busy guest is destroyed" timeout 60 xl destroy full
kill -TERM "$mapper" 2>/dev/null
check "device and mapper are gone" wait_for 30 nothing_left
check "the file system can be unmounted" umount /vm
mount_vm_directory
check "the image checks clean (leaks allowed)" eval 'xen-dmu check qcow:/vm/disk.qcow; [ $? -eq 0 -o $? -eq 3 ]'
qemu-img convert -f qcow -O raw /vm/disk.qcow /vm/raw
check "the last flush is in the image" test "$(dd if=/vm/raw bs=4k skip=20000 count=64 status=none | tr -d L | wc -c)" = 0
finish
