# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the benchmark measures, made and taken down; in the VM, below /vm and on the
# null_blk devices that cases.sh has made; "trouble" is its.

mapper=${DMU_TEST_MAPPER:-/src/build/release/tests/dmu-test-mapper}
size=128 # MiB, of what first writes and small requests go to

written_file() { # NAME: no holes, nothing unwritten
	dd if=/dev/urandom of="/vm/$1" bs=1M count=$size oflag=direct status=none
}

reserved_file() { # NAME
	fallocate -l ${size}M "/vm/$1"
}

loop_on() { # NAME: sets $loop
	loop=$(losetup -f --show --direct-io=on "/vm/$1")
	[ "$(cat "/sys/block/${loop#/dev/}/loop/dio")" = 1 ] || trouble "no direct I/O on $loop"
}

nbd_on() { # ARGUMENT...
	qemu-nbd -c /dev/nbd0 --cache=none --aio=native "$@" 2>/dev/null || trouble "qemu-nbd $*"
	local i
	for ((i = 0; i < 100 && $(blockdev --getsz /dev/nbd0) == 0; i++)); do sleep 0.05; done
}

end_nbd() {
	qemu-nbd -d /dev/nbd0 >/dev/null
	sleep 0.2
}

thin_on_bare() { # a pool on nullb1, its metadata on nullb2
	dd if=/dev/zero of=/dev/nullb2 bs=4k count=1 oflag=direct status=none
	dmsetup create pool --table "0 $((size * 4096)) thin-pool /dev/nullb2 /dev/nullb1 128 0" && udevadm settle &&
		dmsetup message pool 0 "create_thin 0" &&
		dmsetup create thin --table "0 $((size * 2048)) thin /dev/mapper/pool 0" || trouble thin
}

end_thin() {
	dmsetup remove thin
	dmsetup remove pool
}

# Ours with the tests' small mapper on a bare device.
start_ours() { # SECTORS GRAIN ARGUMENT...
	local sectors=$1 grain=$2
	shift 2
	rm -f /tmp/table
	"$mapper" --key bench --sectors "$sectors" --grain "$grain" --table /tmp/table "$@" >/tmp/mapper.out &
	mapper_pid=$!
	until grep -q serving /tmp/mapper.out; do sleep 0.05; done
	dmsetup create ours --table "0 $sectors userspace bench 2 grain $grain" || trouble ours
}

end_ours() {
	dmsetup remove --retry ours
	kill $mapper_pid
	wait $mapper_pid 2>/dev/null
}

attach() { # SPEC: /dev/mapper/ours; sets $mapper_pid
	grep -q '^lease-ahead' /etc/xen/xen-dmu.conf || echo 'lease-ahead = yes' >>/etc/xen/xen-dmu.conf
	xen-dmu attach "$1" --name ours >/dev/null || trouble "attach $1"
	mapper_pid=$(cat /run/xen-dmu/mapper-name-ours.pid)
}

detach() {
	xen-dmu detach ours >/dev/null || trouble detach
	local i
	for ((i = 0; i < 100; i++)); do [ -e /dev/mapper/ours ] || break; sleep 0.1; done
}

# A file by FUSE: without a client of nbd's own there is nothing else of it on one machine.
daemon_on() { # FILE: $daemon
	local i
	[ -e /dev/fuse ] || modprobe fuse || { echo "# there is no FUSE" && return 1; }
	: >/run/daemon.raw
	qemu-storage-daemon --blockdev driver=file,node-name=file,filename="$1",cache.direct=on,aio=native,discard=unmap \
		--blockdev driver=qcow2,node-name=disk,file=file \
		--export type=fuse,id=disk,node-name=disk,mountpoint=/run/daemon.raw,writable=on &
	# Ended by who wanted it.
	# shellcheck disable=SC2034
	daemon=$!
	for ((i = 0; i < 100; i++)); do
		[ "$(stat -c %s /run/daemon.raw)" -eq 0 ] || return 0
		sleep 0.1
	done
	trouble "qemu-storage-daemon" && return 1
}
