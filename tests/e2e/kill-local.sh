#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Without Xen: kill -9 of the mapper under fio on /dev/mapper/k, ten times, each
# with at least a hundred allocations not yet committed; fio verifies. Then five
# times more with a top image of format qcow2, whose leases are taken by default;
# at last mappers that are restarted on purpose, by another program in the same place.
#
# vm: --kernel 6.1 --timeout 900
# vm-long: --kernel 6.12 --timeout 600
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/disks.sh"
# shellcheck source=tests/e2e/kills.sh
. "$(dirname "$0")/kills.sh"

try_format() { # FORMAT PATH KILLS [OPTIONS]
	local format=$1 path=$2 job
	kills=$3 done_kills=0
	check "$format: attach" xen-dmu attach "$format${4:-}:$path" --name k || finish
	# shellcheck disable=SC2046 # words
	fio $(fio_job /dev/mapper/k) --output=/tmp/fio.out &
	job=$!
	kill_often k /run/xen-dmu/mapper-name-k.pid
	if wait $job; then pass "$format: fio verified over $done_kills kills"; else
		fail "$format: fio verified what it wrote"
		tail -n 30 /tmp/fio.out
		tail -n 40 /var/log/xen/xen-dmu-*.log
	fi
	check "$format: detach" xen-dmu detach k
	check "$format: device and mapper are gone" wait_for 30 nothing_left
	check "$format: the image checks clean (leaks allowed)" \
		eval "xen-dmu check $format:$path; [ \$? -eq 0 -o \$? -eq 3 ]"
	check "$format: qemu-img reads the chain" qemu-img convert -f "$format" -O raw "$path" /vm/raw
}

modprobe -a loop dm-userspace && make_vm_directory && make_chain /vm/disk.qcow $size || fail "prepare images"
commit_late
cd /tmp || exit
try_format qcow /vm/disk.qcow 10 ';lease-ahead=yes'
check "a qcow2 image over the same chain" \
	qemu-img create -q -f qcow2 -b /vm/middle.qcow -F qcow /vm/disk.qcow2 "${size}M" || finish
try_format qcow2 /vm/disk.qcow2 5
check "qcow2: leaks of the kills can be given back" eval 'dmu-img check --repair leaks qcow2:/vm/disk.qcow2 &&
	qemu-img check -q -f qcow2 /vm/disk.qcow2'

# Its own supervisor has to start what lies there now.
program=/usr/libexec/xen-dmu/xen-dmu-mapper
upgrade() { cp -p $program $program.old && cp -p $program $program.new && mv $program.new $program; }
is_new() { [ "$(readlink "/proc/$(cat /run/xen-dmu/mapper-name-k.pid)/exe")" = $program ]; }
check "restart: attach" xen-dmu attach qcow2:/vm/disk.qcow2 --name k || finish
# shellcheck disable=SC2046 # words
fio $(fio_job /dev/mapper/k) --time_based --runtime=60 --output=/tmp/fio.out &
job=$!
check "restart: another program in its place" upgrade
check "restart: under fio, again and again" restart_often /run/xen-dmu/mapper-name-k.pid $job
check "restart: it is the new program" is_new
if wait $job; then pass "restart: fio verified"; else fail "restart: fio verified" && tail -n 30 /tmp/fio.out; fi
check "restart: detach" xen-dmu detach k
check "restart: device and mapper are gone" wait_for 30 nothing_left
check "restart: qemu finds nothing wrong" eval "qemu-img check -q -f qcow2 /vm/disk.qcow2; [ \$? -eq 0 -o \$? -eq 3 ]"

told() {
	qemu-img create -q -f qcow2 /vm/new.qcow2 16M && xen-dmu attach qcow2:/vm/new.qcow2 --name k &&
		dd if=/dev/urandom of=/dev/mapper/k bs=64k count=9 oflag=direct conv=fsync,notrunc status=none &&
		xen-dmu-list --json | jq -e '.disks[0] | .miss_us.p50 > 0 and .miss_us.p50 <= .miss_us.p99 and .commit_us.p90 > 0' &&
		xen-dmu detach k
}
check "how long misses and commits took is told" told
cat /var/log/xen/asan* 2>/dev/null
finish
