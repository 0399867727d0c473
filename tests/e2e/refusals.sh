#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Disks that can't be attached: xl's own output tells the cause, nothing is left
# behind, and the guest does not mind. Runs in dom0.
#
# vm: --kernel xen --timeout 900

# Functions are called through "check" and "wait_for", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

vm=/vm/a
mapper=/usr/libexec/xen-dmu/xen-dmu-mapper

prepare() {
	make_store /vm 512M && modprobe dm-userspace && mkdir -p $vm || return
	qemu-img create -q -f qcow $vm/good.qcow 64M &&
		qemu-img create -q -f qcow $vm/held.qcow 64M &&
		qemu-img create -q -f qcow --object secret,id=key,data=secret \
			-o encrypt.format=aes,encrypt.key-secret=key $vm/encrypted.qcow 16M || return
	truncate -s 16M $vm/plain.raw
	# The number of bits of a cluster: 7.
	cp $vm/good.qcow $vm/corrupt.qcow
	printf '\007' | dd of=$vm/corrupt.qcow bs=1 seek=32 conv=notrunc status=none
	qemu-img create -q -f qcow $vm/base.qcow 16M
	qemu-img create -q -f qcow -b base.qcow -F qcow $vm/orphan.qcow 16M
	rm $vm/base.qcow
	qemu-img create -q -f qcow /etc/secret.qcow 16M
	qemu-img create -q -f qcow -b /etc/secret.qcow -F qcow $vm/reaching.qcow 16M
	ln -s /etc/secret.qcow $vm/link.qcow
	qemu-img create -q -f qcow -b link.qcow -F qcow $vm/linked.qcow 16M
}

# The device nodes stay until the administrator detaches, as with any script of Xen.
no_nodes() { ! xenstore-exists "$(backend_path "$1" "$2")"; } # GUEST VDEV

# After a refusal: nothing of this disk; what is attached elsewhere may stay.
nothing_left() { # GUEST VDEV
	local id device
	id=$(guest_id "$1")
	device=dmu-$id-$(devid "$2")
	xl block-detach "$1" "$2" >/dev/null 2>&1
	wait_for 20 no_nodes "$1" "$2" || { echo "xenstore: $(xenstore-ls "$(backend_path "$1" "$2")")"; return 1; }
	! devices | grep -qx "$device" || { echo "device $device"; return 1; }
	if devices | grep -q "^dmu-$id-"; then
		return 0 # the mapper has other disks
	fi
	wait_for 20 no_mapper_of "dom-$id" || { echo "a mapper of dom-$id"; return 1; }
	if ls /run/xen-dmu/*"dom-$id".* 2>/dev/null; then return 1; fi
}

unlocked() { # FORMAT FILE
	qemu-img info -f "$1" "$2" >/dev/null
}

refuse() { # NAME GUEST VDEV FORMAT:PATH PATTERN
	local output status left
	output=$(xl block-attach "$2" "$(spec "$3" w "$4")" 2>&1)
	status=$?
	left=$(nothing_left "$2" "$3" 2>&1) && left=''
	if [ $status -eq 0 ]; then
		fail "$1: xl attached it"
	elif ! grep -q -- "$5" <<<"$output"; then
		fail "$1: xl does not name the cause ($5)"
		printf '%s\n' "$output" | sed 's/^/  /'
	elif [ -n "$left" ]; then
		fail "$1: left behind: $left"
	else
		pass "$1: $(grep -o -m1 -- "[^:]*$5.*" <<<"$output" | cut -c 1-150)"
		return
	fi
	show_logs
}

check 'prepare images' prepare || finish
check 'a guest without disks' guest_create one || finish
one=$(guest_id one)

refuse 'file missing' one xvdb qcow:$vm/nowhere.qcow "nowhere.qcow.*No such file"
check 'no file was made' [ ! -e $vm/nowhere.qcow ]
refuse 'unknown format' one xvdb qcow9:$vm/good.qcow "no format 'qcow9'"
check 'no lock after an unknown format' unlocked qcow $vm/good.qcow
refuse 'a raw file as qcow' one xvdb qcow:$vm/plain.raw "not a qcow image"
check 'no lock after a wrong format' unlocked raw $vm/plain.raw
refuse 'header corrupt' one xvdb qcow:$vm/corrupt.qcow "cluster_bits is 7"
check 'no lock after a corrupt header' [ "$(lsof -t $vm/corrupt.qcow 2>/dev/null)" = '' ]
refuse 'backing file missing' one xvdb qcow:$vm/orphan.qcow "base.qcow.*No such file"
refuse 'backing file outside what is allowed' one xvdb qcow:$vm/reaching.qcow "/etc/secret.qcow.*outside of what is allowed"
refuse 'a symbolic link as a backing file' one xvdb qcow:$vm/linked.qcow "link.qcow.*symbolic link"
check 'no lock after a refused backing file' unlocked qcow /etc/secret.qcow
refuse 'encrypted image' one xvdb qcow:$vm/encrypted.qcow "encrypted; name the file that holds its key"
refuse 'no format at all' one xvdb $vm/good.qcow "names no format"
refuse 'relative path' one xvdb qcow:good.qcow "relative path"

mv $mapper $mapper.away
refuse 'mapper program missing' one xvdb qcow:$vm/good.qcow "$mapper is missing"
mv $mapper.away $mapper
check_clean 'nothing is left of refused disks'

check 'unload the module' modprobe -r dm-userspace
refuse 'module not loaded' one xvdb qcow:$vm/good.qcow "modprobe dm-userspace"
check 'load the module again' modprobe dm-userspace

# xl create destroys the domain that it can't give its disk.
create_refused() {
	local output
	if output=$(guest_create two "$(spec xvda w qcow:$vm/nowhere.qcow)" 2>&1); then
		echo "xl created it"
		return 1
	fi
	grep -q "nowhere.qcow.*No such file" <<<"$output" || { echo "$output"; return 1; }
	guest_gone two && [ -z "$(xenstore-list /local/domain/0/backend/vbd 2>/dev/null | grep -vx "$one")" ]
}
check 'xl create with a missing file' create_refused
check_clean 'nothing is left of the domain that was not created'

attach_good() { xl block-attach one "$(spec xvdb w qcow:$vm/good.qcow)"; }
check 'after all that a good image attaches' attach_good || show_logs
check 'the guest uses it' guest_run one \
	'dd if=/dev/zero of=/dev/xvdb bs=64k count=16 oflag=direct conv=fsync && blockdev --getsize64 /dev/xvdb' 60

held_by_guest() { ! qemu-img info -f qcow $vm/good.qcow; }
check 'qemu-img is refused an attached image' held_by_guest
refuse 'attached by the same guest' one xvdc qcow:$vm/good.qcow "in use\|attached already"
ln $vm/good.qcow $vm/other-name.qcow
refuse 'the same file by another name' one xvdc qcow:$vm/other-name.qcow "in use\|attached already"
check 'a second guest' guest_create two || finish
refuse 'attached by another guest' two xvdb qcow:$vm/good.qcow "good.qcow is in use"
qemu-img create -q -u -f qcow -b good.qcow -F qcow $vm/over.qcow 64M
refuse 'a backing file that a guest writes' two xvdb qcow:$vm/over.qcow "good.qcow is in use"
check 'the holder can still write' guest_run one \
	'dd if=/dev/zero of=/dev/xvdb bs=64k seek=32 count=16 oflag=direct conv=fsync' 60
check 'detach the good image' xl block-detach one xvdb
check_clean 'nothing is left after the detach'
check 'the image is free' unlocked qcow $vm/good.qcow
check 'the image is clean' xen-dmu check qcow:$vm/good.qcow

check 'xen-dmu attach' xen-dmu attach qcow:$vm/held.qcow --name held
refuse 'attached by xen-dmu attach' two xvdb qcow:$vm/held.qcow "held.qcow is in use"
check 'xen-dmu detach' xen-dmu detach held
attach_two() { xl block-attach two "$(spec xvdb w qcow:$vm/held.qcow)"; }
check 'then the guest gets it' attach_two
attach_held() {
	local output
	output=$(xen-dmu attach qcow:$vm/held.qcow --name held 2>&1) && { echo attached; return 1; }
	grep -q 'is in use' <<<"$output"
}
check 'and xen-dmu attach does not' attach_held
check 'detach it' xl block-detach two xvdb

alive() { # GUEST
	local text
	text=$(guest_run "$1" 'echo alive' 60)
	[ "$text" = alive ] || { echo "it said '$text'; its console:"; tail -n 5 "$(guest_path "$1" .console)"; return 1; }
}
check 'the first guest is unharmed' alive one
check 'the second guest is unharmed' alive two
check 'stop the first guest' guest_stop one
check 'stop the second guest' guest_stop two
check_clean 'nothing is left at the end'
check 'no backend is left in xenstore' [ -z "$(xenstore-list /local/domain/0/backend/vbd 2>/dev/null)" ]
check 'the module can be removed' modprobe -r dm-userspace
finish
