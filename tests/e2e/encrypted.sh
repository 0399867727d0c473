#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Encrypted images under a file system of this kernel, by dm-crypt: what is
# written is read back by qemu-img with the key, plain text is never on disk, no
# key is ever to be seen, and a mapper that is killed loses nothing.
#
# vm: --kernel 6.1 --timeout 1200
# vm-long: --kernel 6.12 --timeout 1200
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

size=96M
key=/etc/xen/keys/web
passphrase=correct-horse-battery
pattern=PLAINTEXT-of-the-guest
kinds=${*:-luks aes qcow-aes luks-over-aes aes-over-raw}
# Of 2 MiB: a grain is more than what is encrypted or filled at a time.
more_kinds='luks-over-luks aes-snapshot luks-data-file luks-2m aes-2m aes-2m-over-raw'

# --- images ----------------------------------------------------------------------------
secret="secret,id=s,file=$key"
luks=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
aes=encrypt.format=aes,encrypt.key-secret=s

make_base() { # FORMAT OPTIONS: what lies below, with something in it
	qemu-img convert -q --object "$secret" -O "$1" -o "$2" /var/tmp/base.raw /vm/base.img
}
make_over() { # OPTIONS BASE-FORMAT
	qemu-img create -q -f qcow2 --object "$secret" -o "$1" -u -b base.img -F "$2" /vm/i.img $size
}

opened() { # how qemu opens it with the key
	echo "driver=$format,file.driver=file,file.filename=/vm/i.img$(printf ',%s' "${reads[@]}")"
}

# Makes /vm/i.img; sets $spec, and for qemu $format and $reads.
make_image() { # KIND
	local below=''
	format=qcow2 reads=(encrypt.key-secret=s)
	case $1 in
	luks) qemu-img create -q -f qcow2 --object "$secret" -o $luks /vm/i.img $size ;;
	aes) qemu-img create -q -f qcow2 --object "$secret" -o $aes /vm/i.img $size ;;
	qcow-aes) format=qcow && qemu-img create -q -f qcow --object "$secret" -o $aes /vm/i.img $size ;;
	luks-2m) qemu-img create -q -f qcow2 --object "$secret" -o "$luks,cluster_size=2M" /vm/i.img $size ;;
	aes-2m) qemu-img create -q -f qcow2 --object "$secret" -o "$aes,cluster_size=2M" /vm/i.img $size ;;
	aes-2m-over-raw) make_base raw size=$size && make_over "$aes,cluster_size=2M" raw ;;
	luks-over-luks) below=';backing-key-file='$key && make_base qcow2 $luks && make_over $luks qcow2 ;;
	luks-over-aes) below=';backing-key-file='$key && make_base qcow2 $aes && make_over $luks qcow2 ;;
	aes-snapshot) make_base qcow2 $aes && mv /vm/base.img /vm/i.img &&
		qemu-img snapshot --object "$secret" --image-opts "$(opened)" -c before ;;
	luks-data-file) qemu-img create -q -f qcow2 --object "$secret" -o "$luks,data_file=/vm/data.img" /vm/i.img $size ;;
	aes-over-raw) make_base raw size=$size && make_over $aes raw ;;
	esac || return
	case $1 in
	*-over-luks | *-over-aes) reads+=(backing.encrypt.key-secret=s) ;;
	esac
	spec="$format;key-file=$key$below:/vm/i.img"
}

# What the judge reads with the key.
outside() { # FILE
	qemu-img convert --object "$secret" --image-opts "$(opened)" -O raw "$1"
}

# --- use -------------------------------------------------------------------------------
fio_verify() { # DEVICE OPTION...
	local device=$1
	shift
	fio --name=v --filename="$device" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bsrange=512-64k \
		--blockalign=512 --verify=crc32c --verify_fatal=1 --fsync=40 --do_verify=1 --verify_state_save=0 \
		--output=/tmp/fio.out "$@" || { cat /tmp/fio.out && return 1; }
}

use() { # DEVICE
	mke2fs -q -F -t ext4 "$1" 48M && mkdir -p /mnt/d && mount "$1" /mnt/d || return
	for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/d/f$i bs=96k count=$i status=none || return; done
	yes "$pattern" | head -c 1M >/mnt/d/plain
	(cd /mnt/d && sha256sum f* plain >SUMS) && sync && umount /mnt/d || return
	# Parts of grains, and a request over many of them.
	fio_verify "$1" --offset=64M --size=16M --io_size=3M &&
		dd if=/mnt/big of="$1" bs=3M count=1 seek=27 oflag=direct conv=fsync status=none
}

# Nothing of key or passphrase where others look.
no_secret() {
	# The pattern comes from a file: grep has a command line, too.
	! { dmsetup table; cat /proc/[0-9]*/cmdline; dmesg; find /run/xen-dmu /var/log/xen -type f -exec cat {} +; } 2>&1 |
		grep -a -F -f $key || return
	dmsetup table --target crypt | grep -q ':logon:dmu:' || { dmsetup table && return 1; }
	! dmsetup table --target crypt --showkeys | grep -E ' [0-9a-f]{32,} '
}
no_plain_text() { ! grep -a -q "$pattern" /vm/*.img; }

judge() { # KIND
	[ "$format" = qcow ] ||
		check "$1: qemu-img check" qemu-img check -q --object "$secret" --image-opts "$(opened)"
	check "$1: qemu-img reads it" outside /var/tmp/outside.raw || return
	check "$1: what qemu-img reads is what the device had" cmp /var/tmp/outside.raw /var/tmp/inside.raw
	check "$1: e2fsck finds nothing" e2fsck -fn /var/tmp/outside.raw
	mkdir -p /mnt/check && mount -o loop,ro,noload /var/tmp/outside.raw /mnt/check || { fail "$1: mount" && return; }
	check "$1: the files are those that were written" env -C /mnt/check sha256sum --quiet -c SUMS
	umount /mnt/check
	[ "$1" != aes-snapshot ] || check "$1: the snapshot is what it was" snapshot_kept
}
snapshot_kept() {
	qemu-img convert --object "$secret" --image-opts "$(opened)" -l snapshot.name=before -O raw /var/tmp/outside.raw &&
		cmp /var/tmp/outside.raw /var/tmp/before.raw
}

try() { # KIND
	make_image "$1" || { fail "$1: make it" && return; }
	outside /var/tmp/before.raw || { fail "$1: read it before" && return; }
	check "$1: attach" xen-dmu attach "$spec" --name e || { show_logs && return; }
	check "$1: it reads as qemu-img does" cmp /dev/mapper/e /var/tmp/before.raw
	check "$1: mkfs, files, writes" use /dev/mapper/e || show_logs
	check "$1: no secret is to be seen" no_secret
	dd if=/dev/mapper/e of=/var/tmp/inside.raw bs=1M iflag=direct status=none
	check "$1: detach" xen-dmu detach e || show_logs
	check "$1: no plain text on disk" no_plain_text
	judge "$1"
	check_clean "$1: nothing is left"
	rm -f /vm/*.img
}

# --- a mapper that dies ------------------------------------------------------------------
kill_mapper() {
	local pid
	pid=$(cat /run/xen-dmu/mapper-name-e.pid) && kill -9 "$pid" && wait_for 30 successor "$pid"
}
successor() { local now && now=$(cat /run/xen-dmu/mapper-name-e.pid 2>/dev/null) && [ "$now" != "$1" ] && ping_mapper; }
ping_mapper() { xen-dmu-list --json | grep -q '"stage": *"active"'; }

# One run may be over before the last kill.
fio_again_and_again() {
	while fio_verify /dev/mapper/e --size=64M --io_size=8M --randseed=$RANDOM; do
		[ ! -e /var/tmp/enough ] || return 0
	done
	return 1
}

try_kills() { # KIND
	local job status
	make_image "$1" || { fail "$1: make it" && return; }
	check "$1: attach" xen-dmu attach "$spec" --name e || { show_logs && return; }
	rm -f /var/tmp/enough
	fio_again_and_again &
	job=$!
	for i in 1 2 3; do
		sleep 0.5
		check "$1: kill -9, and a successor ($i)" kill_mapper || show_logs
		check "$1: fio was at it" kill -0 $job
	done
	touch /var/tmp/enough
	wait $job
	status=$?
	check "$1: fio verified over three kills" [ $status -eq 0 ] || show_logs
	try_without_key "$1"
	dd if=/dev/mapper/e of=/var/tmp/inside.raw bs=1M iflag=direct status=none
	check "$1: detach" xen-dmu detach e || show_logs
	check "$1: qemu-img reads it" outside /var/tmp/outside.raw
	check "$1: as the device did" cmp /var/tmp/outside.raw /var/tmp/inside.raw
	check_clean "$1: nothing is left after kills"
	rm -f /vm/*.img
}

# The successor can't read the key: what is mapped goes on, the rest waits until it can.
try_without_key() { # KIND
	local job status
	dd if=/dev/mapper/e of=/dev/null bs=64k count=1 iflag=direct status=none
	mv $key /var/tmp/key && kill -9 "$(cat /run/xen-dmu/mapper-name-e.pid)"
	check "$1: without the key file, what is mapped" timeout 20 dd if=/dev/mapper/e of=/dev/null bs=64k count=1 iflag=direct
	dd if=/mnt/big of=/dev/mapper/e bs=1M seek=90 count=2 oflag=direct conv=fsync status=none &
	job=$!
	sleep 1
	check "$1: a first write waits" kill -0 $job
	mv /var/tmp/key $key
	wait $job
	status=$?
	check "$1: it goes on when the key file is back" [ $status -eq 0 ]
}

# Two readers, each with devices of its own.
try_readers() {
	make_image luks && qemu-io --object "$secret" --image-opts "$(opened)" -c 'write -q -P 90 1M 3M' ||
		{ fail 'readers: make an image' && return; }
	outside /var/tmp/before.raw
	check 'readers: one' xen-dmu attach "$spec" --name e --read-only
	check 'readers: another' xen-dmu attach "$spec" --name f --read-only
	check 'readers: they read it' eval 'cmp /dev/mapper/e /var/tmp/before.raw && cmp /dev/mapper/f /var/tmp/before.raw'
	check 'readers: they do not write' eval '! dd if=/mnt/big of=/dev/mapper/e bs=64k count=1 oflag=direct 2>/dev/null'
	check 'readers: detach' eval 'xen-dmu detach e && xen-dmu detach f'
	check_clean 'readers: nothing is left'
	rm -f /vm/*.img
}

# --- refusals ------------------------------------------------------------------------------
refuse() { # NAME SPEC PATTERN
	local output
	if output=$(xen-dmu attach "$2" --name e 2>&1); then
		fail "$1: it was attached" && xen-dmu detach e
	elif grep -q -- "$3" <<<"$output"; then
		pass "$1: $output"
	else
		fail "$1: the cause is not named ($3): $output"
	fi
	check_clean "$1: nothing is left"
}
try_refusals() {
	make_image luks || { fail 'make an image' && return; }
	printf wrong >/var/tmp/wrong
	refuse 'no key file named' qcow2:/vm/i.img 'name the file that holds its key'
	refuse 'key file missing' "qcow2;key-file=/etc/xen/keys/none:/vm/i.img" 'keys/none.*No such file'
	refuse 'wrong key' "qcow2;key-file=/var/tmp/wrong:/vm/i.img" 'opens no key slot\|opens none'
	mv "/lib/modules/$(uname -r)/kernel/drivers/md/dm-crypt.ko" /var/tmp/ && modprobe -r dm-crypt
	refuse 'no dm-crypt' "$spec" 'modprobe dm-crypt'
	mv /var/tmp/dm-crypt.ko "/lib/modules/$(uname -r)/kernel/drivers/md/"
	qemu-img info -f qcow2 /vm/i.img >/dev/null
	check 'the image is free' [ $? -eq 0 ]
	rm -f /vm/*.img
}

# A disk without mapper, and what gc makes of it.
try_gc() {
	make_image luks && check 'gc: attach' xen-dmu attach "$spec" --name e || return
	check 'xen-dmu-list says that it is encrypted' eval "xen-dmu-list | grep -q 'qcow2+luks'"
	check 'doctor too' eval "xen-dmu doctor | grep -q 'encrypted: 1'"
	local pids
	pids=$(mappers)
	# shellcheck disable=SC2086 # words
	kill -9 $pids
	rm -f /run/xen-dmu/disks/*.json
	check 'gc: devices without a state go, each before what it stands on' eval 'xen-dmu gc && [ -z "$(dmsetup ls | grep "^e")" ]' ||
		{ xen-dmu gc; dmsetup ls --tree; }
	rm -f /vm/*.img
	find /run/xen-dmu -type s,f -delete
}

make_store /vm 600M && modprobe dm-userspace && mkdir -p /etc/xen/keys || { fail prepare && finish; }
printf '%s' "$passphrase" >$key
head -c 3M /dev/urandom >/mnt/big
{ head -c 8M /dev/urandom && head -c 88M /dev/zero; } >/var/tmp/base.raw
if [ $# -gt 0 ]; then
	:
elif [[ $(uname -r) = 6.1.* ]]; then
	echo "# $more_kinds differ little on the way to the kernel: they are tried on a newer one"
else
	kinds+=" $more_kinds"
fi
for kind in $kinds; do try "$kind"; done
if [ $# -eq 0 ]; then
	echo 'lease-ahead = yes' >>/etc/xen/xen-dmu.conf
	try_kills luks
	try_kills aes
	try_readers
	try_refusals
	try_gc
fi
check_clean 'nothing is left'
check 'the module can be removed' modprobe -r dm-userspace
finish
