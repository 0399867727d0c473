# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# For the tests that kill mappers: the job, the kills, who comes after.

kills=10 least=100
size=192 # MiB
done_kills=0

# Commits come late, so that a kill meets many changes.
commit_late() {
	sed -i 's/^#* *commit-seconds.*//' /etc/xen/xen-dmu.conf
	echo 'commit-seconds = 8' >>/etc/xen/xen-dmu.conf
}

fio_job() { # DEVICE
	echo "--name=v --filename=$1 --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k" \
		"--size=${size}M --io_size=48M --norandommap --verify=crc32c --verify_backlog=512 --verify_fatal=1" \
		"--do_verify=1 --verify_state_save=0 --randseed=$RANDOM"
}

successor() { # PID-FILE OLD-PID
	local pid
	pid=$(cat "$1" 2>/dev/null)
	[ -n "$pid" ] && [ "$pid" != "$2" ] && xen-dmu-list --json 2>/dev/null | grep -q '"key"'
}

kill_once() { # DEVICE PID-FILE NUMBER
	local device=$1 pid_file=$2 number=$3 pid count=0 end=$((SECONDS + 60))
	sleep "0.$((RANDOM % 10))"
	until [ "$count" -ge $least ]; do
		[ $SECONDS -lt $end ] || { echo "kill $number: only $count uncommitted allocations" && return 1; }
		sleep 0.05
		count=$(uncommitted "$device")
	done
	pid=$(cat "$pid_file")
	kill -9 "$pid" || return
	echo "# kill $number: mapper $pid, $count allocations not committed"
	wait_for 30 successor "$pid_file" "$pid"
}

# On purpose, as after an upgrade: under the same job, often.
restart_often() { # PID-FILE JOB
	local number pid count=0
	for ((number = 1; number <= 5; number++)); do
		kill -0 "$2" 2>/dev/null || break
		pid=$(cat "$1")
		xen-dmu restart || return
		[ "$(cat "$1")" != "$pid" ] || { echo "it is still process $pid" && return 1; }
		count=$((count + 1))
	done
	echo "$count restarts" && [ $count -ge 3 ]
}

kill_often() { # DEVICE PID-FILE
	local number
	for ((number = 1; number <= kills; number++)); do
		kill_once "$1" "$2" "$number" && done_kills=$((done_kills + 1))
	done
	check "the mapper was killed $done_kills times with at least $least uncommitted allocations" \
		[ $done_kills -eq $kills ]
}
