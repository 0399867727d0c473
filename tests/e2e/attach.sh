#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The ways to attach and to detach, in a real Xen: xl's and xm's spellings, while
# a guest runs, by force, under I/O, over a reboot; several disks and domains;
# chains, raw, read-only, a shared base. qemu-img judges the images. Runs in dom0.
#
# vm: --kernel xen --timeout 900

# Functions are called through "check" and "wait_for", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

new() { qemu-img create -q -f qcow "$@"; }

prepare() {
	make_store /vm 1G && modprobe dm-userspace || return
	new /vm/disk.qcow 32M && new /vm/disk2.qcow 32M && new /vm/hot.qcow 32M &&
		new /vm/force.qcow 32M && new /vm/busy.qcow 64M || return
	# A chain of three, each layer with data of its own over the one below. qemu syncs
	# after each cluster of 512 bytes: not here.
	head -c 2M /dev/urandom >/var/tmp/noise
	new /vm/base.qcow 16M && qemu-io -t unsafe -f qcow -c 'write -q -s /var/tmp/noise 0 2M' /vm/base.qcow &&
		new -b base.qcow -F qcow /vm/middle.qcow 16M &&
		qemu-io -t unsafe -f qcow -c 'write -q -s /var/tmp/noise 1M 256k' -c 'write -q -P 7 8M 64k' /vm/middle.qcow &&
		new -b middle.qcow -F qcow /vm/top.qcow 16M &&
		qemu-io -t unsafe -f qcow -c 'write -q -P 9 2560k 512' -c 'write -q -P 11 12M 100k' /vm/top.qcow || return
	new -b base.qcow -F qcow /vm/first.qcow 16M && new -b base.qcow -F qcow /vm/second.qcow 16M || return
	cp /var/tmp/noise /vm/plain.raw && truncate -s 8M /vm/plain.raw
	cp /vm/top.qcow /vm/shown.qcow
}

outside_sum() { # FORMAT FILE
	qemu-img convert -f "$1" -O raw "$2" /var/tmp/outside.raw || return
	sha256sum </var/tmp/outside.raw
	rm -f /var/tmp/outside.raw
}
guest_sum() { # GUEST VDEV
	guest_run "$1" "dd if=/dev/$2 bs=256k iflag=direct status=none | sha256sum" 120
}

# Blocks, and single sectors between them that part clusters and pages.
guest_fill() { # GUEST VDEV
	guest_run "$1" "set -e
		dd if=/dev/urandom of=/dev/$2 bs=64k count=24 seek=8 oflag=direct conv=notrunc,fsync status=none
		for at in 1001 2047 4099 9000; do
			dd if=/dev/urandom of=/dev/$2 bs=512 count=3 seek=\$at oflag=direct conv=notrunc,fsync status=none
		done" 120
}

no_device() { ! devices | grep -qx "$1"; } # DEVICE
device_of() { echo "dmu-$(guest_id "$1")-$(devid "$2")"; } # GUEST VDEV

# In a file: "check" runs what it checks in a subshell.
sum_of() { cat "/var/tmp/sum.$1.$2" 2>/dev/null; } # GUEST VDEV
work() { # GUEST VDEV: writes, and remembers what the guest then reads
	rm -f "/var/tmp/sum.$1.$2"
	guest_fill "$1" "$2" && guest_sum "$1" "$2" >"/var/tmp/sum.$1.$2" && [ -n "$(sum_of "$1" "$2")" ]
}

# After a disk is gone: a reader that shares no code with us sees what the guest saw.
judge() { # NAME FORMAT FILE SUM
	local outside
	outside=$(outside_sum "$2" "$3")
	check "$1: qemu-img reads what the guest read" [ -n "$4" -a "$outside" = "$4" ]
	[ "$2" = raw ] || check "$1: the image is clean" xen-dmu check "$2:$3"
}

attach() { xl block-attach "$1" "$(spec "$2" "$3" "$4")"; } # GUEST VDEV MODE SPEC
detach() { # GUEST VDEV
	local device
	device=$(device_of "$1" "$2")
	xl block-detach "$1" "$2" && wait_for 20 no_device "$device"
}

check 'prepare images' prepare || finish
chain_sum=$(outside_sum qcow /vm/top.qcow)
base_sum=$(sha256sum </vm/base.qcow)

# --- two domains, xl's two spellings -------------------------------------------
check 'xl create, vdev=...,target=' guest_create a 'vdev=xvda,access=w,script=block-dmu,target=qcow:/vm/disk.qcow' ||
	{ show_logs; finish; }
check 'xl create, dmu:...,script=block-dmu' guest_create b 'dmu:qcow:/vm/disk2.qcow,,xvda,w,script=block-dmu' ||
	{ show_logs; finish; }
check 'the first guest writes and reads' work a xvda
check 'the second guest writes and reads' work b xvda
pids() { xen-dmu-list --json | jq -r '.. | objects | select(has("mapper_pid")) | .mapper_pid' | sort -u | wc -l; }
check 'two domains, two mappers' [ "$(pids)" -eq 2 ]

# --- a second disk in a running guest --------------------------------------------
check 'xm block-attach' xm block-attach a dmu:qcow:/vm/hot.qcow xvdb w || show_logs
check 'the guest uses it' work a xvdb
lists() { xm block-list a | tee /dev/stderr | grep -q "^$(devid xvdb) .*w dmu:qcow:/vm/hot.qcow"; }
check 'xm block-list shows it' lists
check 'two disks of one domain, one mapper' [ "$(pids)" -eq 2 ]
check 'xm block-detach' xm block-detach a xvdb
check 'the device is gone' wait_for 20 no_device "$(device_of a xvdb)"
judge 'after block-detach' qcow /vm/hot.qcow "$(sum_of a xvdb)"

# --- detach by force: the toolstack runs no script then ---------------------------
check 'attach, to be detached by force' attach a xvdb w qcow:/vm/force.qcow
check 'the guest writes' work a xvdb
force() { xl block-detach -f a xvdb || xl block-detach --force a xvdb; }
check 'xl block-detach -f' force
check 'the device goes by itself' wait_for 30 no_device "$(device_of a xvdb)" || show_logs
judge 'after block-detach -f' qcow /vm/force.qcow "$(sum_of a xvdb)"

# --- a chain of three ----------------------------------------------------------------
check 'attach a chain of three' attach a xvdc w qcow:/vm/top.qcow || show_logs
check 'the guest reads the chain' [ "$(guest_sum a xvdc)" = "$chain_sum" ]
check 'the guest writes over it' work a xvdc
check 'detach the chain' detach a xvdc
judge 'chain' qcow /vm/top.qcow "$(sum_of a xvdc)"
check 'the base is untouched' [ "$(sha256sum </vm/base.qcow)" = "$base_sum" ]

# --- raw -------------------------------------------------------------------------------
check 'attach a raw image' attach a xvdd w raw:/vm/plain.raw || show_logs
check 'the guest writes to it' work a xvdd
check 'detach raw' detach a xvdd
judge 'raw' raw /vm/plain.raw "$(sum_of a xvdd)"

# --- read-only -----------------------------------------------------------------------------
before=$(sha256sum </vm/shown.qcow)
check 'attach read-only' attach a xvde r qcow:/vm/shown.qcow || show_logs
check 'the device is read-only' [ "$(blockdev --getro "/dev/mapper/$(device_of a xvde)")" = 1 ]
check 'the same read-only in the other guest' attach b xvde r qcow:/vm/shown.qcow
check 'the guest reads it' [ "$(guest_sum a xvde)" = "$chain_sum" ]
guest_run a 'dd if=/dev/zero of=/dev/xvde bs=4k count=1 oflag=direct conv=notrunc,fsync' 30 >/dev/null 2>&1
check 'the guest cannot write' [ $? -ne 0 ]
check 'detach read-only' detach a xvde
check 'detach the other' detach b xvde
check 'the file is untouched' [ "$(sha256sum </vm/shown.qcow)" = "$before" ]

# --- one base under two overlays ---------------------------------------------------------------
check 'first overlay' attach a xvdf w qcow:/vm/first.qcow || show_logs
check 'second overlay' attach b xvdf w qcow:/vm/second.qcow || show_logs
check 'the first guest writes to its own' work a xvdf
check 'the second guest writes to its own' work b xvdf
check 'the first still sees its own' [ "$(guest_sum a xvdf)" = "$(sum_of a xvdf)" ]
check 'detach the first' detach a xvdf
check 'detach the second' detach b xvdf
judge 'first overlay' qcow /vm/first.qcow "$(sum_of a xvdf)"
judge 'second overlay' qcow /vm/second.qcow "$(sum_of b xvdf)"
check 'the base is still untouched' [ "$(sha256sum </vm/base.qcow)" = "$base_sum" ]

# --- reboot ---------------------------------------------------------------------------------------
old=$(guest_id a)
guest_start a 'sync; reboot -f'
rebooted() { local id; id=$(guest_id a) && [ "$id" != "$old" ]; }
check 'the guest reboots' wait_for 60 rebooted
check 'it starts again' guest_attach a || show_logs
check 'its disk has what it had' [ "$(guest_sum a xvda)" = "$(sum_of a xvda)" ]
check 'the disk is writable' guest_fill a xvda
check 'no mapper of the old domain' wait_for 15 no_mapper_of "dom-$old"
guest_sum a xvda >/var/tmp/sum.a.xvda

# --- destroyed while it writes ------------------------------------------------------------------------
check 'a disk to be torn away' attach b xvdb w qcow:/vm/busy.qcow
guest_start b 'fio --name=busy --filename=/dev/xvdb --rw=randwrite --bs=4k --size=48M --ioengine=libaio \
	--iodepth=16 --direct=1 --time_based --runtime=120'
allocating() { [ "$(stat -c %s /vm/busy.qcow)" -gt 500000 ]; }
check 'it is written to' wait_for 60 allocating
check 'xl destroy under I/O' guest_destroy b
none_of_b() { [ "$(devices | wc -l)" -eq 1 ]; }
check 'its devices are gone' wait_for 40 none_of_b || { dmsetup ls; show_logs; }
check 'the torn image is clean' xen-dmu check qcow:/vm/busy.qcow
check 'qemu-img reads the torn image' outside_sum qcow /vm/busy.qcow
judge 'the other disk of the destroyed guest' qcow /vm/disk2.qcow "$(sum_of b xvda)"

check 'stop the other guest' guest_stop a
check_clean 'nothing is left'
judge 'after reboot and shutdown' qcow /vm/disk.qcow "$(sum_of a xvda)"
check 'no backend is left in xenstore' [ -z "$(xenstore-list /local/domain/0/backend/vbd 2>/dev/null)" ]
check 'the module can be removed' modprobe -r dm-userspace
finish
