# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# For the tests of the kernel target in a VM: the module, the small mapper
# (test_mapper.cc) and its device "t", what its store lies on.

module=${DMU_MODULE:-dm-userspace}
programs=${DMU_TEST_PROGRAMS:-/src/build/release/tests}
mapper=${DMU_TEST_MAPPER:-$programs/dmu-test-mapper}
work=/tmp/dmu-test
sectors=$((128 * 2048))
mapper_pid=
options=()
run_options=()
table_options=

load_module() {
    modprobe -a dm-mod loop
    if [ -f "$module" ]; then insmod "$module"; else modprobe "$module"; fi
}

start_mapper() {
    : > $work/mapper.out
    "$mapper" --key t --sectors $sectors --store "$store" --table $work/table "${options[@]}" "${run_options[@]}" "$@" \
        > $work/mapper.out 2>> $work/mapper.err &
    mapper_pid=$!
    wait_for 30 grep -q serving $work/mapper.out || fail "a mapper that serves: $(cat $work/mapper.err)"
}

kill_mapper() {
    [ -z "$mapper_pid" ] || { kill -9 $mapper_pid; wait $mapper_pid; } 2> /dev/null || true
    mapper_pid=
}

make_device() {
    rm -f $work/table
    : > $work/mapper.err
    run_options=("$@")
    start_mapper
    dmsetup create t --table "0 $sectors userspace t ${table_options:-2 grain 128}" || fail "the device is made"
    udevadm settle 2> /dev/null || true
}

# One number of the status line, by its place behind the target's name.
status_field() {
    dmsetup status t | awk -v n="$1" '{print $(3 + n)}'
}

leases_were_taken() {
    local misses first_writes
    misses=$(status_field 10) first_writes=$(status_field 11)
    echo "$first_writes first writes, $misses misses"
    [ "$first_writes" -gt $((4 * misses)) ]
}

end_device() {
    udevadm settle 2> /dev/null || true
    dmsetup remove --retry t
    kill_mapper
    if [ -s $work/mapper.err ]; then cat $work/mapper.err; fi
}

verify() {
    fio --name=v --filename=/dev/mapper/t --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-128k \
        --blockalign=512 --size=$((sectors * 512)) --io_size=24m --verify=crc32c --verify_backlog=64 --do_verify=1 \
        --verify_fatal=1 --verify_state_save=0 --fsync=100 --randseed=$RANDOM --output=$work/fio.out "$@" || {
        tail -30 $work/fio.out
        return 1
    }
}

# Every sector of the device against a plain copy that was written alike.
compare_with_model() {
    local i offset count
    cp $work/base $work/model
    for ((i = 0; i < 60; i++)); do
        count=$((1 + RANDOM % 40))
        offset=$(((RANDOM * 32768 + RANDOM) % (sectors - count)))
        dd if=/dev/urandom of=$work/piece bs=512 count=$count status=none
        dd if=$work/piece of=/dev/mapper/t bs=512 seek=$offset oflag=direct conv=notrunc status=none
        dd if=$work/piece of=$work/model bs=512 seek=$offset conv=notrunc status=none
    done
    sync
    echo 3 > /proc/sys/vm/drop_caches
    cmp /dev/mapper/t $work/model
}

ram_disk() {
    modprobe brd rd_nr=1 rd_size=$((300 * 1024)) 2> /dev/null || true
}

each_store() {
    local kind=$1
    options=()
    case $kind in
    block)
        ram_disk
        store=/dev/ram0
        ;;
    ext4 | xfs)
        truncate -s 1G $work/disk
        local loop
        loop=$(losetup -f --show $work/disk)
        "mkfs.$kind" -q "$loop"
        mkdir -p /mnt/store
        mount "$loop" /mnt/store
        store=/mnt/store/store
        : > "$store"
        options=(--reads-zero)
        ;;
    tmpfs)
        mkdir -p /mnt/store
        mount -t tmpfs none /mnt/store
        store=/mnt/store/store
        : > "$store"
        ;;
    esac
    options+=(--base "$work/base")
}

empty_store() {
    [ -b "$store" ] || : > "$store"
}

end_store() {
    local loop
    if mountpoint -q /mnt/store; then
        loop=$(findmnt -n -o SOURCE /mnt/store)
        umount /mnt/store
        [ "$loop" = none ] || losetup -d "$loop"
    fi
    rm -f $work/disk
}

expect_error() {
    ! "$@" 2> /dev/null
}

# As if memory were short, until PID ends.
drop_slabs() { # PID
    while kill -0 "$1" 2> /dev/null; do
        echo 2 > /proc/sys/vm/drop_caches
        sleep 0.1
    done
}

# Where everything stands after so many seconds, for whoever looks for a hang.
if [ -n "${DMU_WATCHDOG:-}" ]; then
    (
        sleep "$DMU_WATCHDOG"
        dmsetup status
        echo w > /proc/sysrq-trigger
        dmesg | tail -n 150
        ps aux | tail -n 20
    ) &
fi
