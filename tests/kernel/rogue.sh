#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Mappers that misbehave, in a VM: they harm nothing but their own device. What
# waits for them ends as it was said to, a neighbour's data are right meanwhile.
#
# vm: --kernel 6.1 --timeout 900
# vm-long: --kernel 6.12 --timeout 900
# vm-long: --kernel debug --timeout 1200
#
# Functions are called through "check", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/e2e/examples.bash
. "$(dirname "$0")/../e2e/examples.bash"

rogue=${DMU_ROGUE:-$build/tests/dmu-rogue}

start_rogue() { # HOW
	"$rogue" rogue "${disk[1]}" "$1" $RANDOM >$work/rogue.out 2>&1 &
	echo $! >$work/rogue.pid
	wait_for 10 grep -q userspace $work/rogue.out
}

rogue_lives() { kill -0 "$(cat $work/rogue.pid)" 2>/dev/null; }

# All kinds of requests; how they end is the rogue's business, that they do is not.
provoke() {
	fio --name=p --filename=/dev/mapper/rogue --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=512-64k \
		--blockalign=512 --size=32m --io_size=1g --fsync=20 --time_based --runtime=5 --continue_on_error=all \
		--output=/dev/null &
	echo $! >$work/provoke.pid
}

neighbour() { verify null --io_size=4m; }

misbehave() { # HOW
	start_rogue "$1" || return
	dmsetup create rogue --noudevsync --table "$(cat $work/rogue.out)" || return
	dmsetup message rogue 0 wait 2
	provoke 2>/dev/null
	neighbour || return
	rogue_lives || { echo "it ended by itself" && return 1; }
	kill -9 "$(cat $work/rogue.pid)"
}

ended() { ! kill -0 "$(cat $work/provoke.pid)" 2>/dev/null; }

prepare 3 || fail "modules"
start null null "${disk[0]}" && make null || fail "a neighbour"
before=$(sha256sum <"${disk[2]}")
for how in silent wrong garbage churn greedy; do
	check "$how: the neighbour's data are right" misbehave $how
	check "$how: when it is dead, requests end" wait_for 30 ended
	check "$how: and its device goes" timeout 30 dmsetup remove --retry rogue
done
check "a device that no one was given is as it was" test "$(sha256sum <"${disk[2]}")" = "$before"
check "a good mapper for the same key serves" eval \
	'start null rogue "${disk[1]}" && make rogue && verify rogue --size=16m && remove rogue'
remove null
finish
