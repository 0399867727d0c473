# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the benchmarks share, on the host and in the VM.

# --- on the host ---------------------------------------------------------------

# Runs a script in a VM in which a nanosecond is an instruction; what it writes to
# /out/figures or /out/counted is in $out then. What it printed is shown if it fails.
# $vm_options are more options of tests/vm/run.
in_bench_vm() { # KERNEL TIMEOUT OUT SCRIPT ARGUMENT...
	local out=$3 status=0 mem=3072
	# It writes the whole of a device of 4 GB.
	[ "${*: -1}" != extents ] || mem=6144
	local options=(--kernel "$1" --mem "$mem" --timeout "$2" --out "$out")
	# Xen does not boot with it: there it is time that is measured.
	[ "$1" = xen ] || options+=(--icount)
	"$repo/tests/vm/run" "${options[@]}" ${vm_options:+"${vm_options[@]}"} -- "${@:4}" \
		</dev/null >"$out/output" 2>&1 || status=$?
	if [ $status -ne 0 ] || { [ ! -s "$out/figures" ] && [ ! -s "$out/counted" ]; }; then
		tail -n 40 "$out/output" >&2
		echo "$0: the VM ended with status $status" >&2
	fi
	return $status
}

# A line's last word, or "-"; of several with the same key the last one.
figure() { # FILE KEY
	awk -v k="$2" '{ v = $NF; NF--; if ($0 == k) last = v } END { print last ? last : "-" }' "$1"
}

# --- in the VM -----------------------------------------------------------------

# One CPU: what udev does would be counted in. $engine is fio's (libaio).
fio_json() { # DEVICE ARGUMENT...
	udevadm settle
	case $1 in
	/dev/*) [ -b "$1" ] || return ;;
	esac
	fio --name=m --filename="$1" --direct=1 --ioengine="${engine:-libaio}" --randseed=1 --output-format=json "${@:2}"
}

per_request() { # fio's JSON on standard input
	jq '.jobs[0] | (.read.iops + .write.iops + (.trim.iops // 0)) as $iops | if $iops > 0 then 1e9 / $iops | floor else 0 end'
}

# Where it is read or written at random, in requests of 4 KiB.
random_requests() { # DEVICE read|write DEPTH SIZE [COUNT]
	fio_json "$1" --rw="rand$2" --bs=4k --iodepth="$3" --size="$4" --number_ios="${5:-4000}" --norandommap | per_request
}

# An iolog: 4 KiB into each 64 KiB once, in an order that is always the same.
first_write_pattern() { # DEVICE COUNT
	echo "fio version 2 iolog"
	echo "$1 add"
	echo "$1 open"
	seq 0 $(($2 - 1)) | shuf --random-source=<(yes) |
		awk -v device="$1" '{ printf "%s write %d 4096\n", device, $1 * 65536 + ($1 % 16) * 4096 }'
	echo "$1 close"
}

# What the machine does while COMMAND runs, counted by the plug-in in QEMU.
counted() { # CASE DEVICE REQUESTS COMMAND...
	echo "$1 $2 $3" >>/out/counted
	/src/build/release/tests/dmu-mark empty
	"${@:4}" >/dev/null
	/src/build/release/tests/dmu-mark write
}

# Nanoseconds it ran: what it does after the last request has ended is its work, too.
mapper_time() { # PID
	cat /proc/"$1"/task/*/schedstat 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }'
}
