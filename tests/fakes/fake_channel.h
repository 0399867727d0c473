// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel target in memory, behind Channel: map, change log, misses, places, destinations
// and the hand-over as kernel/uapi/dm-userspace.h says, and strict about it: what the real
// one may refuse, this one refuses. It really reads and writes the destinations' files.
//
//     FakeKernel kernel;
//     auto channel = kernel.attach("key", true);             // for the mapper
//     kernel.target("key").load_table({.sectors = 2048, .grain = 8});
//     auto write = kernel.target("key").write(0, bytes);     // as the guest
//     ... the mapper answers ...
//     ASSERT_TRUE(write->wait()); EXPECT_EQ(write->error(), 0);
//
// Everything is thread-safe. Work is done on the thread that makes it possible: a request
// that hits is done when submit returns, one that misses when the answer has been written.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "xen-backend/libdmu/channel.h"

namespace dmu {

namespace fake {
class Target;
}

struct FakeTable {
    std::uint64_t sectors = 0;
    std::uint32_t grain = 8;                                 // sectors, a power of two
    std::uint32_t log = 65536;                               // entries
    bool read_only = false;                                  // writes, discards and write-zeroes end in EROFS
    bool ask_flush = false;                                  // the mapper is told of every flush
    std::optional<std::uint32_t> map_memory = std::nullopt;  // KiB; nothing: nothing is forgotten
};

// One request of the guest.
class FakeRequest {
public:
    virtual ~FakeRequest() = default;
    virtual bool done() const = 0;
    // False: not done in time.
    virtual bool wait(std::chrono::milliseconds limit = std::chrono::seconds(10)) const = 0;
    // Once done: 0 or a positive errno.
    virtual int error() const = 0;
    // Once a read is done.
    virtual const std::vector<std::byte>& data() const = 0;
};
using FakeRequestPtr = std::shared_ptr<FakeRequest>;

// What the tests do to one key: table, guest I/O, faults. Starts and lengths in sectors; data whole sectors.
class FakeTarget {
public:
    virtual ~FakeTarget() = default;

    // Activates a table (the first, or in place of another: map and log stay, RESIZED is sent).
    virtual void load_table(const FakeTable& table) = 0;
    // What is in flight ends in EIO; the key goes too unless a mapper is attached.
    virtual void remove_table() = 0;

    virtual FakeRequestPtr read(std::uint64_t start, std::uint64_t length) = 0;
    // flags: DMU_MISS_FUA, DMU_MISS_META, DMU_MISS_SYNC, as the mapper is told of it.
    virtual FakeRequestPtr write(std::uint64_t start, std::span<const std::byte> data, std::uint32_t flags = 0) = 0;
    virtual FakeRequestPtr discard(std::uint64_t start, std::uint64_t length) = 0;
    virtual FakeRequestPtr write_zeroes(std::uint64_t start, std::uint64_t length) = 0;
    virtual FakeRequestPtr flush() = 0;

    // While held, accepted places stay under way: their writes are neither done nor logged.
    virtual void hold_places(bool hold) = 0;
    // The data writes of the next count places fail: EIO for the request, CHANGED of kind LOST.
    virtual void fail_places(unsigned count) = 0;
    // Requests that the map sends to this destination end there in the error; 0: no more. What is there stays.
    virtual void fail_destination(unsigned number, int error) = 0;
    // Forgets what it may of the range (as under memory pressure), where the table says so: whole grains, but for those
    // of unacknowledged changes, misses, and places under way.
    virtual void shrink(std::uint64_t start = 0, std::uint64_t length = ~0ull) = 0;

    virtual bool attached() const = 0;
    virtual dmu_state state() const = 0;
    // The extents, in order, as MAP commands would give them.
    virtual std::vector<dmu_command> map() const = 0;
    // Unacknowledged changes.
    virtual std::vector<dmu_event> log() const = 0;
    // Commands refused so far: a correct mapper has none.
    virtual std::vector<std::string> refusals() const = 0;
};

class FakeKernel {
public:
    // features: what is offered; leases, a mirror, requests that are returned and asked flushes are modelled too.
    explicit FakeKernel(std::uint64_t features = DMU_FEATURE_LOG | DMU_FEATURE_FILES | DMU_FEATURE_ONCE |
                                                 DMU_FEATURE_FORGET);
    ~FakeKernel();

    // As dmu::attach(). The channel's destruction is the mapper's death or detaching.
    Result<std::unique_ptr<Channel>> attach(const std::string& key, bool create);
    // Made if it is not there (as by a table that names it). Valid while the FakeKernel is.
    FakeTarget& target(const std::string& key);
    bool has_key(const std::string& key) const;
    dmu_hello hello() const;

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace dmu
