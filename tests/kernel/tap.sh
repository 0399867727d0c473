#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Mirrors, requests that come back to the mapper, and flushes that it is asked for,
# in a VM: with a small mapper that writes down what it is told.
#
# vm-long: --kernel 6.1 --timeout 900
# vm: --kernel 6.12 --timeout 900
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

module=${DMU_MODULE:-dm-userspace}
mapper=${DMU_TAP_MAPPER:-/src/build/release/tests/dmu-tap-mapper}
work=/tmp/dmu-tap
sectors=$((16 * 2048))
offset=2048
mapper_pid=
table_options=0

start_mapper() {
    : > $work/told
    "$mapper" --key t --sectors $sectors "$@" > $work/told 2>> $work/errors &
    mapper_pid=$!
    wait_for 10 grep -q serving $work/told || fail "a mapper that serves: $(cat $work/errors)"
}

kill_mapper() {
    [ -z "$mapper_pid" ] || { kill -9 $mapper_pid; wait $mapper_pid; } 2> /dev/null || true
    mapper_pid=
}

make_device() {
    : > $work/errors
    start_mapper "$@"
    dmsetup create t --table "0 $sectors userspace t $table_options"
    udevadm settle 2> /dev/null || true
}

end_device() {
    udevadm settle 2> /dev/null || true
    check "$1: removal" timeout 20 dmsetup remove --retry t
    kill_mapper
    [ ! -s $work/errors ] || fail "$1: the mapper: $(cat $work/errors)"
}

told() { grep -Eq "$1" $work/told; }
expect_error() { ! "$@" 2> /dev/null; }

verify() {
    fio --name=v --filename=/dev/mapper/t --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=4k-128k \
        --blockalign=4k --size=$((sectors * 512)) --io_size=2m --verify=crc32c --verify_backlog=64 --do_verify=1 \
        --verify_fatal=1 --verify_state_save=0 --fsync=50 --randseed=$RANDOM --output=$work/fio.out "$@" || {
        tail -30 $work/fio.out
        return 1
    }
}

write_at() { # SECTOR [DD OPTION]...
    local at=$1
    shift
    dd if=$work/random of=/dev/mapper/t bs=4k count=1 seek=$((at / 8)) oflag=direct conv=notrunc status=none "$@"
}

read_at() { # SECTOR FILE
    dd if="$2" bs=4k count=1 skip=$(($1 / 8)) iflag=direct status=none 2> /dev/null ||
        dd if="$2" bs=4k count=1 skip=$(($1 / 8)) status=none
}

wipe() { # FILE...
    local leg
    for leg in "$@"; do dd if=/dev/zero of="$leg" bs=1M count=32 conv=notrunc,fsync status=none; done
}

legs_are_equal() { # FIRST SECOND
    sync
    echo 3 > /proc/sys/vm/drop_caches
    cmp -n $((sectors * 512)) -i 0:$((offset * 512)) "$1" "$2"
}

same_data() { # SECTOR FILE [SECTOR THERE]: as the first random block
    cmp -n 4096 $work/random <(read_at "${3:-$1}" "$2")
}

# ------------------------------------------------------------- mirrors ---

test_mirror() { # NAME FIRST SECOND [OPTION]...
    local name=$1 first=$2 second=$3
    shift 3
    wipe "$first" "$second"
    make_device --first "$first" --second "$second" --offset $offset "$@"
    check "mirror, $name: fio verifies" verify
    check "mirror, $name: buffered writes" dd if=$work/random of=/dev/mapper/t bs=1M count=2 seek=1 conv=fsync status=none
    check "mirror, $name: legs are equal" legs_are_equal "$first" "$second"
    check "mirror, $name: one question was enough" test "$(grep -c miss $work/told)" -lt 4
    end_device "mirror, $name"
}

# A leg begins to fail under the verification: the mapper drops it and goes on.
test_failing_leg() { # first|second
    dmsetup create bad --table "0 65536 linear /dev/ram1 0"
    if [ "$1" = first ]; then
        make_device --first /dev/mapper/bad --second /dev/ram0 --offset $offset
    else
        make_device --first /dev/ram0 --second /dev/mapper/bad --offset $offset
    fi
    write_at 0
    verify --rate_iops=300 > $work/verify.out 2>&1 &
    local job=$!
    sleep 1
    dmsetup suspend bad
    dmsetup reload bad --table "0 65536 error"
    dmsetup resume bad
    wait $job
    check "$1 leg fails: fio verifies" test $? = 0
    check "$1 leg fails: the mapper was told" told "miss (read|write) .*error=5 returned $1"
    check "$1 leg fails: reads go on" dd if=/dev/mapper/t of=/dev/null bs=1M count=2 iflag=direct status=none
    end_device "$1 leg fails"
    dmsetup remove bad
}

zeros_at() { # FILE SECTOR
    cmp -n 65536 <(dd if="$1" bs=512 skip="$2" count=128 status=none) /dev/zero
}

test_trims() {
    table_options="3 discard 8 write_zeroes"
    make_device --first /dev/ram0 --second $work/ext4/file --offset $offset
    dd if=$work/random of=/dev/mapper/t bs=1M count=1 oflag=direct status=none
    blkdiscard -z -o 65536 -l 65536 /dev/mapper/t
    check "trims: zeros on the first" zeros_at /dev/ram0 128
    check "trims: zeros on the second" zeros_at $work/ext4/file $((offset + 128))
    check "trims: the rest is as it was" same_data 0 /dev/ram0
    check "trims: discard" blkdiscard -o 131072 -l 65536 /dev/mapper/t
    check "trims: a discard reached the file" zeros_at $work/ext4/file $((offset + 256))
    end_device trims
    make_device --ask --first $work/ext4/file
    dd if=$work/random of=/dev/mapper/t bs=1M count=1 oflag=direct status=none
    blkdiscard -o 65536 -l 65536 /dev/mapper/t
    blkdiscard -z -o 131072 -l 65536 /dev/mapper/t
    check "trims: they come back too" told "miss discard start=128 length=128 error=0 returned"
    check "trims: and were done" zeros_at $work/ext4/file 128
    check "trims: write-zeroes too" zeros_at $work/ext4/file 256
    end_device "trims, asked"
    table_options=0
}

# ------------------------------------------------ what comes back ---

test_return() { # NAME OPTION...
    local name=$1
    shift
    make_device --ask --mix "$@"
    check "return, $name: fio verifies" verify
    check "return, $name: it was told" told "miss write .* returned"
    end_device "return, $name"
}

test_answers() {
    table_options="1 ask_flush"
    make_device --ask --first /dev/ram0 --fail-at 4096
    check "answers: a write ends well" write_at 2048
    check "answers: and is there" same_data 2048 /dev/ram0
    check "answers: a write ends in the mapper's error" expect_error write_at 4096
    check "answers: after it was done" same_data 4096 /dev/ram0
    check "answers: a write with FUA" write_at 1024 oflag=direct,dsync
    check "answers: the mapper was told of FUA" told "miss write start=1024 length=8 error=0 returned fua"
    check "answers: a flush with nothing to commit" told "flush asked"
    check "answers: no flush of the kernel's own" expect_error grep -q "^flush$" $work/told
    kill_mapper
    start_mapper --ask --first /dev/ram0 --fail-flush
    check "answers: a flush fails by order" expect_error write_at 1024 conv=notrunc,fsync
    check "answers: a plain write does not" write_at 1024
    kill_mapper
    start_mapper --ask --first /dev/ram0 --drop
    check "answers: a read that was never done is zeros" cmp -n 4096 <(read_at 2048 /dev/mapper/t) /dev/zero
    end_device answers
    table_options=0
}

# The destination fails: told, and by ONCE RETURN too.
test_error_back() {
    dmsetup create bad --table "0 65536 error"
    make_device --ask --first /dev/mapper/bad
    check "errors: a write ends in one" expect_error write_at 64
    check "errors: the mapper was told" told "miss write start=64 length=8 error=5 returned first"
    end_device errors
    dmsetup remove bad
}

held() { # SECTOR: a write that has come back, and is not answered
    write_at "$1" > /dev/null 2>&1 &
    job=$!
    wait_for 10 told "miss write start=$1 .* returned" || fail "held: a write comes back"
}

test_held() {
    local job
    make_device --ask --hold --first /dev/ram0
    held 512
    kill -USR1 $mapper_pid
    check "held: an invalidation does not wait for it" wait_for 5 told invalidated
    check "held: it still waits" kill -0 $job
    kill_mapper
    start_mapper --ask --first /dev/ram0
    check "held: a successor is told again" wait_for 5 told "miss write start=512 length=8 error=0 again returned"
    wait $job
    check "held: and ends it" test $? = 0
    kill_mapper

    start_mapper --ask --hold --first /dev/ram0
    held 1536
    kill_mapper
    check "held: a noflush suspend does not wait" timeout 5 dmsetup suspend --noflush t
    start_mapper --ask --first /dev/ram0
    dmsetup resume t
    wait $job
    check "held: after it the write is made again" test $? = 0
    kill_mapper

    start_mapper --ask --hold --first /dev/ram0
    held 2560
    dmsetup suspend t &
    local suspend=$!
    sleep 0.5
    check "held: a plain suspend waits" kill -0 $suspend
    kill_mapper
    start_mapper --ask --first /dev/ram0
    wait $suspend
    check "held: and goes through with a successor" test $? = 0
    dmsetup resume t
    wait $job
    check "held: as does the write" test $? = 0
    kill_mapper

    start_mapper --ask --hold --first /dev/ram0
    held 3584
    dmsetup message t 0 fail
    wait $job
    check "held: ends in an error by order" test $? != 0
    dmsetup message t 0 nofail
    held 4608
    dmsetup message t 0 wait 1
    kill_mapper
    wait $job
    check "held: ends in an error when the wait is over" test $? != 0
    end_device held
}

# Killed again and again while all of it is under way.
test_kills() {
    wipe /dev/ram0 $work/ext4/file
    make_device --ask --mix --piece 24 --first /dev/ram0 --second $work/ext4/file --offset $offset
    verify > $work/verify.out 2>&1 &
    local job=$! kills=0
    while kill -0 $job 2> /dev/null && [ $kills -lt 5 ]; do
        sleep 0.$((RANDOM % 3 + 1))
        kill_mapper
        start_mapper --ask --mix --piece 24 --first /dev/ram0 --second $work/ext4/file --offset $offset
        kill -USR1 $mapper_pid
        kills=$((kills + 1))
    done
    wait $job
    check "kills: fio verifies over $kills of them" test $? = 0
    check "kills: legs are equal" legs_are_equal /dev/ram0 $work/ext4/file
    end_device kills
}

make_stores() {
    local loop
    modprobe brd rd_nr=2 rd_size=$((32 * 1024))
    mkdir -p $work/ext4 $work/tmpfs
    truncate -s 100M $work/disk
    loop=$(losetup -f --show $work/disk)
    mkfs.ext4 -q "$loop"
    mount "$loop" $work/ext4
    mount -t tmpfs none $work/tmpfs
    fallocate -l 32M $work/ext4/file
    truncate -s 32M $work/tmpfs/file
    dd if=/dev/urandom of=$work/random bs=1M count=2 status=none
}

mkdir -p $work
modprobe -a dm-mod loop
if [ -f "$module" ]; then insmod "$module"; else modprobe "$module"; fi
make_stores
[ $# -gt 0 ] || set -- mirrors legs trims returns answers held kills
for name in "$@"; do
    case $name in
    mirrors)
        test_mirror "two devices, many extents" /dev/ram0 /dev/ram1 --piece 24
        test_mirror "file and device" $work/ext4/file /dev/ram1
        test_mirror "device and buffered file" /dev/ram0 $work/tmpfs/file
        ;;
    legs)
        test_failing_leg first
        test_failing_leg second
        ;;
    returns)
        test_return device --first /dev/ram0
        test_return "file, in pieces" --first $work/ext4/file --piece 24
        test_return "mirror, in pieces" --first $work/tmpfs/file --second /dev/ram1 --offset $offset --piece 40
        test_error_back
        ;;
    *) "test_$name" ;;
    esac
done
check "the module goes" rmmod dm_userspace
finish
