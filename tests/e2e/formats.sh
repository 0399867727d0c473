#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each kind of image under a guest in a real Xen, or, without Xen, under a file
# system of this kernel: mkfs, files, random writes that are verified, the disk
# taken away and given back; then qemu-img reads it and checks it. Kinds that are
# named are, under Xen, disks of guests, three of each, which reboot (formats-guests.sh).
#
# vm: --kernel 6.1 --timeout 1200 -- qcow2 qcow2-compressed qcow2-subclusters qcow2-data-file qcow2-over-vmdk vmdk-split vmdk-late
# vm-long: --kernel 6.1 --timeout 2400
# vm-long: --kernel xen --timeout 1800
# vm-long: --kernel 6.12 --timeout 2400
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

size=96M
kinds=${*:-qcow2 qcow2-old qcow2-small qcow2-compressed qcow2-zstd qcow2-subclusters qcow2-data-file qcow2-over-vmdk
	qcow2-snapshot qcow2-preallocated qcow2-compressed-2m qcow2-over-stream qcow-compressed vmdk vmdk-leased vmdk-split vmdk-late vmdk-flat vmdk-cowd
	vmdk-over-vmdk}
key=/etc/xen/keys/web
secret=secret,id=s,file=$key

# What the layers below hold: compressible, and holes.
make_base() {
	head -c 3M /dev/urandom | od -An -tx1 -v >/var/tmp/text &&
		dd if=/var/tmp/text of=/var/tmp/base.raw bs=64k seek=40 count=60 status=none &&
		dd if=/dev/urandom of=/var/tmp/base.raw bs=64k seek=700 count=20 conv=notrunc status=none &&
		truncate -s $size /var/tmp/base.raw
}

make_image() { # KIND; prints FORMAT:PATH
	local i=/vm/$1.img base=/var/tmp/base.raw
	case $1 in
	qcow2) qemu-img create -q -f qcow2 "$i" $size ;;
	qcow2-old) qemu-img convert -q -O qcow2 -o compat=0.10 $base "$i" ;;
	qcow2-small) qemu-img convert -q -O qcow2 -o cluster_size=4k,refcount_bits=1 $base "$i" ;;
	qcow2-compressed) qemu-img convert -q -c -O qcow2 $base "$i" ;;
	qcow2-zstd) qemu-img convert -q -c -O qcow2 -o compression_type=zstd $base "$i" ;;
	qcow2-subclusters) qemu-img convert -q -O qcow2 -o extended_l2=on,cluster_size=128k $base "$i" ;;
	qcow2-data-file) qemu-img create -q -f qcow2 -o "data_file=$i.data" "$i" $size ;;
	qcow2-over-vmdk) qemu-img convert -q -O vmdk $base "$i.vmdk" &&
		qemu-img create -q -f qcow2 -b "$i.vmdk" -F vmdk "$i" $size ;;
	qcow2-compressed-2m) qemu-img convert -q -c -O qcow2 -o cluster_size=2M $base "$i" ;;
	qcow2-over-stream) qemu-img convert -q -O vmdk -o subformat=streamOptimized $base "$i.vmdk" &&
		qemu-img create -q -f qcow2 -b "$i.vmdk" -F vmdk "$i" $size ;;
	qcow2-snapshot) qemu-img convert -q -O qcow2 $base "$i" && qemu-img snapshot -c before "$i" ;;
	qcow2-luks | qcow2-aes) qemu-img convert -q --object "$secret" -O qcow2 \
		-o "encrypt.format=${1#*-},encrypt.key-secret=s$([ "$1" = qcow2-aes ] || echo ,encrypt.iter-time=10)" $base "$i" ;;
	qcow2-preallocated) qemu-img create -q -f qcow2 -o preallocation=metadata "$i" $size ;;
	qcow-compressed) qemu-img convert -q -c -O qcow $base "$i" 2>/dev/null || [ -s "$i" ] ;;
	vmdk) qemu-img convert -q -O vmdk $base "$i" ;;
	vmdk-split) qemu-img convert -q -O vmdk -o subformat=twoGbMaxExtentSparse $base "$i" ;;
	vmdk-leased) qemu-img create -q -f vmdk "$i" $size ;;
	vmdk-late) dmu-img create -o subformat=twoGbMaxExtentSparse,extent_size=$((48 << 20)),lazy_extents=on "vmdk:$i" $size ;;
	vmdk-flat) qemu-img convert -q -O vmdk -o subformat=monolithicFlat $base "$i" ;;
	vmdk-cowd) dmu-img create -o subformat=vmfsSparse "vmdk:$i" $size ;;
	vmdk-over-vmdk) qemu-img convert -q -O vmdk $base "/vm/$1-base.img" &&
		qemu-img create -q -f vmdk -b "/vm/$1-base.img" -F vmdk "$i" $size ;;
	esac >&2 || return
	case $1 in
	# By themselves disks of format qcow2 only.
	vmdk-leased | vmdk-cowd) echo "vmdk;lease-ahead=yes:$i" ;;
	qcow2-luks | qcow2-aes) echo "qcow2;key-file=$key:$i" ;;
	*) echo "${1%%-*}:$i" ;;
	esac
}

# qemu's words for it.
source_of() { # FORMAT:PATH
	case $1 in
	*';key-file='*) echo "--object $secret --image-opts" \
		"driver=${1%%;*},encrypt.key-secret=s,file.driver=file,file.filename=${1#*:}" ;;
	*) echo "-f ${1%%[;:]*} ${1#*:}" ;;
	esac
}

# What it holds before anybody writes to it.
outside() { # FORMAT:PATH
	rm -f /var/tmp/outside.raw
	# qemu wants extents that nobody has written to, too.
	if [[ $1 == *vmdk-late* && ! -e ${1#*:}-s002.vmdk ]]; then
		dmu-img convert "$1" raw:/var/tmp/outside.raw
		return
	fi
	# shellcheck disable=SC2046 # words
	qemu-img convert $(source_of "$1") -O raw /var/tmp/outside.raw
}

# On whatever machine the disk is; the second time what the first left is looked at.
first_use() { # DEVICE
	cat <<-END
		set -e
		sha256sum <$1
		mke2fs -q -F -t ext4 $1 && mkdir -p /mnt/d && mount $1 /mnt/d
		for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/mnt/d/f\$i bs=96k count=\$i 2>/dev/null; done
		(cd /mnt/d && sha256sum f* >SUMS) && sync && umount /mnt/d
		fio --name=v --filename=$1 --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bsrange=512-64k \
			--blockalign=512 --offset=64M --size=32M --io_size=6M --verify=crc32c --verify_fatal=1 --fsync=40 \
			--do_verify=1 --verify_state_save=0 --output=/tmp/fio.out || { cat /tmp/fio.out; exit 1; }
	END
}
second_use() { # DEVICE
	cat <<-END
		set -e
		mkdir -p /mnt/d && mount $1 /mnt/d && (cd /mnt/d && sha256sum -c SUMS >/dev/null)
		echo again >/mnt/d/again && sync && umount /mnt/d
	END
}

our_check() { # KIND FORMAT:PATH
	local output status
	output=$(xen-dmu check "$2" 2>&1)
	status=$?
	case $status:$1 in
	0:*) return 0 ;;
	# Where a compressed cluster of qcow was, nothing can lie again. What vmdk's mkfs discards
	# or a lease leaves is used again from the next commit on; what then stays within the file
	# depends on how slow this machine is.
	3:qcow-compressed | 3:vmdk*) return 0 ;;
	esac
	echo "status $status: $output"
	return 1
}

judge_image() { # KIND FORMAT:PATH
	# shellcheck disable=SC2046 # words
	case $2 in
	qcow2[:\;]*) check "$1: qemu-img check" qemu-img check -q $(source_of "$2") ;;
	esac
	check "$1: our checker" our_check "$1" "${2%%[;:]*}:${2#*:}"
	check "$1: qemu-img reads it" outside "$2" || return
	check "$1: e2fsck finds nothing" e2fsck -fn /var/tmp/outside.raw
	mkdir -p /mnt/check && mount -o loop /var/tmp/outside.raw /mnt/check || { fail "$1: mount" && return; }
	check "$1: the files are those that were written" env -C /mnt/check sha256sum --quiet -c SUMS
	check "$1: of both uses" grep -q again /mnt/check/again
	umount /mnt/check
}

# --- without Xen ---------------------------------------------------------------------
use_local() { # SPEC SCRIPT
	local device status
	device=$(xen-dmu attach "$1" --name f) || return
	"$2" "$device" | bash
	status=$?
	xen-dmu detach f && return $status
}

try_local() { # KIND
	local spec sum
	spec=$(make_image "$1") || { fail "$1: make it" && return; }
	outside "$spec" && sum=$(sha256sum </var/tmp/outside.raw) || { fail "$1: read it" && return; }
	use_local "$spec" first_use >/var/tmp/first 2>&1
	check "$1: mkfs, files, random writes" [ $? -eq 0 ] || { cat /var/tmp/first && show_logs; }
	check "$1: it read as qemu-img does" grep -qx "$sum" /var/tmp/first
	check "$1: attached again" use_local "$spec" second_use || show_logs
	judge_image "$1" "$spec"
	rm -f "/vm/$1"*
}

# A file system may write within a transaction of its own, as ext4 does where it zeroes
# inode tables; that of the image below has transactions, too.
try_transactions() {
	local device
	qemu-img create -q -f qcow2 /vm/t.img $size && device=$(xen-dmu attach qcow2:/vm/t.img --name f) &&
		mke2fs -q -F -t ext4 -b 1024 -N 16384 -E lazy_itable_init=1 "$device" && mkdir -p /mnt/t &&
		mount -o init_itable=0 "$device" /mnt/t || { fail 'transactions: prepare' && return; }
	# It begins within five seconds.
	for _ in $(seq 16); do sleep 0.5 && date >>/mnt/t/file; done
	umount /mnt/t && check 'transactions: e2fsck finds nothing' e2fsck -fn "$device"
	xen-dmu detach f && rm -f /vm/t.img
}

# --- in a guest ------------------------------------------------------------------------
use_in_guest() { # SPEC SCRIPT
	local status
	xl block-attach f "$(spec xvdb w "$1")" || return
	guest_run f "for try in \$(seq 100); do [ -b /dev/xvdb ] && break; sleep 0.1; done
		$($2 /dev/xvdb)" 300
	status=$?
	xl block-detach f xvdb && wait_for 30 only_own && return $status
}
only_own() { [ -z "$(devices)" ]; }

try_in_guest() { # KIND
	local spec sum
	spec=$(make_image "$1") || { fail "$1: make it" && return; }
	outside "$spec" && sum=$(sha256sum </var/tmp/outside.raw) || { fail "$1: read it" && return; }
	use_in_guest "$spec" first_use >/var/tmp/first 2>&1
	check "$1: mkfs, files, random writes in a guest" [ $? -eq 0 ] || { cat /var/tmp/first && show_logs; }
	check "$1: the guest read what qemu-img does" grep -qx "$sum" /var/tmp/first
	check "$1: attached again" use_in_guest "$spec" second_use || show_logs
	judge_image "$1" "$spec"
	rm -f "/vm/$1"*
}

# --- disks of a guest that reboots ---------------------------------------------------------
letters=bcdefghijklmnop

# The disks of a guest, each another kind.
make_disks() { # KIND...
	local kind spec
	specs=() sums=() disks=()
	for kind; do
		spec=$(make_image "$kind") && outside "$spec" || { fail "$kind: make and read it" && return 1; }
		sums+=("$(sha256sum </var/tmp/outside.raw)")
		disks+=("$(spec "xvd${letters:${#specs[@]}:1}" w "$spec")")
		specs+=("$spec")
	done
}

# In the guest, with each of its disks.
use_all() { # NAME SCRIPT KIND...
	local name=$1 script=$2 i=0 kind
	shift 2
	for kind; do
		guest_run f "$($script "/dev/xvd${letters:i:1}")" 300 >"/var/tmp/$script.$kind" 2>&1
		check "$kind: $name" [ $? -eq 0 ] || { cat "/var/tmp/$script.$kind" && show_logs; }
		i=$((i + 1))
	done
}

try_with_reboot() { # KIND...
	local i=0 kind old
	make_disks "$@" || return
	check "a guest with $# disks" guest_create f "${disks[@]}" || { show_logs && return; }
	use_all 'mkfs, files, random writes in a guest' first_use "$@"
	for kind; do
		check "$kind: the guest read what qemu-img does" grep -qx "${sums[i]}" "/var/tmp/first_use.$kind"
		i=$((i + 1))
	done
	old=$(guest_id f)
	guest_start f 'sync; reboot -f'
	rebooted() { local id; id=$(guest_id f) && [ "$id" != "$old" ]; }
	check 'the guest reboots' wait_for 240 rebooted || { show_logs && return; }
	check 'it starts again' guest_attach f || { show_logs && return; }
	use_all 'after the reboot the files are there' second_use "$@"
	check 'no key is in xenstore' no_secret
	check 'the guest ends' guest_stop f
	check 'its devices go' wait_for 60 no_devices || show_logs
	i=0
	for kind; do
		judge_image "$kind" "${specs[i]}"
		i=$((i + 1))
	done
	rm -rf /vm/*
}
# From a file: grep has a command line, too.
no_secret() { ! { xenstore-ls -f; xl list -l; cat /proc/[0-9]*/cmdline; } 2>/dev/null | grep -a -F -f $key; }
no_devices() { [ -z "$(devices)" ]; }

make_store /vm 900M && make_base && modprobe dm-userspace && mkdir -p /etc/xen/keys && printf secret-of-web >$key ||
	{ fail prepare && finish; }
if [ -n "${DMU_XEN:-}" ] && [ $# -gt 0 ]; then
	# Xen gives the script of a disk 40 seconds; all of a guest's disks come at once.
	while [ $# -gt 0 ]; do
		try_with_reboot "${@:1:3}"
		shift $(($# < 3 ? $# : 3))
	done
elif [ -n "${DMU_XEN:-}" ]; then
	check 'a guest' guest_create f || finish
	# What differs on the way to the kernel; all of them are tried without Xen.
	for kind in qcow2-compressed qcow2-data-file qcow2-over-vmdk vmdk-split; do try_in_guest "$kind"; done
	check 'the guest ends' guest_stop f
else
	try_transactions
	for kind in $kinds; do try_local "$kind"; done
fi
check_clean 'nothing is left'
check 'the module can be removed' modprobe -r dm-userspace
finish
