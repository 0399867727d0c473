#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs in dom0 (tests/bench/run starts it): one guest that has a disk of each kind. By
# turns, in rounds: requests of 4 KiB at random, where all has been written. A line "CASE
# DEVICE MICROSECONDS" for each median goes to /out/figures.
#
# Below are null_blk devices in memory: nullb0 with a file system, nullb1 and nullb2 bare.
set -u

# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

rounds=${1:-5}
seconds=3
size=64 # MiB

# Name, and what the guest's configuration says of it.
disks=(
	"phy format=raw,access=w,backendtype=phy,target=/dev/nullb1"
	"ours-qcow2-block access=w,script=block-dmu,target=qcow2:/dev/nullb2"
	"ours-qcow2 access=w,script=block-dmu,target=qcow2:/vm/ours.qcow2"
	"loop format=raw,access=w,backendtype=phy,target=/vm/raw"
	"qdisk-raw format=raw,access=w,backendtype=qdisk,target=/vm/qdisk.raw"
	"qdisk-qcow2 format=qcow2,access=w,backendtype=qdisk,target=/vm/qdisk.qcow2"
)

prepare() {
	modprobe null_blk nr_devices=3 gb=1 memory_backed=1 irqmode=2 completion_nsec=1 queue_mode=2 &&
		modprobe -a loop dm-userspace && mkdir -p /vm && mke2fs -q -F -t ext4 /dev/nullb0 && mount /dev/nullb0 /vm &&
		fallocate -l ${size}M /vm/raw && fallocate -l ${size}M /vm/qdisk.raw &&
		qemu-img create -q -f qcow2 /vm/qdisk.qcow2 ${size}M && qemu-img create -q -f qcow2 /vm/ours.qcow2 ${size}M &&
		qemu-img create -q -f qcow2 /dev/nullb2 ${size}M
}

start_guest() {
	local disk letter=a specs=()
	for disk in "${disks[@]}"; do
		specs+=("vdev=xvd$letter,${disk#* }")
		letter=$(tr a-y b-z <<<$letter)
	done
	guest_create bench "${specs[@]}" || return
	# Who waits for a processor that another one has waits for the end of its turn, up to 30 ms.
	xl vcpu-pin Domain-0 all 0 && xl vcpu-pin bench all 1
}

# All is written once, what the guest prints then: "LETTER read|write DEPTH IOPS".
fill="for d in /dev/xvd[a-f]; do dd if=/dev/zero of=\$d bs=1M count=$size oflag=direct 2>/dev/null || exit 1; done"
round="for depth in 1 32; do for rw in read write; do for d in a b c d e f; do
	fio --name=m --filename=/dev/xvd\$d --direct=1 --ioengine=libaio --rw=rand\$rw --bs=4k --iodepth=\$depth \
		--size=${size}M --time_based --runtime=$seconds --minimal --randseed=\$RANDOM | tail -n 1 |
		awk -F ';' -v what=\"\$d \$rw \$depth\" '{ print \"figure\", what, \$8 + \$49 }'
done; done; done"

medians() { # FILE: lines "figure LETTER read|write DEPTH IOPS"
	awk -v names="$(printf '%s ' "${disks[@]%% *}")" '
		BEGIN { split(names, name, " ") }
		$1 == "figure" && $5 > 0 { n[$2 " " $3 " " $4]++; value[$2 " " $3 " " $4, n[$2 " " $3 " " $4]] = 1e6 / $5 }
		END {
			for (key in n) {
				count = n[key]
				for (i = 1; i <= count; i++) for (j = i + 1; j <= count; j++)
					if (value[key, j] < value[key, i]) { t = value[key, i]; value[key, i] = value[key, j]; value[key, j] = t }
				split(key, k, " ")
				printf "guest-%s-%s %s %d\n", k[2], k[3], name[index("abcdef", k[1])], value[key, int((count + 1) / 2)]
			}
		}' "$1" | sort
}

prepare || { echo "# trouble: devices and images" && exit 1; }
start_guest || { echo "# trouble: the guest" && exit 1; }
guest_run bench "$fill" 600 || { echo "# trouble: the disks are not filled" && exit 1; }
for ((i = 0; i < rounds; i++)); do
	guest_run bench "$round" 900 | tr -d '\r' >>/tmp/rounds || { echo "# trouble: round $i" && exit 1; }
	echo "# round $((i + 1)) of $rounds"
done
medians /tmp/rounds >/out/figures
guest_stop bench
[ "$(wc -l </out/figures)" -eq $((${#disks[@]} * 4)) ]
