#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# libdmu, devmapper and xenstore against the real things, in a VM:
#
#	tests/vm/run --kernel xen --share BUILD:build -- tests/e2e/backend.sh /mnt/build
#
# BUILD (by default build/release) holds tests/backend_try and tools/examples/null.
#
# vm: --kernel xen --timeout 400
#
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

build=${1:-/src/build/release}
module=${DMU_MODULE:-dm-userspace}

part() { # NAME
	local line
	while read -r line; do
		case $line in
		'ok '*) pass "$1: ${line#ok }" ;;
		*) fail "$1: ${line#not ok }" ;;
		esac
	done < <("$build/tests/backend_try" "$1" 2>&1 || echo "not ok status $?")
}

# The prototype in the header of dmu.h: a device that is a file.
example() {
	local sectors=65536
	truncate -s $((sectors * 512)) /var/tmp/example
	LD_LIBRARY_PATH=$build/xen-backend/libdmu "$build/tools/examples/null" example /var/tmp/example &
	wait_for 10 dmsetup create example --table "0 $sectors userspace example 0" || return 1
	head -c 1M /dev/urandom >/tmp/random
	dd if=/tmp/random of=/dev/mapper/example bs=64k seek=16 oflag=direct status=none &&
		dd if=/dev/mapper/example bs=64k skip=16 count=16 iflag=direct status=none | cmp - /tmp/random &&
		tail -c +$((1024 * 1024 + 1)) /var/tmp/example | head -c 1M | cmp - /tmp/random || return 1
	dmsetup remove --retry example
	kill %1
	wait
	rm -f /var/tmp/example /tmp/random
}

modprobe dm-mod
part devmapper
if [ -f "$module" ]; then insmod "$module"; else modprobe "$module"; fi
if [ -c /dev/dmu ]; then
	part module
	check example example
else
	fail "module: $module can't be loaded"
fi
if [ -d /proc/xen ] && xenstore-ls >/dev/null 2>&1; then
	part xenstore
else
	skip xenstore 'not under Xen'
fi
finish
