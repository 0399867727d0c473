// SPDX-License-Identifier: GPL-2.0-or-later
// Inside of fake_channel.h: the model of one key. Everything below is under State::lock,
// the public face (FakeTarget) takes it.
#pragma once

#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/fake_channel.h"

namespace dmu::fake {

class Descriptor {
public:
    Descriptor() = default;
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Descriptor();
    int get() const { return fd_; }

private:
    int fd_ = -1;
};

struct Extent {
    std::uint64_t start = 0, length = 0;
    std::uint32_t kind = DMU_KIND_NONE, flags = 0;
    std::uint32_t destination = DMU_NO_DESTINATION, destination2 = DMU_NO_DESTINATION;
    std::uint64_t physical = 0, physical2 = 0;
    std::uint32_t pool = DMU_NO_POOL, discard = 0, zeroes = 0;

    std::uint64_t end() const { return start + length; }
    bool writable() const { return kind == DMU_KIND_LINEAR && (flags & DMU_MAP_WRITABLE); }
    bool needs_place() const { return kind == DMU_KIND_ZERO || kind == DMU_KIND_COW; }
    // The part of it from begin to end.
    Extent cut(std::uint64_t begin, std::uint64_t end) const;
};

struct Destination {
    Descriptor kept;  // the mapper's own open file, for its successor
    Descriptor io;    // the same file, buffered, so that no alignment matters
    dmu_destination description{};
};

struct Miss {
    std::uint64_t id = 0, start = 0, length = 0;
    std::uint32_t op = 0;
    std::uint32_t error = 0, flags = 0;  // of one that was returned; how it was sent
    bool ask = false;                    // of one request, which DONE may end
    bool sequential = false;
    bool told = false;  // some mapper has read it
    std::uint64_t end() const { return start + length; }
};

// A PLACE on its way: written, but not logged yet.
struct Place {
    Extent extent;  // what it will be
    bool reads_zero = false;
};

struct Lease {
    std::uint32_t destination = 0;
    std::uint64_t physical = 0, length = 0;
    std::uint32_t flags = 0;
};

struct Pool {
    std::uint64_t grain = 0, low = 0;
    bool low_told = false;
    std::deque<Lease> leases;
    std::uint64_t left() const {
        std::uint64_t sum = 0;
        for (const Lease& lease : leases) sum += lease.length;
        return sum;
    }
};

struct Invalidation {
    std::uint64_t id = 0, start = 0, length = 0;
};

struct State;

class Request final : public FakeRequest {
public:
    bool done() const override;
    bool wait(std::chrono::milliseconds limit) const override;
    int error() const override;
    const std::vector<std::byte>& data() const override { return bytes; }

    enum class Kind { io, flush };
    State* state = nullptr;
    std::shared_ptr<State> keep;
    Kind kind = Kind::io;
    std::uint32_t op = DMU_OP_READ;
    std::uint64_t start = 0, end = 0, position = 0;
    std::vector<std::byte> bytes;
    std::uint64_t miss = 0;      // waited for, 0: none
    std::optional<Extent> once;  // answer for this request only
    std::uint32_t flags = 0;     // DMU_MISS_FUA and the like
    bool has_data = false;       // a read that has been done, and waits for the mapper's word
    bool missed = false;
    std::uint64_t flush_id = 0, flush_sequence = 0;
    bool asked = false;  // a flush that wants DONE
    bool finished = false;
    int result = 0;
};
using RequestPtr = std::shared_ptr<Request>;

class Target final : public FakeTarget {
public:
    Target(State& state, std::string key);
    ~Target() override;

    // FakeTarget
    void load_table(const FakeTable& table) override;
    void remove_table() override;
    FakeRequestPtr read(std::uint64_t start, std::uint64_t length) override;
    FakeRequestPtr write(std::uint64_t start, std::span<const std::byte> data, std::uint32_t flags) override;
    FakeRequestPtr discard(std::uint64_t start, std::uint64_t length) override;
    FakeRequestPtr write_zeroes(std::uint64_t start, std::uint64_t length) override;
    FakeRequestPtr flush() override;
    void hold_places(bool hold) override;
    void fail_places(unsigned count) override;
    void fail_destination(unsigned number, int error) override;
    void shrink(std::uint64_t start, std::uint64_t length) override;
    bool attached() const override;
    dmu_state state() const override;
    std::vector<dmu_command> map() const override;
    std::vector<dmu_event> log() const override;
    std::vector<std::string> refusals() const override;

    // The channel's side; fake_commands.cc. 0 or a positive errno.
    bool is_attached() const { return attached_; }
    bool exists() const { return attached_ || table_.sectors != 0; }
    void attach();
    void detach();
    int poll_descriptor() const { return event_fd_.get(); }
    std::size_t pop(std::span<dmu_event> into);
    int command(const dmu_command& command);
    void refuse(const dmu_command& command, int error);
    int add_destination(dmu_destination& destination);
    int get_destination(dmu_destination& destination) const;
    int destination_descriptor(unsigned number, int& fd) const;
    int remove_destination(unsigned number);
    void set_wait(unsigned seconds) { wait_seconds_ = seconds; }
    void set_fail(bool fail);
    // Runs every request as far as it goes.
    void advance();

private:
    // Commands
    int check_map(const dmu_command& command) const;
    int check_space(std::uint32_t number, std::uint64_t physical, std::uint64_t length, bool write) const;
    int map_command(const dmu_command& command);
    int place_command(const dmu_command& command);
    int end_command(const dmu_command& command);
    int end_flush(Request& flush, const dmu_command& command);
    int committed_command(const dmu_command& command);
    int invalidate_command(const dmu_command& command);
    // Leases (fake_leases.cc)
    int pool_command(const dmu_command& command);
    int lease_command(const dmu_command& command);
    int revoke_command(const dmu_command& command);
    static dmu_event lease_event(std::uint32_t type, std::uint32_t pool, const Lease& lease);
    void replay_leases();
    bool take_lease(const Request& request);
    bool takes_from(std::uint32_t pool, std::uint64_t grain) const;
    void finish_drained();

    // Requests
    RequestPtr submit(std::uint32_t op, std::uint64_t start, std::uint64_t length, std::vector<std::byte> bytes,
                      std::uint32_t flags = 0);
    void finish(Request& request, int error);
    bool step(Request& request);
    bool step_data(Request& request);
    bool step_discard(Request& request);
    bool discard_run(Request& request, std::uint64_t end);
    // Of its two destinations.
    struct Outcome {
        int first = 0, second = 0;
        int error() const { return first != 0 ? first : second; }
    };
    Outcome transfer(Request& request, const Extent& extent, std::uint64_t end);
    void come_back(Request& request, std::uint64_t end, const Outcome& outcome);
    int failing(std::uint32_t destination) const;
    void wait_for_mapper(Request& request);
    std::uint64_t miss_end(const Request& request, std::uint32_t op) const;
    bool log_full() const;
    void press_log();
    void push_flush(std::uint64_t id, std::uint64_t sequence, std::uint32_t flags = 0);
    void complete(const Place& place);
    void lose(const Extent& extent);
    std::vector<std::byte> fill(const Place& place, std::vector<bool>& known) const;

    // Map and files
    std::optional<Extent> find(std::uint64_t sector) const;
    std::uint64_t gap_end(std::uint64_t sector, std::uint64_t limit) const;
    void forget(std::uint64_t start, std::uint64_t end);
    void put(const Extent& extent);
    bool in_flight(std::uint64_t start, std::uint64_t end) const;
    std::uint64_t grain_start(std::uint64_t sector) const { return sector / table_.grain * table_.grain; }
    std::uint64_t grain_end(std::uint64_t sector) const;
    int file_read(std::uint32_t number, std::uint64_t physical, std::span<std::byte> into) const;
    int file_write(std::uint32_t number, std::uint64_t physical, std::span<const std::byte> from) const;
    void file_sync() const;

    void log_change(std::uint32_t kind, const Extent& extent);
    void push(dmu_event event);
    dmu_event miss_event(const Miss& miss) const;
    void reset();

    State& owner_;
    const std::string key_;
    FakeTable table_;
    bool attached_ = false;
    Descriptor event_fd_;
    std::deque<dmu_event> events_;
    std::uint64_t delivered_ = 0;  // sequence of the last CHANGED that was read

    std::map<std::uint64_t, Extent> map_;
    std::map<unsigned, Destination> destinations_;
    std::deque<dmu_event> log_;
    std::uint64_t sequence_ = 0, committed_ = 0, next_id_ = 1;
    std::uint64_t invalidated_ = 0;  // a MAP must know the changes up to this one: what they made may be gone
    std::list<Miss> misses_;
    std::list<Place> places_;
    std::list<Invalidation> invalidations_;
    std::map<std::uint32_t, Pool> pools_;
    std::uint64_t press_id_ = 0, press_sequence_ = 0;  // a flush of the kernel's own, to make room in the log
    std::list<RequestPtr> requests_;
    std::uint64_t last_end_ = ~0ull;  // where the last request ended

    bool hold_places_ = false;
    unsigned fail_places_ = 0;
    std::map<std::uint32_t, int> failing_;
    bool fail_ = false;
    unsigned wait_seconds_ = DMU_WAIT_FOREVER;
    dmu_state counters_{};
    std::vector<std::string> refusals_;
};

struct State {
    mutable std::mutex lock;
    mutable std::condition_variable finished;
    std::uint64_t features = 0;
    std::map<std::string, std::unique_ptr<Target>> targets;
    std::weak_ptr<State> self;
};

}  // namespace dmu::fake
