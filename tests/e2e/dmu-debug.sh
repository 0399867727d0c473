#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The live debugger over a loop device, in a VM: what it logs, what its rules do,
# seen from the device below; breakpoints by script, pipe and JSON; its end, and its
# death under I/O.
#
# vm: --kernel 6.1 --timeout 900
# vm-long: --kernel 6.12 --timeout 300

# Functions are called through "check" and "wait_for", too.
# shellcheck disable=SC2317
set -u
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

debug=${DMU_DEBUG:-dmu-debug}
work=/tmp/debug
above=/dev/mapper/dbg
below=
pid=

modprobe -a dm-mod loop dm-userspace || { fail 'load the modules'; finish; }
mkdir -p $work

new_disk() { # SIZE
	[ -z "$below" ] || losetup -d "$below"
	rm -f $work/disk
	truncate -s "$1" $work/disk
	below=$(losetup --show -f $work/disk)
}

start() { # OPTION...
	: >$work/out
	"$debug" "$below" --name dbg "$@" >$work/out 2>$work/err &
	pid=$!
	wait_for 20 grep -q "$above" $work/out || { fail "start $*: $(cat $work/out $work/err)"; finish; }
}

# Ends it. Not in a subshell, whose child it would not be.
ends() { # [NAME]
	kill -TERM "$pid" 2>/dev/null
	wait "$pid" && pass "${1:-it ends}" || fail "${1:-it ends}: $(cat $work/out $work/err)"
}
gone() { [ ! -e $above ] && ! dmsetup info dbg >/dev/null 2>&1; }

put() { # TEXT SECTOR [COUNT]: one write of it, above
	yes "$1" | dd of=$above bs=$((512 * ${3:-1})) count=1 iflag=fullblock seek=$(($2 * 512)) oflag=direct,seek_bytes \
		conv=notrunc status=none
}
look() { dd if="$1" bs=512 count=1 skip="$2" iflag=direct status=none | head -c "${#3}"; } # DEVICE SECTOR TEXT
has() { [ "$(look "$@" | tr -d '\0')" = "$3" ]; }  # DEVICE SECTOR TEXT
lacks() { ! has "$@"; }
said() { wait_for 10 grep -q -- "$1" $work/out || { cat $work/out; return 1; }; }

# --- a log of a file system -----------------------------------------------------
new_disk 64M
start --log $work/log
fill() {
	mkfs.ext4 -q $above && mount $above /mnt || return
	for i in $(seq 20); do head -c 20000 /dev/urandom >"/mnt/file$i" || return; done
	sync && rm /mnt/file1 && umount /mnt
}
check 'a file system over it' fill
check 'e2fsck is content' e2fsck -fn $above
ends
check 'the device is gone' gone
check 'e2fsck below, too' e2fsck -fn "$below"
records=$((($(stat -c %s $work/log/records) - 4096) / 160))
check 'all was logged' [ $records -gt 50 ]
replays() {
	truncate -s 64M $work/base && "$debug" replay $work/log --base $work/base --onto $work/again &&
		cmp $work/again "$below"
}
check 'the log replays to what is below' replays
echo "# $(tail -n 1 $work/out)"
grep -q 'requests:.* write .* flush' $work/out && pass 'totals are told' || fail "totals: $(cat $work/out)"
grep -Eq 'of debugging \([0-9.]+ s of it keeping data\); [1-9][0-9]* us a request' $work/out &&
	pass 'and what the debugger took' || fail "what it took: $(cat $work/out)"

# --- hashes of a part ---------------------------------------------------------------
start --log $work/hashes --data hash --log-range 64+64 --log-size 8 --log-ops write,discard
put elsewhere 8 8
put wanted 64 8
put 'too small' 72
blkdiscard -o 36864 -l 4096 $above
dd if=/dev/null of=$above conv=fsync,notrunc status=none
ends 'a log with filters'
sum=$(dd if="$below" bs=4k count=1 skip=8 iflag=direct status=none | sha256sum | head -c 32)
"$debug" log $work/hashes --hash >$work/listed
check 'it has what was asked for' bash -c '[ "$(awk "{ print \$3, \$4 }" $0 | tr "\n" ,)" = "write 64+8,discard 72+8," ]' $work/listed
check 'the hash is of the data' grep -q " $sum\$" $work/listed
check 'such a log is not played' bash -c "! $debug replay $work/hashes --base $below --onto $work/none 2>$work/error"
check 'which is told' grep -q 'made with a filter' $work/error

# --- rules, seen from below ---------------------------------------------------------
new_disk 16M
start --rule 'drop write at 8' --rule 'fail ENOSPC write at 16' --rule 'tear 1+2 write at 24+4' \
	--rule 'delay 400ms write at 32' --rule 'fail EIO read at 40' --rule 'corrupt 8 read at 48' \
	--rule 'delay 400ms read at 56'
check 'a dropped write ends well' put dropped 8
check 'and is not there' lacks "$below" 8 dropped
put failed 16 2>$work/error && fail 'a failed write fails' || pass 'a failed write fails'
grep -q 'No space' $work/error && pass 'with the errno told' || fail "errno: $(cat $work/error)"
check 'a torn write ends well' put torn 24 4
check 'and is there in part' [ "$(dd if="$below" bs=512 skip=24 count=4 iflag=direct status=none | tr -d '\0' | wc -c)" = 1024 ]
late() { # COMMAND...: not before its 400 ms
	local begin
	begin=$(date +%s%N)
	"$@" && [ $((($(date +%s%N) - begin) / 1000000)) -ge 400 ]
}
check 'a delayed write takes its time' late put delayed 32
check 'and is there' has "$below" 32 delayed
check 'a read, too' late dd if=$above of=/dev/null bs=512 skip=56 count=1 iflag=direct status=none
dd if=$above of=/dev/null bs=512 skip=40 count=1 iflag=direct 2>/dev/null && fail 'a read fails' || pass 'a read fails'
put whole 48
cmp -s <(dd if=$above bs=512 skip=48 count=1 iflag=direct status=none) \
	<(dd if="$below" bs=512 skip=48 count=1 iflag=direct status=none) && fail 'a read is corrupt' || pass 'a read is corrupt'
ends

# --- reordering ------------------------------------------------------------------------
start --rule 'reorder write' --order reverse
for i in 1 2 3; do put "held$i" $((i * 8)); done
check 'held writes have ended' [ "$(grep -c 'reorder' $work/out)" -ge 3 ]
check 'they are not below' lacks "$below" 16 held2
check 'they are read above' has $above 16 held2
put again2 16
check 'the newer one is read' has $above 16 again2
check 'a flush' dd if=/dev/null of=$above conv=fsync,notrunc status=none
check 'brings them down' has "$below" 8 held1
check 'the newer one last' has "$below" 16 again2
ends

# --- breakpoints ---------------------------------------------------------------------------
cat >$work/script <<'END'
# stops before the write with the text, and drops it
break before write data "MARKER"
go
show
data 0 16
drop
go
END
start --script $work/script
put plain 8
check 'a write with the text' put MARKER 16
check 'was stopped' said 'stopped before .*write 16+1'
check 'its data was shown' said 'MARKER'
check 'it was dropped' lacks "$below" 16 MARKER
check 'another was not' has "$below" 8 plain
ends

mkfifo $work/pipe
: >$work/out
"$debug" "$below" --name dbg --json <$work/pipe >$work/out 2>$work/err &
pid=$!
exec 7>$work/pipe
check 'JSON: the device' said '"kind":"device"'
echo 'break after write at 64+8; go' >&7
put after 64 &
writer=$!
check 'stops after a write' said '"when":"after"'
check 'it is below already' has "$below" 64 after
kill -0 $writer && pass 'its sender waits' || fail 'its sender waits'
echo 'step; wait 300ms' >&7
wait $writer && pass 'its sender goes on' || fail 'its sender goes on'
put stepped 72 &
writer=$!
check 'step stops at the next' said '"why":"step"'
echo 'fail ETIMEDOUT; go' >&7
wait $writer && fail 'failed by hand' || pass 'failed by hand'
tell() { echo "$*" >&7; }
# The pipe waits for a stop, as a script does.
tell 'delete all; break write at 80+8 nth 2; break write after-flush at 96+2; break read at 20000; go'
put again 64
put first 80
put other 88
put second 80 &
writer=$!
check 'stops at the second' said '"why":"rule 2"'
tell 'drop; go'
wait $writer
check 'and not at the first' has "$below" 80 first
put unflushed 96
dd if=/dev/null of=$above conv=fsync,notrunc status=none
put flushed 96 2 &
writer=$!
check 'stops after a flush' said '"why":"rule 3"'
tell 'tear 1+1; go'
wait $writer
check 'and not before; half of that' has "$below" 96 unflushed
check 'is there' has "$below" 97 flushed
dd if=$above of=/dev/null bs=512 skip=20000 count=1 iflag=direct status=none 2>/dev/null &
writer=$!
check 'stops at a read' said '"why":"rule 4"'
tell 'fail; delete all; run to flush'
wait $writer && fail 'which fails' || pass 'which fails'
put held 112
dd if=/dev/null of=$above conv=fsync,notrunc status=none &
writer=$!
check 'runs to a flush' said '"why":"run to flush"'
check 'over the write before' has "$below" 112 held
number=$(sed -n 's/.*"number":\([0-9]*\),"op":"flush".*/\1/p' $work/out | tail -n 1)
tell "status; run to $((number + 2))"
wait $writer
put one 120
put two 121 &
writer=$!
check 'runs to a number' said "\"why\":\"run to $((number + 2))\""
check 'over the write before' has "$below" 120 one
check 'and has not let that one through' lacks "$below" 121 two
tell 'go'
wait $writer
check 'JSON: what it took' said '"kind":"status".*"seconds_overhead":[0-9]'
exec 7>&-
ends
bad=$(grep -v '^{.*}$' $work/out)
check 'nothing but JSON was said' [ -z "$bad" ]

# --- its end ------------------------------------------------------------------------------------
start --rule 'delay 100s write at 8' --rule 'stop write at 16' --rule 'reorder write at 24'
put waits 8 &
first=$!
put held 24
put stops 16 &
second=$!
check 'one is stopped' said 'stopped before'
ends
wait $first && wait $second && pass 'what waited has gone through' || fail 'what waited has gone through'
check 'the delayed one' has "$below" 8 waits
check 'the stopped one' has "$below" 16 stops
check 'the held one' has "$below" 24 held
check 'the device is gone' gone

know() { mkfs.ext4 -q "$below" && mount "$below" /mnt && echo known >/mnt/known && umount /mnt; }
check 'a file system below' know
cat >$work/script <<'END'
break before write data "MARKER" once
break before write data hex:c03b399800000002@0 once
go
explain
go
explain
go
END
start --script $work/script
mount $above /mnt
echo MARKER | dd of=/mnt/known conv=notrunc,fsync status=none
check 'a stop tells whose sectors they are' said '  ext4 file /known (inode 12)$'
check 'and what is about to be written' said '  ext4 journal block [0-9]*: commit of transaction [0-9]*$'
check 'explain tells the same' [ "$(grep -c '^ext4 file /known (inode 12)$\|^ext4 journal .*: commit of' $work/out)" = 2 ]
ends 'it ends while mounted'
use() { head -c 1M /dev/urandom >/mnt/after && sync /mnt/after && fstrim /mnt; }
check 'everything passes through' use
check 'unmount' umount /mnt
check 'then the device goes' wait_for 10 gone
check 'e2fsck below' e2fsck -fn "$below"

check 'a command of its own' "$debug" "$below" --name dbg --run "mount \$DMU_DEBUG_DEVICE /mnt && touch /mnt/run; umount /mnt"
check 'the device is gone' gone

# --- over an image ---------------------------------------------------------------------------------
make_store() {
	truncate -s 256M $work/store && mke2fs -q -t ext4 $work/store && mkdir -p /vm && mount -o loop $work/store /vm
}
check 'a place for images' make_store
check 'an image' qemu-img create -q -f qcow2 /vm/a.qcow2 32M
check 'debugged' "$debug" qcow2:/vm/a.qcow2 --name dbg --rule 'drop write at 16' \
	--run "yes kept | dd of=\$DMU_DEBUG_DEVICE bs=512 count=1 seek=8 iflag=fullblock oflag=direct conv=fsync &&
		yes lost | dd of=\$DMU_DEBUG_DEVICE bs=512 count=1 seek=16 iflag=fullblock oflag=direct conv=fsync"
check 'both devices are gone' wait_for 20 bash -c '! dmsetup ls | grep -q dbg'
# Killed: what waits is taken over by another, and one that cannot begin takes nothing away.
"$debug" qcow2:/vm/a.qcow2 --name dbg --log $work/image1 --on-death wait >$work/out 2>&1 &
pid=$!
check 'over the image again' said "$above"
kill -9 $pid
wait $pid 2>/dev/null
(yes waited | dd of=$above bs=512 count=1 seek=24 iflag=fullblock oflag=direct conv=fsync,notrunc status=none) &
writer=$!
check 'with the same log it is refused' bash -c "! $debug qcow2:/vm/a.qcow2 --name dbg --log $work/image1 --on-death wait"
check 'the image below stays' test -b /dev/mapper/dbg.below
kill -0 $writer && pass 'the write waits' || fail 'the write waits'
"$debug" qcow2:/vm/a.qcow2 --name dbg --log $work/image2 --on-death wait >$work/out 2>&1 &
pid=$!
wait $writer && pass 'with another log it goes on' || { fail 'with another log it goes on' && cat $work/out; }
ends
check 'both devices are gone again' wait_for 20 bash -c '! dmsetup ls | grep -q dbg'
check 'what waited is in the image' bash -c "qemu-io -f qcow2 -c 'read -v 12288 512' /vm/a.qcow2 | grep -q waited"
check 'qemu-img is content' qemu-img check -q /vm/a.qcow2
check 'what was let through is in it' bash -c "qemu-io -f qcow2 -c 'read -v 4096 512' /vm/a.qcow2 | grep -q kept"
check 'what was dropped is not' bash -c "! qemu-io -f qcow2 -c 'read -v 8192 512' /vm/a.qcow2 | grep -q lost"

# --- its death ------------------------------------------------------------------------------------
fio_job() { # OPTION...
	fio --name=death --filename=$above --rw=randwrite --bs=4k --size=8M --ioengine=libaio --iodepth=16 --direct=1 \
		--fsync=16 "$@"
}
start --log $work/log2 --rule 'reorder write every 3'
fio_job --time_based --runtime=60 >$work/fio 2>&1 &
writer=$!
sleep 3
kill -9 $pid
wait $pid 2>/dev/null
check 'killed: the I/O fails, nothing hangs' wait_for 20 bash -c "! kill -0 $writer 2>/dev/null"
wait $writer && fail 'fio has seen errors' || pass 'fio has seen errors'
check 'the log is whole' bash -c "[ \$($debug log $work/log2 -k write | wc -l) -gt 0 ]"
check 'the device can be removed' dmsetup remove --retry dbg

start --log $work/log3 --rule 'delay 100s write at 8' --rule 'stop write at 16'
put delayed 8 2>/dev/null &
first=$!
check 'one is delayed' said 'delay'
put stopped 16 2>/dev/null &
second=$!
check 'one is stopped' said 'stopped before'
kill -9 $pid
wait $pid 2>/dev/null
! wait $first && ! wait $second && pass 'killed: what waited fails' || fail 'killed: what waited fails'
check 'the log knows that they were pending' [ "$("$debug" log $work/log3 -k write -o pending | wc -l)" = 2 ]
check 'the device can be removed' dmsetup remove --retry dbg

start --log $work/log4 --base $work/base4 --rule 'reorder write every 3' --rule 'delay 2ms write every 11'
check 'fio verifies over what is held, delayed and logged' fio_job --verify=crc32c --do_verify=1 --verify_state_save=0 \
	--size=4M --randrepeat=0
ends
check 'and the log has all of it' bash -c "$debug replay $work/log4 --base $work/base4 --onto $work/again4 && cmp $work/again4 $below"
refused() { ! "$debug" "$below" --name dbg --log $work/log4 >$work/refused 2>&1 && grep -q 'holds a log already' $work/refused; }
check 'a log is not overwritten' refused

start --on-death wait
fio_job --verify=crc32c --do_verify=1 --loops=3 >$work/fio 2>&1 &
writer=$!
sleep 2
kill -9 $pid
wait $pid 2>/dev/null
sleep 1
start --on-death wait
said 'taken over' && pass 'another takes it over' || fail 'another takes it over'
wait $writer && pass 'fio has seen nothing' || { fail 'fio has seen nothing'; cat $work/fio; }
ends
check 'the device is gone' gone

losetup -d "$below"
check 'the module can be removed' modprobe -r dm-userspace
finish
