#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Without Xen: kill -9 of the mapper under fio on /dev/mapper/k, ten times, each
# with at least a hundred allocations not yet committed; fio verifies.
#
# vm: --kernel 6.1 --timeout 900
# vm-long: --kernel 6.12 --timeout 400
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"
# shellcheck source=tests/e2e/kills.sh
. "$(dirname "$0")/kills.sh"

modprobe -a loop dm-userspace && make_vm_directory && make_chain /vm/disk.qcow $size || fail "prepare images"
commit_late
echo 'lease-ahead = yes' >>/etc/xen/xen-dmu.conf
check "attach" xen-dmu attach qcow:/vm/disk.qcow --name k || finish
cd /tmp || exit
# shellcheck disable=SC2046 # words
fio $(fio_job /dev/mapper/k) --output=/tmp/fio.out &
job=$!
kill_often k /run/xen-dmu/mapper-name-k.pid
if wait $job; then pass "fio verified over $done_kills kills"; else
	fail "fio verified what it wrote"
	tail -n 30 /tmp/fio.out
	tail -n 40 /var/log/xen/xen-dmu-*.log
fi
check "detach" xen-dmu detach k
check "device and mapper are gone" wait_for 30 nothing_left
check "the image checks clean (leaks allowed)" eval 'xen-dmu check qcow:/vm/disk.qcow; [ $? -eq 0 -o $? -eq 3 ]'
check "qemu-img reads the chain" qemu-img convert -f qcow -O raw /vm/disk.qcow /vm/raw
cat /var/log/xen/asan* 2>/dev/null
finish
