#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The kernel target against fio's verification, in a VM: with a small mapper over
# block devices, ext4, XFS and tmpfs, killed, suspended, invalidated, resized.
#
# vm: --kernel 6.1 --timeout 1200 -- store:ext4 suspend death discard unaligned forget malformed limit fuzz
# vm: --kernel 6.12 --timeout 600 -- unaligned limit
# vm-long: --kernel 6.1 --timeout 2400
# vm-long: --kernel 6.12 --timeout 2400
# vm-long: --kernel debug --timeout 3000 -- store:ext4 suspend death discard unaligned forget malformed limit fuzz
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/kernel/target.bash
. "$(dirname "$0")/target.bash"

test_store() {
    local kind=$1
    each_store "$kind"
    make_device
    check "$kind: reads the base" cmp /dev/mapper/t $work/base
    check "$kind: writes and copies as a plain file does" compare_with_model
    check "$kind: fio verifies" verify
    end_device

    empty_store
    make_device --commit-ms 50 --invalidate-ms 20
    check "$kind: fio verifies under invalidations" verify
    end_device

    verify_over_kills "$kind: fio verifies" --short-places

    empty_store
    make_device --leases 64
    check "$kind: leases: writes and copies as a plain file does" compare_with_model
    check "$kind: leases: fio verifies" verify
    check "$kind: leases: nobody was asked" leases_were_taken
    end_device
    verify_over_kills "$kind: leases: fio verifies" --leases 16 --commit-ms 50
    empty_store
    make_device --leases 8 --commit-ms 50 --invalidate-ms 20
    check "$kind: leases: fio verifies under invalidations" verify
    end_device
    end_store
}

verify_over_kills() {
    local name=$1
    shift
    empty_store
    make_device "$@"
    verify > $work/verify.out 2>&1 &
    local job=$! kills=0
    while kill -0 $job 2> /dev/null; do
        sleep 0.$((RANDOM % 8 + 1))
        [ $kills -lt 12 ] || continue
        kill_mapper
        start_mapper
        kills=$((kills + 1))
    done
    wait $job
    check "$name over $kills mapper kills" test $? = 0
    end_device
}

test_suspend() {
    each_store ext4
    make_device --commit-ms 50
    verify > $work/verify.out 2>&1 &
    local job=$! i=0 size=$sectors
    while kill -0 $job 2> /dev/null; do
        size=$((size + 8))
        dmsetup suspend --noflush t
        if ((i % 2)); then dmsetup reload t --table "0 $size userspace t 2 grain 128"; fi
        dmsetup resume t
        dmsetup suspend t
        dmsetup resume t
        sleep 0.1
        i=$((i + 1))
    done
    wait $job
    check "suspend: fio verifies over $i suspends and reloads" test $? = 0
    dmsetup suspend --noflush t
    dmsetup reload t --table "0 $((sectors * 2)) userspace t 2 grain 128"
    dmsetup resume t
    check "reload: the new size is there" test "$(blockdev --getsz /dev/mapper/t)" = $((sectors * 2))
    end_device
    end_store
}

test_death() {
    each_store ext4
    make_device --wait 3
    kill_mapper
    # Where nobody has read yet, udev neither.
    check "death: a read fails after the limit" expect_error dd if=/dev/mapper/t of=/dev/null bs=4k skip=10000 count=1 iflag=direct
    start_mapper
    check "death: a successor ends that" dd if=/dev/mapper/t of=/dev/null bs=4k skip=10000 count=1 iflag=direct status=none
    kill_mapper
    run_options=()
    start_mapper --forget
    dd if=/dev/mapper/t of=/dev/null bs=4k skip=16384 count=1 iflag=direct 2> /dev/null &
    local job=$!
    sleep 0.5
    check "death: a request waits for a mapper that does not answer" kill -0 $job
    kill_mapper
    check "death: a noflush suspend does not wait" timeout 5 dmsetup suspend --noflush t
    dmsetup resume t
    dmsetup message t 0 fail
    wait $job
    check "death: by order everything ends in errors" test $? != 0
    check "death: a flushing suspend goes through" timeout 20 dmsetup suspend t
    dmsetup resume t
    check "death: and so does removal" timeout 20 dmsetup remove t
    end_store
}

test_discard() {
    each_store ext4
    table_options="5 grain 128 discard 128 write_zeroes"
    make_device --policy-zero
    dd if=/dev/urandom of=$work/data bs=1M count=8 status=none
    dd if=$work/data of=/dev/mapper/t bs=1M oflag=direct status=none
    cp $work/base $work/model
    dd if=$work/data of=$work/model bs=1M conv=notrunc status=none
    blkdiscard -o $((64 * 1024)) -l $((256 * 1024)) /dev/mapper/t
    dd if=/dev/zero of=$work/model bs=64k seek=1 count=4 conv=notrunc status=none
    blkdiscard -z -o $((1024 * 1024 + 512)) -l $((512 * 1024)) /dev/mapper/t
    dd if=/dev/zero of=$work/model bs=512 seek=2049 count=1024 conv=notrunc status=none
    echo 3 > /proc/sys/vm/drop_caches
    check "discard: zeros where whole grains went, and where written" cmp /dev/mapper/t $work/model
    kill_mapper
    dmsetup message t 0 wait 5
    start_mapper --policy-zero
    echo 3 > /proc/sys/vm/drop_caches
    check "discard: a successor knows of it" cmp /dev/mapper/t $work/model
    table_options=
    end_device
    end_store
}

test_unload() {
    local before after i
    for ((i = 0; i < 12; i++)); do
        each_store ext4
        make_device
        verify --io_size=2m > /dev/null
        end_device
        end_store
        rmmod dm_userspace
        sync
        echo 3 > /proc/sys/vm/drop_caches
        sleep 0.2
        # The first rounds fill what the kernel keeps anyway.
        [ $i -ne 3 ] || before=$(awk '/^(SUnreclaim|Percpu|MemFree)/ {print $1 $2}' /proc/meminfo | tr '\n' ' ')
        load_module
    done
    after=$(awk '/^(SUnreclaim|Percpu|MemFree)/ {print $1 $2}' /proc/meminfo | tr '\n' ' ')
    echo "# before $before after $after"
    local b a
    b=$(tr ' ' '\n' <<< "$before" | sed -n 's/^SUnreclaim://p')
    a=$(tr ' ' '\n' <<< "$after" | sed -n 's/^SUnreclaim://p')
    check "unload: slab memory does not grow ($b -> $a kB)" test $((a - b)) -lt 2048
}

# What must be refused is, one by one, and harms nothing.
test_malformed() {
    local verdict name
    ram_disk
    each_store tmpfs
    while read -r verdict name; do
        case $verdict in
        ok) pass "$name" ;;
        *) fail "${name#ok }" ;;
        esac
    done < <("$programs/dmu-malformed" t /dev/ram0 /mnt/store 2>&1 || echo "not ok malformed: it ended with an error")
    check "malformed: the device goes" timeout 20 dmsetup remove --retry t
    end_store
    # A mapper that has a device below is given that device as its own.
    each_store tmpfs
    # Of the tests before nothing may remain that it would be refused.
    store=/dev/mapper/t options=() run_options=()
    rm -f $work/table
    dmsetup create t --table "0 $sectors zero"
    start_mapper
    check "malformed: no table over what lies below its key" \
        expect_error dmsetup load t --table "0 $sectors userspace t 2 grain 128"
    kill_mapper
    check "malformed: that device goes" timeout 20 dmsetup remove --retry t
    end_store
}

verify_while_dropped() {
    verify "$@" > $work/verify.out 2>&1 &
    local job=$!
    drop_slabs $job
    wait $job || {
        cat $work/verify.out
        return 1
    }
}

keeps_to_budget() {
    echo "$(status_field 6) extents in $(status_field 7) bytes of $(status_field 18), $(status_field 19) forgotten"
    [ "$(status_field 18)" = $((1 << 20)) ] && [ "$(status_field 7)" -le $((1 << 20)) ] && [ "$(status_field 19)" -gt 0 ]
}

has_forgotten() { # MORE-THAN
    echo "$(status_field 19) extents forgotten, before $1; $(status_field 6) are in the map"
    [ "$(status_field 19)" -gt "$1" ]
}

# Its places come in no order: blocks that are allocated like that cost a lot.
written_store() {
    dd if=/dev/zero of="$store" bs=1M count=$((sectors / 2048)) oflag=direct status=none
}

# More writes at once, of less than a block, than there are workers: of those that wait for
# the file none may keep the others' completions from being done.
test_unaligned() {
    local sectors=8192
    each_store ext4
    written_store
    head -c $((sectors * 512)) $work/base > $work/model
    options=(--grain 1)
    table_options="2 grain 1"
    make_device --shuffle
    check "unaligned: each sector is written by itself" dd if=$work/model of=/dev/mapper/t bs=1M oflag=direct status=none
    check "unaligned: and is where it belongs" cmp /dev/mapper/t $work/model
    end_device
    table_options=
    end_store
}

# The map is made smaller all the time: over a budget, and as if memory were short.
test_forget() {
    local sectors=$((256 * 2048)) before
    each_store ext4
    written_store
    cat $work/base $work/base > $work/model
    table_options="4 grain 8 map_memory 1024"
    # No extent joins another.
    options=(--grain 8)
    make_device --shuffle
    check "forget: each grain is written" dd if=$work/model of=/dev/mapper/t bs=1M oflag=direct status=none
    check "forget: the map keeps to its budget" keeps_to_budget
    check "forget: what is asked again is right" cmp /dev/mapper/t $work/model
    check "forget: it still keeps to its budget" keeps_to_budget
    check "forget: fio verifies" verify
    before=$(status_field 19)
    echo 2 > /proc/sys/vm/drop_caches
    check "forget: short of memory, more goes" has_forgotten "$before"
    kill_mapper
    before=$(status_field 19)
    echo 2 > /proc/sys/vm/drop_caches
    check "forget: without a mapper nothing goes" expect_error has_forgotten "$before"
    start_mapper
    end_device

    # First writes, of which the log is full most of the time.
    sectors=$((32 * 2048))
    rm -f $work/model
    empty_store
    options=(--grain 1 --wide 8192 --base "$work/base" --reads-zero)
    table_options="6 grain 1 map_memory 1024 log 64"
    make_device --leases 4096 --commit-ms 300
    check "forget: fio verifies first writes" verify_while_dropped --bsrange=512-8k --io_size=8m
    check "forget: and the map was made smaller meanwhile" has_forgotten 0
    end_device
    drop_slabs $$ &
    local dropper=$!
    verify_over_kills "forget: fio verifies" --leases 4096 --commit-ms 50
    kill $dropper
    table_options=
    end_store
}

# The submitter's own limit on files is not the device's.
test_limit() {
    each_store ext4
    make_device
    blkdiscard -z -o $((64 << 20)) -l $((1 << 20)) /dev/mapper/t
    check "limit: a writer of small files writes to a large device" \
        bash -c 'ulimit -f 1024 && dd if=/dev/zero of=/dev/mapper/t bs=4k seek=16384 count=64 oflag=direct status=none'
    end_device
    end_store
}

# The device comes and goes, by halves too, while the channel is fuzzed.
disturb() { # PID
    local size how
    while kill -0 "$1" 2> /dev/null; do
        how=--noflush
        ((RANDOM % 3)) || how=--nolockfs
        sleep 0.$((RANDOM % 5 + 1))
        timeout 3 dmsetup suspend --noudevsync "$how" t
        size=$((65536 + RANDOM % 3 * 128 - 128))
        ((RANDOM % 2)) || dmsetup load t --table "0 $size userspace t 4 grain 128 discard 128"
        dmsetup resume --noudevsync t
        dmsetup message t 0 nofail
    done 2> /dev/null
}

test_fuzz() {
    local kind fuzzer job status seconds=${DMU_FUZZ_SECONDS:-10}
    ram_disk
    for kind in ext4 tmpfs; do
        each_store $kind
        "$programs/dmu-channel-fuzz" --key t --block /dev/ram0 --directory /mnt/store --seconds $((seconds / 2)) \
            ${DMU_FUZZ_SEED:+--seed $DMU_FUZZ_SEED} > $work/fuzz.out 2>&1 &
        fuzzer=$!
        wait_for 10 grep -q seed $work/fuzz.out
        dmsetup create t --noudevsync --table "0 65536 userspace t 5 grain 128 discard 128 write_zeroes"
        fio --name=f --filename=/dev/mapper/t --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k \
            --blockalign=512 --size=24m --io_size=4g --fsync=20 --time_based --runtime=$((seconds / 2)) \
            --continue_on_error=all --output=/dev/null 2> /dev/null &
        job=$!
        disturb $fuzzer
        wait $fuzzer
        status=$?
        cat $work/fuzz.out
        check "fuzz: on $kind: all is taken or refused" test $status = 0
        dmsetup message t 0 fail
        # It began later than the fuzzer; now it only waits for what it has under way.
        kill -INT $job 2> /dev/null
        check "fuzz: on $kind: I/O ends" wait_for 60 expect_error kill -0 $job
        check "fuzz: on $kind: the device goes" timeout 30 dmsetup remove --retry t
        end_store
    done
    check "fuzz: the module goes" rmmod dm_userspace
    load_module
}

mkdir -p $work
load_module
dd if=/dev/urandom of=$work/base bs=1M count=128 status=none
[ $# -gt 0 ] || set -- store:block store:ext4 store:xfs store:tmpfs suspend death discard unaligned forget malformed limit fuzz unload
for name in "$@"; do
    case $name in
    store:*) test_store "${name#store:}" ;;
    *) "test_$name" ;;
    esac
done
finish
