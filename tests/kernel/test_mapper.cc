// SPDX-License-Identifier: GPL-2.0-or-later
// A small mapper for the tests of the kernel target: copy-on-write of a base into a
// store, its table in a file. Told to, it misbehaves.
#include <dm-userspace.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "xen-backend/libdmu/dmu.h"

namespace {

constexpr unsigned base_number = 1, store_number = 2;
constexpr uint64_t nowhere = ~0ull;
constexpr uint32_t pool_number = 1;

struct Options {
    std::string key, base, store, table;
    uint64_t sectors = 0, grain = 128, wide = 65536, leases = 0;
    unsigned commit_ms = 0, invalidate_ms = 0, wait = DMU_WAIT_FOREVER, destination_flags = 0;
    bool policy_zero = false, forget = false, short_places = false, reads_zero = false, ask = false, shuffle = false;
};

[[noreturn]] void die(const char* what, int error) {
    fprintf(stderr, "test_mapper: %s: %s\n", what, strerror(error < 0 ? -error : error));
    exit(1);
}

void check(const char* what, int result) {
    if (result < 0) die(what, result);
}

class Mapper {
public:
    explicit Mapper(const Options& options) : o_(options), table_((o_.sectors + o_.grain - 1) / o_.grain, nowhere) {}

    void start() {
        check("attach", dmu_attach(o_.key.c_str(), DMU_ATTACH_CREATE, &channel_));
        check("wait", dmu_set_wait(channel_, o_.wait));
        dmu_destination known;
        if (dmu_destination_get(channel_, store_number, &known) < 0) {
            if (!o_.base.empty()) add(base_number, o_.base, O_RDONLY, DMU_DEST_READ_ONLY);
            add(store_number, o_.store, O_RDWR, o_.destination_flags);
        }
        // A device that has grown reads as zeros past the end of its base.
        if (!o_.base.empty()) {
            check("base", dmu_destination_get(channel_, base_number, &known));
            base_sectors_ = known.sectors / o_.grain * o_.grain;
        }
        store_ = dmu_destination_fd(channel_, store_number);
        check("store descriptor", store_);
        table_file_ = open(o_.table.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (table_file_ < 0) die(o_.table.c_str(), errno);
        for (ssize_t got = 1, at = 0; got > 0; at += got) {
            got = pread(table_file_, reinterpret_cast<char*>(table_.data()) + at, table_.size() * 8 - at, at);
            if (got < 0) die("read table", errno);
        }
        if (lseek(table_file_, 0, SEEK_END) == 0) make_table();
        for (uint64_t place : table_)
            if (place != nowhere) next_ = std::max<uint64_t>(next_, place + o_.grain);
        committed_ = table_;
        // What is made from the table is as new as what its predecessor had acknowledged.
        dmu_state state;
        check("state", dmu_get_state(channel_, &state));
        applied_ = acknowledged_ = state.committed;
    }

    void run() {
        printf("serving\n");
        fflush(stdout);
        auto last_commit = std::chrono::steady_clock::now(), last_invalidate = last_commit;
        std::mt19937 random(getpid());
        // Benchmarks would count what it does for nothing.
        const int wait = o_.commit_ms || o_.invalidate_ms ? 10 : -1;
        for (;;) {
            pollfd fd{dmu_fd(channel_), POLLIN, 0};
            poll(&fd, 1, wait);
            dmu_event events[64];
            int count = dmu_next_events(channel_, events, 64);
            check("events", count);
            for (int i = 0; i < count; i++) handle(events[i]);
            auto now = std::chrono::steady_clock::now();
            if (o_.commit_ms && now - last_commit > std::chrono::milliseconds(o_.commit_ms)) {
                commit(applied_);
                last_commit = now;
            }
            if (o_.invalidate_ms && now - last_invalidate > std::chrono::milliseconds(o_.invalidate_ms)) {
                invalidate(random);
                last_invalidate = now;
            }
        }
    }

private:
    void make_table() {
        std::fill(table_.begin(), table_.end(), nowhere);
        if (!o_.shuffle) return;
        for (uint64_t i = 0; i < table_.size(); i++) table_[i] = i * o_.grain;
        std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
    }

    void add(unsigned number, const std::string& path, int mode, unsigned flags) {
        int fd = open(path.c_str(), mode | O_CLOEXEC);
        if (fd < 0) die(path.c_str(), errno);
        dmu_destination answer;
        check(path.c_str(), dmu_destination_add(channel_, number, fd, flags, 0, &answer));
        close(fd);
    }

    void handle(const dmu_event& event) {
        switch (event.type) {
            case DMU_EV_MISS:
                event.op == DMU_OP_READ || event.op == DMU_OP_WRITE ? miss(event) : done(event.id);
                break;
            case DMU_EV_CHANGED:
                changed(event);
                break;
            case DMU_EV_PLACED:
            case DMU_EV_LEASED:
                next_ = std::max<uint64_t>(next_, event.physical + event.length);
                break;
            case DMU_EV_ATTACHED:
                if (o_.leases) start_leases();
                break;
            case DMU_EV_LEASE_LOW:
                lease();
                break;
            case DMU_EV_RESIZED:
                resize(event.length);
                break;
            case DMU_EV_FLUSH:
                commit(event.sequence);
                break;
            default:
                break;
        }
    }

    void start_leases() {
        dmu_command command;
        dmu_cmd_pool(&command, pool_number, o_.grain, o_.grain, o_.leases / 2 * o_.grain);
        send(command);
        lease();
    }

    void lease() {
        uint64_t length = o_.leases * o_.grain, place = take(length);
        dmu_command command;
        dmu_cmd_lease(&command, pool_number, store_number, place, length, o_.reads_zero ? DMU_READS_ZERO : 0);
        send(command);
    }

    uint64_t take(uint64_t length) {
        struct stat st;
        fstat(store_, &st);
        if (S_ISREG(st.st_mode) && posix_fallocate(store_, next_ * 512, length * 512)) die("fallocate", ENOSPC);
        uint64_t place = next_;
        next_ += (length + o_.grain - 1) / o_.grain * o_.grain;
        return place;
    }

    void resize(uint64_t sectors) {
        o_.sectors = sectors;
        table_.resize((sectors + o_.grain - 1) / o_.grain, nowhere);
        committed_.resize(table_.size(), nowhere);
        filled_ = false;
    }

    void done(uint64_t id) {
        dmu_command command;
        dmu_cmd_done(&command, id);
        send(command);
    }

    void changed(const dmu_event& event) {
        applied_ = event.sequence;
        if (event.kind == DMU_KIND_LOST) {
            lost_++;
            return;
        }
        for (uint64_t at = 0; at < event.length; at += o_.grain)
            table_[(event.start + at) / o_.grain] = event.kind == DMU_KIND_LINEAR ? event.physical + at : nowhere - 1;
        if (event.kind == DMU_KIND_LINEAR) next_ = std::max<uint64_t>(next_, event.physical + event.length);
    }

    // The whole neighbourhood, so that a miss is rare. The miss (0: none) ends where it does.
    void map(uint64_t from, uint64_t to, uint64_t id, uint64_t end) {
        std::vector<dmu_command> commands;
        for (uint64_t at = from; at < to; at += o_.grain) {
            uint64_t length = std::min<uint64_t>(o_.grain, o_.sectors - at), place = table_[at / o_.grain];
            uint64_t answers = at < end && end <= at + o_.grain ? id : 0;
            dmu_command command;
            if (place == nowhere - 1 || (place == nowhere && at >= base_sectors_))
                dmu_cmd_map_zero(&command, answers, at, length);
            else if (place == nowhere)
                dmu_cmd_map_cow(&command, answers, at, length, base_number, at);
            else
                dmu_cmd_map_linear(&command, answers, at, length, store_number, place, DMU_MAP_WRITABLE);
            finish(command);
            commands.push_back(command);
        }
        size_t sent = 0;
        check("map", dmu_send(channel_, commands.data(), commands.size(), &sent));
    }

    void miss(const dmu_event& event) {
        uint64_t from = event.start / o_.wide * o_.wide, to = std::min<uint64_t>(o_.sectors, from + o_.wide);
        to = std::max<uint64_t>(to, event.start + event.length);
        if (o_.forget) return;
        const bool places = event.op == DMU_OP_WRITE && table_[event.start / o_.grain] >= nowhere - 1;
        map(from, to, places ? 0 : event.id, event.start + event.length);
        if (places) place(event);
    }

    void place(const dmu_event& event) {
        uint64_t length = event.length;
        for (uint64_t at = o_.grain; at < event.length; at += o_.grain)
            if (table_[(event.start + at) / o_.grain] < nowhere - 1) {
                length = at;
                break;
            }
        if (o_.short_places) length = std::min<uint64_t>(length, o_.grain);
        dmu_command command;
        dmu_cmd_place(&command, event.id, event.start, length, store_number, take(length),
                      o_.reads_zero ? DMU_READS_ZERO : 0);
        finish(command);
        send(command);
    }

    void finish(dmu_command& command) {
        command.sequence = applied_;
        if (o_.leases) command.pool = pool_number;
        if (o_.policy_zero) dmu_cmd_policies(&command, DMU_POLICY_ZERO, DMU_POLICY_ZERO);
    }

    void send(const dmu_command& command) {
        size_t sent = 0;
        int error = dmu_send(channel_, &command, 1, &sent);
        if (error < 0) {
            fprintf(stderr, "test_mapper: command %u id %llu start %llu length %llu\n", command.type,
                    (unsigned long long)command.id, (unsigned long long)command.start,
                    (unsigned long long)command.length);
            die("refused", error);
        }
    }

    void commit(uint64_t sequence) {
        if (sequence <= acknowledged_ || !applied_) return;
        if (fdatasync(store_)) die("sync store", errno);
        for (size_t i = 0; i < table_.size(); i++)
            if (table_[i] != committed_[i] && pwrite(table_file_, &table_[i], 8, i * 8) != 8) die("write table", errno);
        // The file is read back as a whole by a successor.
        uint64_t last = table_.back();
        if (pwrite(table_file_, &last, 8, (table_.size() - 1) * 8) != 8) die("write table", errno);
        fill_holes();
        if (fdatasync(table_file_)) die("sync table", errno);
        committed_ = table_;
        acknowledged_ = sequence;
        dmu_command command;
        dmu_cmd_committed(&command, sequence);
        send(command);
    }

    // Entries never written are holes, and would read as place 0.
    void fill_holes() {
        if (filled_) return;
        if (pwrite(table_file_, table_.data(), table_.size() * 8, 0) != ssize_t(table_.size() * 8)) die("table", errno);
        filled_ = true;
    }

    void invalidate(std::mt19937& random) {
        uint64_t from = random() % o_.sectors, length = 1 + random() % (o_.sectors - from);
        dmu_command command;
        dmu_cmd_invalidate(&command, 1, from, random() % 8 ? length : 0);
        send(command);
    }

    Options o_;
    dmu_channel* channel_ = nullptr;
    int store_ = -1, table_file_ = -1;
    std::vector<uint64_t> table_, committed_;
    uint64_t base_sectors_ = 0;
    uint64_t next_ = 0, applied_ = 0, acknowledged_ = 0, lost_ = 0;
    bool filled_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app{"A mapper for the tests of the kernel target"};
    bool buffered = false;
    app.add_option("--key", o.key)->required();
    app.add_option("--sectors", o.sectors)->required();
    app.add_option("--store", o.store)->required();
    app.add_option("--table", o.table)->required();
    app.add_option("--base", o.base);
    app.add_option("--grain", o.grain);
    app.add_option("--wide", o.wide);
    app.add_option("--commit-ms", o.commit_ms);
    app.add_option("--invalidate-ms", o.invalidate_ms);
    app.add_option("--wait", o.wait);
    app.add_option("--leases", o.leases, "grains in a lease; none: every first write asks");
    app.add_flag("--policy-zero", o.policy_zero);
    app.add_flag("--forget", o.forget);
    app.add_flag("--short-places", o.short_places);
    app.add_flag("--shuffle", o.shuffle, "everything has its place, in no order");
    app.add_flag("--reads-zero", o.reads_zero);
    app.add_flag("--buffered", buffered);
    CLI11_PARSE(app, argc, argv);
    if (buffered) o.destination_flags |= DMU_DEST_BUFFERED;
    Mapper mapper(o);
    mapper.start();
    mapper.run();
}
