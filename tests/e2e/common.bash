# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the end-to-end scripts share; sourced after tests/vm/lib.sh, in dom0.

# A file system that takes direct I/O, as a host's does.
make_store() { # DIRECTORY SIZE
	modprobe loop && mkdir -p "$1" || return
	truncate -s "$2" "/var/tmp/store${1//\//-}.ext4" && mke2fs -q -t ext4 "/var/tmp/store${1//\//-}.ext4" &&
		mount -o loop "/var/tmp/store${1//\//-}.ext4" "$1"
}

spec() { echo "vdev=$1,access=$2,script=block-dmu,target=$3"; } # VDEV r|w FORMAT:PATH

devices() { dmsetup ls 2>/dev/null | sed -n 's/^\(dmu-[^[:space:]]*\).*/\1/p'; }

# Processes that are the mapper's: a mapper and its supervisor are both called so.
mappers() { pgrep -f '^[^ ]*xen-dmu-mapper ' | tr '\n' ' '; }

# Says what is still there of any disk: devices, mappers, files of ours at run time.
leftovers() {
	devices
	mappers | sed '/^$/d; s/^/mapper process /'
	find /run/xen-dmu -mindepth 1 ! -type d 2>/dev/null
	ls -d /var/run/xen-dmu.* 2>/dev/null
}
is_clean() { [ -z "$(leftovers)" ]; }

# A test; a mapper has a few seconds' grace after its last disk.
check_clean() { # NAME [SECONDS]
	if wait_for "${2:-30}" is_clean; then
		pass "$1"
	else
		fail "$1: left behind: $(leftovers | tr '\n' ';')"
	fi
}

no_mapper_of() { ! pgrep -f -- "--instance $1( |\$)" >/dev/null; } # INSTANCE

# The numbers that xenstore knows virtual disks by.
devid() { # xvdX
	local letter=${1#xvd}
	echo $((51712 + 16 * ($(printf '%d' "'$letter") - 97)))
}
backend_path() { echo "/local/domain/0/backend/vbd/$(guest_id "$1")/$(devid "$2")"; } # GUEST VDEV

# The end of what can explain a failure.
show_logs() {
	echo "# the ends of the logs:"
	tail -q -n 4 /var/log/xen/xen-hotplug.log /var/log/xen/xen-dmu-*.log 2>/dev/null | sed 's/^/#   /'
}

ok_in_guest() { guest_run "$@" >/dev/null 2>&1; }
