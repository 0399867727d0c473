# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For scripts that run in the VM: results, waiting, PV guests.
#
#	. /src/tests/vm/lib.sh
#	guest_create a "vdev=xvda,access=w,target=/tmp/disk.img"
#	guest_run a 'dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct' && pass write
#	guest_stop a
#	finish

# --- results -------------------------------------------------------------------

passed=0 failed=0 skipped=0

pass() { # NAME
	echo "ok $*"
	passed=$((passed + 1))
}

fail() { # NAME [: DETAIL]
	echo "not ok $*"
	failed=$((failed + 1))
}

skip() { # NAME REASON...
	local name=$1
	shift
	echo "skip $name: $*"
	skipped=$((skipped + 1))
}

# Runs a command as the test NAME; shows its output only if it fails.
check() { # NAME COMMAND...
	local name=$1 output status=0
	shift
	output=$("$@" 2>&1) || status=$?
	if [ $status -eq 0 ]; then
		pass "$name"
		return 0
	fi
	fail "$name: '$*' ended with status $status"
	[ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/  /'
	return 1
}

# Ends the script: with status 1 if a test has failed or none was run.
finish() {
	echo "# passed $passed, failed $failed, skipped $skipped"
	[ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
	exit $?
}

wait_for() { # SECONDS COMMAND...: until the command succeeds
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt "$end" ] || return 1
		sleep 0.1
	done
}

# --- PV guests -----------------------------------------------------------------
# $XL is the toolstack (xl), GUEST_MEMORY and GUEST_VCPUS shape the next guest,
# GUEST_CONFIG adds lines to its configuration.

guest_directory=/run/guest

# An xl that crashes, which happens in emulation, does not mean that there is no guest.
guest_id() { # NAME
	local status=0
	for _ in 1 2 3; do
		"${XL:-xl}" domid "$1" 2>/dev/null && return
		status=$?
		[ $status -ge 128 ] || return $status
		echo "# xl domid $1 ended with status $status" >&2
	done
	return $status
}

guest_path() { echo "$guest_directory/$1$2"; } # NAME SUFFIX

guest_create() { # NAME DISKSPEC...
	local name=$1 spec disks='' config
	shift
	mkdir -p "$guest_directory"
	for spec in "$@"; do
		disks+="'$spec', "
	done
	config=/tmp/$name.cfg
	cat >"$config" <<-END
		name = "$name"
		type = "pv"
		kernel = "/guest/kernel"
		ramdisk = "/guest/initrd"
		extra = "console=hvc0 loglevel=1 mitigations=off norandmaps panic=-1 ${GUEST_EXTRA:-}"
		memory = ${GUEST_MEMORY:-256}
		vcpus = ${GUEST_VCPUS:-1}
		on_crash = "destroy"
		disk = [ $disks ]
		${GUEST_CONFIG:-}
	END
	"${XL:-xl}" create -q "$config" || return
	guest_attach "$name"
}

# Begins to listen to a guest's console, also after it was rebooted or restored.
guest_attach() { # NAME [running]
	local name=$1 id tty log
	log=$(guest_path "$name" .console)
	id=$(guest_id "$name") || { echo "guest $name: no such domain" >&2; return 1; }
	if ! wait_for 60 xenstore-exists "/local/domain/$id/console/tty"; then
		echo "guest $name: xenconsoled has made no terminal for domain $id" >&2
		return 1
	fi
	tty=$(xenstore-read "/local/domain/$id/console/tty")
	guest_detach "$name"
	stty -F "$tty" raw -echo
	: >"$log"
	echo "$tty" >"$(guest_path "$name" .tty)"
	setsid cat "$tty" >"$log" 2>/dev/null </dev/null &
	echo $! >"$(guest_path "$name" .pid)"
	# A guest that was restored said so long ago.
	[ "${2:-}" != running ] || return 0
	wait_for "${GUEST_BOOT_TIMEOUT:-300}" guest_ready_or_dead "$name"
	grep -q '^@@ready' "$log" || {
		echo "guest $name: did not become ready; its console:" >&2
		tail -n 30 "$log" >&2
		return 1
	}
}

guest_ready_or_dead() { # NAME
	grep -q -e '^@@ready' -e 'Kernel panic' "$(guest_path "$1" .console)" || guest_gone_now_and_then "$1"
}

# For what is asked several times a second: xl takes a good part of one in emulation, from
# the guest that is waited for.
guest_asked=0
guest_gone_now_and_then() { # NAME
	[ $((++guest_asked % 16)) -eq 0 ] && guest_gone "$1"
}

guest_detach() { # NAME
	local file
	file=$(guest_path "$1" .pid)
	[ -e "$file" ] || return 0
	kill "$(cat "$file")" 2>/dev/null
	rm -f "$file"
}

guest_request=''

# Starts a command in the guest; $guest_request then names it for guest_wait.
guest_start() { # NAME COMMANDS
	local tty
	tty=$(cat "$(guest_path "$1" .tty)") || return
	# Unique also when it is called in a subshell.
	guest_request=$BASHPID.${EPOCHREALTIME//[!0-9]/}
	echo "$guest_request" >"$(guest_path "$1" .last)"
	echo "$guest_request $(printf '%s' "$2" | base64 -w0)" >"$tty"
}

# Shows the output of a command that was started (by default the last), and
# returns its status: 124 if it has not ended in time, 125 if the guest is gone.
guest_wait() { # NAME [SECONDS [REQUEST]]
	local log request end
	log=$(guest_path "$1" .console)
	request=${3:-$(cat "$(guest_path "$1" .last)")}
	end=$((SECONDS + ${2:-${GUEST_TIMEOUT:-180}}))
	until grep -q "^@@$request end" "$log"; do
		if guest_gone_now_and_then "$1"; then
			echo "guest $1: it is gone; its console:" >&2
			grep -v '^@@' "$log" | tail -n 30 >&2
			return 125
		fi
		if [ $SECONDS -ge $end ]; then
			echo "guest $1: no answer in ${2:-${GUEST_TIMEOUT:-180}} s" >&2
			return 124
		fi
		sleep 0.2
	done
	sed -n "/^@@$request begin/,/^@@$request end/{/^@@/d;p}" "$log" | base64 -di
	return "$(sed -n "s/^@@$request end \([0-9]*\).*/\1/p" "$log")"
}

guest_run() { # NAME COMMANDS [SECONDS]
	guest_start "$1" "$2" && guest_wait "$1" "${3:-${GUEST_TIMEOUT:-180}}" "$guest_request"
}

# Shuts a guest down as its own poweroff would.
guest_stop() { # NAME
	local status=0
	if guest_id "$1" >/dev/null; then
		guest_start "$1" 'sync; poweroff -f'
		if ! wait_for 90 guest_gone "$1"; then
			echo "guest $1: did not power off, destroying it" >&2
			"${XL:-xl}" destroy "$1"
			status=1
		fi
	fi
	guest_detach "$1"
	return $status
}

guest_destroy() { # NAME
	"${XL:-xl}" destroy "$1"
	guest_detach "$1"
}

guest_gone() { ! guest_id "$1" >/dev/null; }
