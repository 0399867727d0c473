#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The module's own tests (kernel/*_kunit.c), in a kernel with KUnit: the extent map, the
# change log, flushes, leases, first writes, what may be forgotten. A seed repeats the random ones.
#
# vm-long: --kernel debug --timeout 900 --append kunit.enable=1
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

module=dm-userspace-kunit suites=(dmu_map dmu_map_readers dmu_log dmu_flush dmu_lease dmu_first_write dmu_model
	dmu_shrink dmu_shrink_model dmu_drain)

# Loading it runs them. Its tracepoints have the usual module's names: that one must not be there.
load() { # [SEED]
	modprobe dm-mod && ! grep -q '^dm_userspace ' /proc/modules && modprobe $module ${1:+seed="$1"}
}

# Of the kernel's log "SUITE CASE ok|failed|skipped" for each case, then "SUITE - ..." for the suite.
results() {
	dmesg -t | awk '
		/^ *# Subtest: / { suite = $3; next }
		match($0, /^ *(not )?ok [0-9]+ /) {
			outcome = /^ *not / ? "failed" : /# SKIP/ ? "skipped" : "ok"
			name = substr($0, RLENGTH + 1)
			sub(/^- /, "", name)
			sub(/ *#.*/, "", name)
			print suite, name == suite ? "-" : name, outcome
		}'
}

complete() { # SUITE CASES
	[ "$2" -gt 0 ] && grep -q "^$1 - ok$" /tmp/results
}

# Where allocations are to fail, those of the module, not those of kmemleak.
[ ! -e /sys/kernel/debug/failslab/cache-filter ] || echo Y >/sys/kernel/debug/failslab/cache-filter
check "the module with the tests is loaded" load "${1:-}"
results >/tmp/results
dmesg -t | sed -n 's/^ *# \([a-z_]*: seed [0-9]*\)$/# \1/p'
for suite in "${suites[@]}"; do
	cases=0
	while read -r of name outcome; do
		[ "$of" = "$suite" ] && [ "$name" != - ] || continue
		cases=$((cases + 1))
		case $outcome in
		ok) pass "$suite: $name" ;;
		skipped) skip "$suite: $name" "this kernel cannot" ;;
		*) fail "$suite: $name" ;;
		esac
	done </tmp/results
	check "$suite: all of it, $cases cases" complete "$suite" $cases
done
check "no other case failed" eval '! grep -q " failed$" /tmp/results'
check "the kernel has nothing to complain of" eval \
	'! dmesg -t | grep -E "WARNING:|BUG:|KASAN|Call Trace|INFO: task|suspicious RCU|possible circular locking"'
check "the module goes again" modprobe -r $module
[ $failed -eq 0 ] || dmesg -t | sed -n '/# Subtest: /,$ s/^/# /p'
finish
