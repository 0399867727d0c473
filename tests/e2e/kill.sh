#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kill -9 of the mapper under a guest that writes and verifies, ten times at
# random moments, each with at least a hundred allocations not yet committed.
#
# vm: --kernel xen --timeout 900
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"

kills=10 least=100
size=192

kill_once() { # NUMBER
	local device=$1 pid_file=$2 number=$3 pid count=0 end=$((SECONDS + 60))
	sleep "0.$((RANDOM % 10))"
	until [ "$count" -ge $least ]; do
		[ $SECONDS -lt $end ] || { echo "kill $number: only $count uncommitted allocations" && return 1; }
		sleep 0.05
		count=$(uncommitted "$device")
	done
	pid=$(cat "$pid_file")
	kill -9 "$pid" || return
	echo "# kill $number: mapper $pid, $count allocations not committed"
	wait_for 30 successor "$pid_file" "$pid"
}

successor() { # PID-FILE OLD-PID
	local pid
	pid=$(cat "$1" 2>/dev/null)
	[ -n "$pid" ] && [ "$pid" != "$2" ] && xen-dmu-list --json 2>/dev/null | grep -q '"key"'
}

modprobe dm-userspace && make_vm_directory && make_chain /vm/disk.qcow $size || fail "prepare images"
# Commits come late, so that a kill meets many changes.
sed -i 's/^#* *commit-seconds.*//' /etc/xen/xen-dmu.conf
echo 'commit-seconds = 8' >>/etc/xen/xen-dmu.conf
check "create the guest" guest_create kill 'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow' || finish
id=$(guest_id kill)
device=dmu-$id-51712
pid_file=/run/xen-dmu/mapper-dom-$id.pid
guest_start kill "fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k \
	--size=${size}M --io_size=64M --norandommap --verify=crc32c --verify_backlog=512 --verify_fatal=1 --do_verify=1 \
	--randseed=$RANDOM --output=/tmp/fio.out; s=\$?; cat /tmp/fio.out; dmesg | grep -i 'error' ; exit \$s"
done=0
for ((number = 1; number <= kills; number++)); do
	if out=$(kill_once "$device" "$pid_file" $number); then
		done=$((done + 1))
	fi
	echo "$out"
done
check "the mapper was killed $done times with at least $least uncommitted allocations" [ $done -eq $kills ]
if guest_wait kill 400 >/tmp/guest.out 2>&1; then
	pass "the guest verified what it wrote over $done kills"
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
check "qemu-img reads the chain" qemu-img convert -f qcow -O raw /vm/disk.qcow /vm/raw
finish
