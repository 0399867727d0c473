#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# All at once, for a while: 16 jobs of fio that verify what they write, discards and
# zero writes beside them, and below a mapper that is killed, a device that is
# suspended, reloaded and made larger, a map that is forgotten, in part, as a whole, and
# for want of memory.
#
# storm.sh [SECONDS]
#
# vm: --kernel 6.12 --timeout 900 -- 120
# vm-long: --kernel 6.12 --timeout 5400 -- 3600
# vm-long: --kernel 6.1 --timeout 1500 -- 600
# vm-long: --kernel debug --timeout 1500 -- 300
set -uo pipefail
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"
# shellcheck source=tests/kernel/target.bash
. "$(dirname "$0")/target.bash"

seconds=${1:-120}
seed=${DMU_TEST_SEED:-$RANDOM}
RANDOM=$seed
jobs=16
part=$((4 * 2048)) # sectors: of each job, and behind them of discards
trims_at=$((jobs * part))
kills=0 suspends=0 sizes=0 drops=0

fio_all() {
    fio --name=v --filename=/dev/mapper/t --direct=1 --ioengine=libaio --iodepth=4 --numjobs=$jobs --group_reporting \
        --rw=randrw --bsrange=512-128k --blockalign=512 --size=$((part * 512)) --offset_increment=$((part * 512)) \
        --time_based --runtime="$seconds" --verify=crc32c --verify_backlog=64 --do_verify=1 --verify_fatal=1 \
        --verify_state_save=0 --fsync=50 --randseed="$seed" --output=$work/fio.out
}

at_trims() { # COMMAND...: dd with what the trimmed part needs
    dd bs=512 status=none "$@"
}

# Discards may be ignored, by grains; zeros may not.
one_trim() {
    local at count
    count=$((1 + RANDOM % 512))
    at=$((RANDOM % (part - count)))
    case $((RANDOM % 4)) in
    0)
        blkdiscard -z -o $(((trims_at + at) * 512)) -l $((count * 512)) /dev/mapper/t &&
            at_trims if=/dev/zero of=$work/trims seek=$at count=$count conv=notrunc
        ;;
    1)
        at=$((at / 128 * 128)) count=$(((count + 127) / 128 * 128))
        blkdiscard -o $(((trims_at + at) * 512)) -l $((count * 512)) /dev/mapper/t && after_discard $at $count
        ;;
    *)
        at_trims if=/dev/urandom of=$work/piece count=$count &&
            at_trims if=$work/piece of=/dev/mapper/t seek=$((trims_at + at)) oflag=direct conv=notrunc &&
            at_trims if=$work/piece of=$work/trims seek=$at conv=notrunc
        ;;
    esac
}

# Each grain is zeros now, or what it was: a discard leaves alone what was never written.
after_discard() { # SECTOR COUNT
    local at grain
    at_trims if=/dev/mapper/t of=$work/piece skip=$((trims_at + $1)) count="$2" iflag=direct || return
    for ((at = 0; at < $2; at += 128)); do
        zeros_or_before "$1" $at 128 && continue
        for ((grain = at; grain < at + 128; grain += 8)); do
            zeros_or_before "$1" $grain 8 && continue
            echo "after a discard sectors $(($1 + grain)) to $(($1 + grain + 8)) are neither zeros nor what they were"
            return 1
        done
    done
}

zeros_or_before() { # SECTOR OFFSET COUNT
    cmp -s -n $(($3 * 512)) -i $(($2 * 512)):$((($1 + $2) * 512)) $work/piece $work/trims && return
    cmp -s -n $(($3 * 512)) -i $(($2 * 512)):0 $work/piece $work/zeros &&
        at_trims if=/dev/zero of=$work/trims seek=$(($1 + $2)) count="$3" conv=notrunc
}

right_trims() {
    cmp $work/trims <(at_trims if=/dev/mapper/t skip=$trims_at count=$part iflag=direct)
}

trims() { # PID: until it ends
    local turn
    for ((turn = 1; ; turn++)); do
        kill -0 "$1" 2>/dev/null || break
        one_trim && { ((turn % 8)) || right_trims; } || return
    done
    right_trims && echo "# $turn discards, zero writes and writes"
}

one_disturbance() {
    case $((RANDOM % 5)) in
    0 | 1)
        kill_mapper
        start_mapper
        kills=$((kills + 1))
        ;;
    2)
        dmsetup suspend --noflush t
        # A mapper hears of a new size when the device goes on; one that comes then is told here.
        if ((RANDOM % 2)); then
            kill_mapper
            start_mapper
            kills=$((kills + 1))
        else
            sectors=$((sectors + 8))
            dmsetup load t --table "0 $sectors userspace t $table_options"
            sizes=$((sizes + 1))
        fi
        dmsetup resume t
        suspends=$((suspends + 1))
        ;;
    3)
        dmsetup suspend t
        dmsetup resume t
        suspends=$((suspends + 1))
        ;;
    4)
        echo 2 >/proc/sys/vm/drop_caches
        drops=$((drops + 1))
        ;;
    esac
}

mkdir -p $work
load_module
dd if=/dev/urandom of=$work/base bs=1M count=128 status=none
head -c 65536 /dev/zero >$work/zeros
dd if=$work/base of=$work/trims bs=512 skip=$trims_at count=$part status=none
echo "# seed $seed"
each_store ext4
table_options="7 grain 8 discard 128 write_zeroes map_memory 1024"
make_device --grain 8 --wide 8192 --leases 256 --commit-ms 50 --invalidate-ms 1000 --policy-zero
fio_all &
job=$!
trims $job >$work/trims.out 2>&1 &
trimmer=$!
while kill -0 $job 2>/dev/null; do
    sleep "0.$((RANDOM % 10))"
    one_disturbance
done
wait $job || { fail "fio ended with an error" && tail -n 40 $work/fio.out; }
wait $trimmer
status=$?
cat $work/trims.out
check "$jobs jobs of fio verified over $kills kills, $suspends suspends, $sizes sizes, $drops times short of memory" \
    grep -q 'err= 0' $work/fio.out
check "what is zeroed reads as zeros, what is discarded as zeros or as before" test $status = 0
check "there were kills and suspends" test $kills -gt 0 -a $suspends -gt 0
check "the size is the last" test "$(blockdev --getsz /dev/mapper/t)" = $sectors
echo "# $(status_field 10) misses, $(status_field 11) first writes, $(status_field 19) extents forgotten"
# A slow machine may not have had a map worth it before.
dd if=/dev/mapper/t of=/dev/null bs=1M iflag=direct status=none
echo 2 >/proc/sys/vm/drop_caches
check "the map was made smaller" test "$(status_field 19)" -gt 0
check "no request ended in an error" test "$(status_field 14)" = 0
end_device
end_store
finish
