#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Awkward names of images, by xen-dmu attach and in a real Xen; images on a file
# system without direct I/O; writes into clusters that have a backing file.
# Runs in dom0.
#
# What each spelling can express (- : no):
#
#                               space  ,  :  =  ;  '  "  non-ASCII
#   xl block-attach, target=      x    x  x  x  x  x  x     x
#   xm block-attach dmu:...       x    x  x  x  x  x  x     x
#   xl dmu:...,,xvda,w,script=    x    -  x  -  x  x  x     x
#   a configuration file          one kind of quotes: the other delimits the string
#
# vm: --kernel xen --timeout 900

# Functions are called through "check" and "wait_for", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/common.bash
. "$(dirname "$0")/common.bash"

# shellcheck disable=SC2016 # nobody shall expand it
names=('with space' 'with,comma' 'with:colon' 'with=equals' 'with;semicolon' "with'single" 'with"double'
	'Größe äöü 日本語' '$(touch x) `y` \n %s *' "all, of: it=\"a\"; 'b' ,xvdz,w")

image_of() { echo "/vm/${names[$1]}.qcow"; }

# In each image stands which it is.
make_images() {
	local i
	make_store /vm 512M && modprobe dm-userspace || return
	for i in "${!names[@]}"; do
		xen-dmu create "qcow:$(image_of "$i")" 1M || return
	done
}

marker() { printf 'image %02d' "$1"; }

# --- without Xen ----------------------------------------------------------------
by_attach() { # INDEX
	local device image
	image=$(image_of "$1")
	device=$(xen-dmu attach "qcow:$image" --name "path$1") || return
	xen-dmu-list | grep -qF "$image" || { echo "not in the listing"; xen-dmu-list; return 1; }
	marker "$1" | dd of="$device" bs=512 seek=7 conv=notrunc,fsync status=none || return
	xen-dmu detach "path$1" && xen-dmu check --quiet "qcow:$image" || return
	qemu-img convert -f qcow -O raw "$image" /var/tmp/out.raw || return
	[ "$(dd if=/var/tmp/out.raw bs=512 skip=7 count=1 status=none | tr -d '\0')" = "$(marker "$1")" ]
}

# An overlay beside its base, both with that name.
by_chain() { # INDEX
	local image overlay device text
	image=$(image_of "$1")
	overlay="/vm/over ${names[$1]}.qcow"
	# A relative name whose first colon comes before a slash would be a protocol.
	xen-dmu create "qcow:$overlay" --backing "qcow:$image" || return
	device=$(xen-dmu attach "qcow:$overlay" --name "chain$1" --read-only) || return
	text=$(dd if="$device" bs=512 skip=7 count=1 status=none | tr -d '\0')
	xen-dmu detach "chain$1" && rm "$overlay" || return
	[ "$text" = "$(marker "$1")" ] || { echo "read '$text'"; return 1; }
}

# --- by a guest --------------------------------------------------------------------
vdev_of() { printf "xvd\\x$(printf %x $((98 + $1)))"; } # INDEX -> xvdb, xvdc, ...

by_canonical() { xl block-attach one "$(spec "$(vdev_of "$1")" w "qcow:$(image_of "$1")")"; }
by_xm() { xm block-attach one "dmu:qcow:$(image_of "$1")" "$(vdev_of "$1")" w; }
by_positional() { xl block-attach one "dmu:qcow:$(image_of "$1"),,$(vdev_of "$1"),w,script=block-dmu"; }

guest_sees() { # INDEX
	local text
	# Blkfront connects after xl has returned.
	text=$(guest_run one "for try in \$(seq 100); do [ -b /dev/$(vdev_of "$1") ] && break; sleep 0.1; done
		dd if=/dev/$(vdev_of "$1") bs=512 skip=7 count=1 status=none | tr -d '\\000'" 30)
	[ "$text" = "$(marker "$1")" ] || { echo "the guest read '$text'"; return 1; }
}

round() { # SPELLING INDEX...
	local spelling=$1 i
	shift
	for i in "$@"; do
		check "$spelling: ${names[i]}" "$spelling" "$i" || show_logs
	done
	for i in "$@"; do
		check "$spelling: ${names[i]}: the guest sees it" guest_sees "$i"
	done
	for i in "$@"; do
		xl block-detach one "$(vdev_of "$i")" || fail "$spelling: detach ${names[i]}"
	done
	only_own() { [ "$(devices | wc -l)" -eq 1 ]; }
	check "$spelling: all are gone" wait_for 20 only_own
}

# --- no direct I/O -------------------------------------------------------------------
on_tmpfs() {
	local device
	mkdir -p /ram && mount -t tmpfs -o size=256M ram /ram || return
	xen-dmu create qcow:/ram/disk.qcow 64M &&
		device=$(xen-dmu attach qcow:/ram/disk.qcow --name ram) || return
	fio --name=ram --filename="$device" --rw=randwrite --bs=4k --size=4M --ioengine=libaio --iodepth=16 \
		--direct=1 --verify=crc32c --verify_fatal=1 --fsync=256 --output=/var/tmp/fio.ram || { cat /var/tmp/fio.ram; return 1; }
	dd if="$device" bs=64k iflag=direct status=none >/var/tmp/ram.raw || return
	xen-dmu detach ram && xen-dmu check qcow:/ram/disk.qcow || return
	qemu-img compare -f qcow -F raw /ram/disk.qcow /var/tmp/ram.raw
}

# --- clusters with a backing file -----------------------------------------------------
# Parts of clusters, their edges, over the base's end and over the device's last sector.
writes='1:1 7:3 126:4 1000:9 2049:1 4095:2 6143:3 6146:1 8000:130 16383:1'

copy_on_write() { # CLUSTER-SIZE
	local name=/vm/over.$1.qcow device write model=/var/tmp/model.raw
	cp /vm/base.raw $model && truncate -s 8M $model || return
	xen-dmu create "qcow:$name" 8M --cluster-size "$1" --backing raw:/vm/base.raw &&
		device=$(xen-dmu attach "qcow;backing-format=raw:$name" --name over) || return
	for write in $writes; do
		head -c $((${write#*:} * 512)) /dev/urandom >/var/tmp/piece
		for out in "$device" $model; do
			dd if=/var/tmp/piece of="$out" bs=512 seek="${write%:*}" conv=notrunc,fsync status=none || return
		done
	done
	# Not from the page cache of the device.
	blockdev --flushbufs "$device" && dd if="$device" bs=64k iflag=direct status=none | cmp - $model || return
	xen-dmu detach over && xen-dmu check "qcow:$name" || return
	device=$(xen-dmu attach "qcow;backing-format=raw:$name" --name over --read-only) || return
	cmp "$device" $model && xen-dmu detach over || return
	cmp /vm/base.raw /var/tmp/base.raw
}

qemu_agrees() { # CLUSTER-SIZE: of the last model; qemu takes the base for raw by itself
	qemu-img convert -O raw "json:{\"driver\":\"qcow\",\"file\":{\"driver\":\"file\",\"filename\":\"/vm/over.$1.qcow\"},
		\"backing\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/vm/base.raw\"}}}" /var/tmp/out.raw &&
		cmp /var/tmp/out.raw /var/tmp/model.raw
}

check 'make the images' make_images || finish
for i in "${!names[@]}"; do
	check "xen-dmu attach: ${names[i]}" by_attach "$i" || show_logs
	check "as a backing file: ${names[i]}" by_chain "$i" || show_logs
done
check_clean 'nothing is left of these'

# The base ends within a cluster of any size.
head -c $((3 * 1024 * 1024 + 1536)) /dev/urandom >/vm/base.raw && cp /vm/base.raw /var/tmp/base.raw
for size in 512 4096 65536; do
	check "writes into clusters of $size keep the rest" copy_on_write $size || show_logs
	check "qemu-img agrees, clusters of $size" qemu_agrees $size
done

if dd if=/dev/zero of=/dev/shm/direct bs=4k count=1 oflag=direct 2>/dev/null; then
	skip 'an image on tmpfs' 'this kernel has direct I/O on tmpfs'
else
	check 'an image on tmpfs, without direct I/O' on_tmpfs || show_logs
fi
check_clean 'nothing is left of that'

if [ -z "${DMU_XEN:-}" ]; then
	skip 'names in xl and xm' 'not under Xen'
	finish
fi

# One kind of quotes: the configuration delimits the string by the other.
file='/vm/a "whole" disk, of: a=b; Größe.qcow'
xen-dmu create "qcow:$file" 16M
check 'xm create with an awkward path' env XL=xm bash -c '. /src/tests/vm/lib.sh; guest_create one "$1"' - \
	"dmu:qcow:$file,xvda,w" || { show_logs; finish; }
check 'the guest writes to it' guest_run one 'echo awkward | dd of=/dev/xvda conv=notrunc,fsync status=none' 30
round by_canonical "${!names[@]}"
# Each attach is seconds under emulation: what is particular to the other spellings.
round by_xm 1 3 6 9
round by_positional 0 4 7
check 'stop the guest' guest_stop one
check_clean 'nothing is left at the end'
qemu-img convert -f qcow -O raw "$file" /var/tmp/out.raw
check 'qemu-img reads what the guest wrote' [ "$(head -c 7 /var/tmp/out.raw)" = awkward ]
xl_creates() { guest_create two "vdev=xvda,access=w,script=block-dmu,target=qcow:$file"; }
check 'xl create with the same path' xl_creates &&
	check 'the guest reads it' [ "$(guest_run two 'head -c 7 /dev/xvda' 30)" = awkward ]
check 'stop it' guest_stop two
check_clean 'nothing is left'
check 'the module can be removed' modprobe -r dm-userspace
finish
