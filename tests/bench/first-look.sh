#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Instructions per mapped 4 KiB read and write: our target on a file, a loop
# device on the same kind of file, dm-linear over that. In the VM with --icount,
# where a nanosecond is an instruction:
#     tests/vm/run --kernel 6.12 --icount --timeout 900 -- tests/bench/first-look.sh
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

size=64 # MiB

measure() { # NAME DEVICE
	local depth rw iops line=$1
	for depth in 1 32; do
		for rw in randread randwrite; do
			iops=$(fio --name=m --filename="$2" --direct=1 --ioengine=libaio --iodepth=$depth --rw=$rw --bs=4k \
				--size=${size}M --number_ios=4000 --norandommap --randseed=1 --output-format=json |
				jq ".jobs[0].${rw#rand}.iops")
			line+=" $(awk "BEGIN {printf \"%d\", 1e9 / $iops}")"
		done
	done
	echo "$line" >>/tmp/table
}

modprobe -a loop dm-mod dm-userspace
modprobe null_blk nr_devices=1 gb=1 memory_backed=1 irqmode=2 completion_nsec=1 queue_mode=2
mke2fs -q -F -t ext4 /dev/nullb0 && mkdir -p /vm && mount /dev/nullb0 /vm || exit 1
for file in raw ours; do dd if=/dev/urandom of=/vm/$file bs=1M count=$size oflag=direct status=none; done
loop=$(losetup -f --show --direct-io=on /vm/raw)
dmsetup create linear --table "0 $((size * 2048)) linear $loop 0"
xen-dmu attach raw:/vm/ours --name ours || exit 1
echo "device read,1 write,1 read,32 write,32" >/tmp/table
measure file /vm/raw
measure loop "$loop"
measure linear-on-loop /dev/mapper/linear
measure ours-on-file /dev/mapper/ours
column -t /tmp/table
