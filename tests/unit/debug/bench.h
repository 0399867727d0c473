// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel and a device for the engine: the device is memory, the kernel sends on what it
// is told to when the test says so.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tools/debug/engine.h"

namespace dmu::debug {

using Bytes = std::vector<std::byte>;

inline Bytes filled(std::uint64_t sectors, int with) {
    return Bytes(sectors * sector_bytes, static_cast<std::byte>(with));
}

class MemoryDevice final : public Below {
public:
    explicit MemoryDevice(std::uint64_t sectors) : bytes(filled(sectors, 0)) {}
    Status read(std::uint64_t sector, std::span<std::byte> into) override {
        std::memcpy(into.data(), bytes.data() + sector * sector_bytes, into.size());
        return ok();
    }
    Status write(std::uint64_t sector, std::span<const std::byte> data, bool durable) override {
        if (broken) return Error{Code::io, "broken"};
        std::memcpy(bytes.data() + sector * sector_bytes, data.data(), data.size());
        writes.push_back({sector, data.size() / sector_bytes});
        durable_writes += durable;
        return ok();
    }
    Status sync() override {
        ++syncs;
        return ok();
    }
    int at(std::uint64_t sector) const { return std::to_integer<int>(bytes[sector * sector_bytes]); }

    Bytes bytes;
    std::vector<Range> writes;
    unsigned syncs = 0, durable_writes = 0;
    bool broken = false;
};

// One request as its sender has it.
struct Sent {
    std::uint32_t op = 0;
    Range range = {};
    Bytes data = {};
    bool ended = false;
    int error = 0;
};

// As much of the target as an ASK extent shows.
class MiniKernel final : public Channel {
public:
    static constexpr unsigned device_number = 1, memory_number = 2;

    MiniKernel(MemoryDevice& device, Store& memory) : device_(device), memory_(memory) {}

    // The guest's requests: an event to be given to the engine.
    dmu_event send(std::uint32_t op, Range range, int with = 0, unsigned flags = 0) {
        const auto id = next_id_++;
        requests[id] = {op, range, filled(op == DMU_OP_WRITE || op == DMU_OP_READ ? range.length : 0, with)};
        asked_[id] = id;
        return miss(id, id, flags, 0, 0);
    }
    dmu_event flush() {
        dmu_event event{};
        event.type = DMU_EV_FLUSH;
        event.id = next_id_++;
        event.flags = DMU_FLUSH_ASKED;
        requests[event.id] = {};
        asked_[event.id] = event.id;
        return event;
    }
    // What was sent on and wants to come back; with an error, if one is given.
    std::vector<dmu_event> returns(int error = 0) {
        std::vector<dmu_event> events;
        for (const auto& [guest, answered] : std::exchange(under_way_, {})) {
            const auto id = next_id_++;
            asked_[id] = guest;
            events.push_back(miss(id, guest, DMU_MISS_RETURNED, answered, error));
        }
        return events;
    }
    bool busy() const { return !under_way_.empty(); }

    Result<std::size_t> write_some(std::span<const dmu_command> commands) override {
        for (const auto& command : commands) apply(command);
        return commands.size();
    }
    Status write(std::span<const dmu_command> commands) override {
        for (const auto& command : commands) apply(command);
        return ok();
    }

    std::map<std::uint64_t, Sent> requests;  // by the id of the first question
    std::vector<dmu_command> cached;         // MAPs that are not ONCE

    // The rest of the seam has no part in this.
    const std::string& key() const override { return key_; }
    int poll_descriptor() const override { return -1; }
    Result<std::size_t> read(std::span<dmu_event>) override { return std::size_t{0}; }
    Result<dmu_destination> add_destination(unsigned, int, unsigned, std::uint64_t) override {
        return dmu_destination{};
    }
    Result<dmu_destination> get_destination(unsigned) override { return dmu_destination{}; }
    Result<int> destination_descriptor(unsigned) override { return -1; }
    Status remove_destination(unsigned) override { return ok(); }
    Result<dmu_state> state() override { return dmu_state{}; }
    Status set_wait(unsigned) override { return ok(); }
    Status set_fail(bool) override { return ok(); }

private:
    dmu_event miss(std::uint64_t id, std::uint64_t guest, unsigned flags, std::uint64_t answered, int error) {
        const Sent& sent = requests.at(guest);
        dmu_event event{};
        event.type = DMU_EV_MISS;
        event.flags = flags;
        event.id = id;
        event.start = sent.range.start;
        event.length = sent.range.length;
        event.op = sent.op;
        event.sequence = answered;
        event.error = static_cast<unsigned>(error);
        return event;
    }

    void apply(const dmu_command& command) {
        if (command.type == DMU_CMD_MAP && !(command.flags & DMU_MAP_ONCE)) cached.push_back(command);
        const auto asked = asked_.find(command.id);
        if (command.type == DMU_CMD_INVALIDATE || command.id == 0) return;
        ASSERT_NE(asked, asked_.end()) << "an answer to a question that is not there, " << command.id;
        const auto guest = asked->second;
        asked_.erase(asked);
        Sent& sent = requests.at(guest);
        if (command.type != DMU_CMD_MAP) {
            ASSERT_FALSE(sent.ended);
            sent.ended = true;
            sent.error = command.type == DMU_CMD_FAIL ? static_cast<int>(command.error) : 0;
            return;
        }
        carry_out(command, sent);
        if (command.flags & DMU_MAP_RETURN)
            under_way_.emplace_back(guest, command.id);
        else
            sent.ended = true;
    }

    void carry_out(const dmu_command& command, Sent& sent) {
        EXPECT_EQ(sent.range, (Range{command.start, command.length}));
        const bool memory = command.destination == memory_number;
        if (sent.op == DMU_OP_WRITE) {
            EXPECT_TRUE(command.flags & DMU_MAP_WRITABLE);
            EXPECT_TRUE(memory ? memory_.write(command.physical, sent.data)
                               : device_.write(command.physical, sent.data, false));
        } else if (sent.op == DMU_OP_READ) {
            EXPECT_TRUE(memory ? memory_.read(command.physical, sent.data) : device_.read(command.physical, sent.data));
        } else {
            EXPECT_TRUE(device_.write(command.physical, filled(command.length, 0), false));
        }
    }

    const std::string key_ = "test";
    MemoryDevice& device_;
    Store& memory_;
    std::uint64_t next_id_ = 100;
    std::map<std::uint64_t, std::uint64_t> asked_;                    // open questions: the guest's request
    std::vector<std::pair<std::uint64_t, std::uint64_t>> under_way_;  // guest's request, the id that was answered
};

class EngineTest : public testing::Test {
protected:
    static constexpr std::uint64_t sectors = 4096;

    void SetUp() override { start({}); }

    void start(EngineSetup setup) {
        auto made = make_memory_store(64 << 20);
        ASSERT_TRUE(made);
        memory = std::move(*made);
        memory->set_destination(MiniKernel::memory_number);
        device = std::make_unique<MemoryDevice>(sectors);
        kernel = std::make_unique<MiniKernel>(*device, *memory);
        setup.channel = kernel.get();
        setup.below = device.get();
        setup.device = MiniKernel::device_number;
        setup.sectors = sectors;
        setup.memory = memory.get();
        setup.now = [this] { return time; };
        engine = std::make_unique<Engine>(setup,
                                          Hooks{.stopped =
                                                    [this](const Request* request, const std::string& why) {
                                                        stops.push_back((request ? request->text() : "") + ": " + why);
                                                        if (on_stopped) on_stopped(request, why);
                                                    },
                                                .said = [this](const std::string& text) { notes.push_back(text); }});
    }

    std::uint64_t give(const dmu_event& event) {
        time += std::chrono::microseconds(1);
        engine->event(event);
        EXPECT_TRUE(engine->send());
        return event.id;
    }
    std::uint64_t write(std::uint64_t at, int with, std::uint64_t length = 1, unsigned flags = 0) {
        return give(kernel->send(DMU_OP_WRITE, {at, length}, with, flags));
    }
    std::uint64_t read(std::uint64_t at, std::uint64_t length = 1) {
        return give(kernel->send(DMU_OP_READ, {at, length}));
    }
    std::uint64_t flush() { return give(kernel->flush()); }
    // Until nothing is under way below.
    void settle() {
        while (kernel->busy())
            for (const auto& event : kernel->returns()) give(event);
    }
    void rule(const std::string& text) {
        const auto added = engine->add_rule(text);
        ASSERT_TRUE(added) << added.error().message;
    }
    void act(const std::string& text) {
        const auto action = parse_action(text);
        ASSERT_TRUE(action) << action.error().message;
        const auto done = engine->act(*action);
        ASSERT_TRUE(done) << done.error().message;
        EXPECT_TRUE(engine->send());
    }
    void go() {
        EXPECT_TRUE(engine->go());
        EXPECT_TRUE(engine->send());
    }
    const Sent& sent(std::uint64_t id) const { return kernel->requests.at(id); }
    bool ended(std::uint64_t id) const { return sent(id).ended; }

    Time time = Clock::now();
    std::unique_ptr<Store> memory;
    std::unique_ptr<MemoryDevice> device;
    std::unique_ptr<MiniKernel> kernel;
    std::unique_ptr<Engine> engine;
    std::vector<std::string> stops, notes;
    std::function<void(const Request* request, const std::string& why)> on_stopped = {};
};

}  // namespace dmu::debug
