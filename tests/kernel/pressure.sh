#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory is short, in a small VM: more is written through the page cache than there is
# memory, all of it first writes, while another process holds a part; then with a limit
# on the mapper's own. Everything ends, nobody is killed, and the data is right.
#
# vm-long: --kernel 6.1 --mem 512 --timeout 900
# vm-long: --kernel 6.12 --mem 512 --timeout 900
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/disks.sh
. "$(dirname "$0")/../e2e/disks.sh"

group=/sys/fs/cgroup/mapper
files=6 size=96 # MiB each: more than the memory

mapper() { cat /run/xen-dmu/mapper-name-p.pid; }
left() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }

# Half of what is left, until it is killed.
hold() {
	head -c "$(($(left) / 2))M" /dev/zero | tail -c +1 | (sleep 1; tail) >/dev/null &
	holder=$!
}

stream() { # NAME: always the same
	local part
	for ((part = 0; part < size / 4; part++)); do echo "$1 $part" && cat /vm/pattern; done
}

write_all() { # NAME: with other names than before
	local i
	for ((i = 0; i < files; i++)); do stream "$1$i" >"/mnt/p/$1$i" || return; done
	sync /mnt/p/"$1"*
}

all_right() { # NAME
	local i
	echo 3 >/proc/sys/vm/drop_caches
	for ((i = 0; i < files; i++)); do stream "$1$i" | cmp - "/mnt/p/$1$i" || return; done
}

limit_mapper() {
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup || return
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control
	mkdir -p $group && mapper >$group/cgroup.procs && echo 512K >$group/memory.high && echo 8M >$group/memory.max
}

same_mapper() { [ "$(mapper)" = "$first" ] && kill -0 "$first"; }
nobody_killed() { ! dmesg | grep -i 'out of memory\|oom-kill\|blocked for more than'; }

begin() {
	modprobe -a dm-mod loop dm-userspace && make_vm_directory 3G && head -c 4M /dev/urandom >/vm/pattern &&
		qemu-img create -q -f qcow2 /vm/p.qcow2 2G && xen-dmu attach qcow2:/vm/p.qcow2 --name p &&
		mkfs.ext4 -q /dev/mapper/p && mkdir -p /mnt/p && mount /dev/mapper/p /mnt/p
}

check "a disk" begin || finish
first=$(mapper)
echo "# $(left) MiB of memory are left, the mapper has $(awk '/^VmRSS/ { print $2 }' "/proc/$first/status") kB"
hold
check "more is written than there is memory" write_all a
kill $holder 2>/dev/null
check "and all of it is there" all_right a
rm -f /mnt/p/a*
check "a limit on the mapper" limit_mapper
check "it is written once more" write_all b
check "and is there" all_right b
echo "# $(cat $group/memory.current) bytes charged to the mapper since, $(awk '/^high/ { print $2 }' $group/memory.events) times over"
check "by the same mapper" same_mapper
check "nobody was killed, nothing hung" nobody_killed
check "unmount" umount /mnt/p
check "detach" xen-dmu detach p
check "the image is good" qemu-img check -q -f qcow2 /vm/p.qcow2
finish
