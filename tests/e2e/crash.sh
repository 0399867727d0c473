#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The whole host dies under a guest that writes, at random moments (five under
# --long, else one): the image is whole, and what the guest had flushed is there.
#
# host: 1
# host-long: 5
set -u
here=$(cd "$(dirname "$0")" && pwd)
vm=$here/../vm/run
times=${1:-5}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
good=0 bad=0

# Until the output says so, the VM ends, or time is up.
wait_for_line() { # PATTERN SECONDS PID
	local end=$((SECONDS + $2))
	until grep -q "$1" "$work/out"; do
		kill -0 "$3" 2>/dev/null && [ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

crash_once() {
	local run rounds=$((RANDOM % 8 + 2)) flushed
	rm -f "$work/disk" "$work/pid"
	truncate -s 1G "$work/disk"
	: >"$work/out"
	"$vm" --kernel xen --timeout 400 --disk "$work/disk" --pidfile "$work/pid" -- \
		tests/e2e/crash-dom0.sh write >"$work/out" 2>&1 &
	run=$!
	wait_for_line "^flushed $rounds\$" 1500 $run || { tail -n 30 "$work/out" && return 1; }
	sleep "0.$((RANDOM % 100))"
	kill -KILL "$(cat "$work/pid")" || return
	wait $run
	# What was said before the end was acknowledged; what was not may be there or not.
	flushed=$(sed -n 's/^flushed //p' "$work/out" | tail -n 1)
	echo "# the host died after $flushed flushed rounds"
	"$vm" --kernel 6.1 --timeout 200 --disk "$work/disk" -- tests/e2e/crash-dom0.sh verify "$flushed" >"$work/out" 2>&1 || {
		tail -n 30 "$work/out"
		return 1
	}
	sed 's/^/# /' "$work/out"
}

for ((i = 1; i <= times; i++)); do
	if crash_once; then
		echo "ok crash $i: the image is whole, nothing flushed is missing" && good=$((good + 1))
	else
		echo "not ok crash $i" && bad=$((bad + 1))
	fi
done
[ $bad -eq 0 ] && [ $good -gt 0 ]
