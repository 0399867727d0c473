#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kill -9 of the mapper under a guest that writes and verifies, ten times at
# random moments, each with at least a hundred allocations not yet committed.
#
# vm: --kernel xen --timeout 1200
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"
# shellcheck source=tests/e2e/kills.sh
. "$(dirname "$0")/kills.sh"

modprobe dm-userspace && make_vm_directory && make_chain /vm/disk.qcow $size || fail "prepare images"
commit_late
check "create the guest" guest_create kill 'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow' || finish
id=$(guest_id kill)
guest_start kill "fio $(fio_job /dev/xvda) --output=/tmp/fio.out; s=\$?
	cat /tmp/fio.out; dmesg | grep -i 'i/o error'; exit \$s"
kill_often "dmu-$id-51712" "/run/xen-dmu/mapper-dom-$id.pid"
if guest_wait kill 400 >/tmp/guest.out 2>&1; then
	pass "the guest verified what it wrote over $done_kills kills"
else
	fail "the guest verified what it wrote"
	tail -n 40 /tmp/guest.out
	tail -n 40 /var/log/xen/xen-dmu-*.log
fi
check "the guest saw no error" [ "$(grep -ci 'i/o error' /tmp/guest.out)" -eq 0 ]
xen-dmu-list
check "the guest ends" guest_stop kill
check "device and mapper are gone" wait_for 30 nothing_left
check "the image checks clean (leaks allowed)" eval 'xen-dmu check qcow:/vm/disk.qcow; [ $? -eq 0 -o $? -eq 3 ]'
# All of it would take as long as everything before.
check "qemu-img reads the chain" qemu-img dd -f qcow -O raw bs=1M count=32 if=/vm/disk.qcow of=/vm/raw
finish
