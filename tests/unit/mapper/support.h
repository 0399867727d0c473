// SPDX-License-Identifier: GPL-2.0-or-later
// What the mapper's tests share: a directory of their own, images, a fake kernel with
// device-mapper in front of it, and a mapper on its event loop's thread.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "formats/core/image.h"
#include "formats/core/image_neighbours.h"
#include "tests/fakes/fake_channel.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_xenstore.h"
#include "tests/fakes/wrapped_file.h"
#include "xen-backend/control/control.h"
#include "xen-backend/mapper/disk.h"
#include "xen-backend/mapper/mapper.h"

namespace dmu::test {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

inline Bytes pattern(std::size_t length, unsigned seed) {
    Bytes bytes(length);
    for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>((i / 512 + i + seed * 37) & 0xff);
    return bytes;
}

inline bool eventually(const std::function<bool()>& what, std::chrono::milliseconds limit = 10s) {
    auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
        if (what()) return true;
        std::this_thread::sleep_for(2ms);
    }
    return what();
}

// The run directory and the images of one test; the environment points there.
class Place {
public:
    Place() {
        char name[] = "/tmp/dmu-mapper-XXXXXX";
        path_ = mkdtemp(name);
        setenv("XEN_DMU_RUNDIR", (path_ + "/run").c_str(), 1);
        setenv("XEN_DMU_CONFIG", (path_ + "/xen-dmu.conf").c_str(), 1);
        std::filesystem::create_directory(path_ + "/run");
    }
    ~Place() { std::filesystem::remove_all(path_); }

    std::string path(const std::string& name) const { return path_ + "/" + name; }

    std::string raw(const std::string& name, const Bytes& content) const {
        auto file = fresh(name);
        EXPECT_TRUE(file->write(0, content));
        return path(name);
    }
    std::string qcow(const std::string& name, std::uint64_t size, const std::string& backing = "",
                     const std::string& backing_format = "") const {
        auto file = fresh(name);
        CreateOptions options;
        options.virtual_size = size;
        if (!backing.empty()) options.backing = BackingReference{backing, backing_format};
        Status made = find_format("qcow")->create(*file, options);
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return path(name);
    }
    using Options = std::vector<std::pair<std::string, std::string>>;
    std::string image(const std::string& format, const std::string& name, std::uint64_t size,
                      const Options& how = {}) const {
        auto file = fresh(name);
        ImageNeighbours neighbours(path(name), {}, true, 0);
        CreateOptions options;
        options.virtual_size = size;
        options.options = how;
        options.neighbours = &neighbours;
        Status made = find_format(format)->create(*file, options);
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return path(name);
    }
    CheckReport check(const std::string& name, const std::string& format = "qcow") const {
        auto file = open_file(path(name), {});
        EXPECT_TRUE(file);
        ImageNeighbours neighbours(path(name), {}, false, 0);
        auto report = find_format(format)->check(**file, {Repair::none, &neighbours});
        EXPECT_TRUE(report);
        return *report;
    }
    std::vector<std::string> states() const {
        std::vector<std::string> names;
        for (const auto& state : control::all_states()) names.push_back(state.name);
        return names;
    }

private:
    std::unique_ptr<BlockFile> fresh(const std::string& name) const {
        FILE* made = std::fopen(path(name).c_str(), "wx");
        EXPECT_NE(made, nullptr);
        std::fclose(made);
        auto file = open_file(path(name), {.writable = true});
        EXPECT_TRUE(file);
        return std::move(*file);
    }
    std::string path_;
};

inline KernelAccess access_to(FakeKernel& kernel) {
    return {[&kernel]() -> Result<dmu_hello> { return kernel.hello(); },
            [&kernel](const std::string& key, bool create) { return kernel.attach(key, create); }};
}

// One number of a table line, as "grain 8".
inline std::uint32_t table_number(const std::string& parameters, const std::string& word, std::uint32_t otherwise) {
    std::istringstream stream(parameters);
    for (std::string one; stream >> one;) {
        if (one == word) stream >> otherwise;
    }
    return otherwise;
}

inline FakeTable fake_table(std::uint64_t sectors, const std::string& parameters, bool read_only) {
    FakeTable table;
    table.sectors = sectors;
    table.grain = table_number(parameters, "grain", 8);
    table.read_only = read_only;
    if (parameters.find(" map_memory ") != std::string::npos)
        table.map_memory = table_number(parameters, "map_memory", 0);
    return table;
}

// A disk alone, without device-mapper.
class TestDisk {
public:
    TestDisk(FakeKernel& kernel, const DiskSetup& setup) : TestDisk(access_to(kernel), kernel, setup) {}
    TestDisk(KernelAccess access, FakeKernel& kernel, const DiskSetup& setup) : kernel_(kernel) {
        Disk::Callbacks callbacks;
        callbacks.opened = [this](Result<DiskFacts> facts) { opened_.set_value(facts); };
        callbacks.closed = [this](Status status) { closed_.set_value(status); };
        disk_ = std::make_unique<Disk>(setup, std::move(access), std::move(callbacks));
        result_ = opened_.get_future().get();
        if (*this && !setup.successor) {
            target().load_table(fake_table(facts().sectors, facts().table_parameters(), facts().read_only));
        }
    }

    explicit operator bool() const { return static_cast<bool>(result_); }
    const Error& error() const { return result_.error(); }
    const DiskFacts& facts() const { return *result_; }
    FakeTarget& target() { return kernel_.target(facts().key); }
    Disk& disk() { return *disk_; }
    void kill() { disk_.reset(); }
    Status close() {
        target().remove_table();
        disk_->close();
        return closed_.get_future().get();
    }
    // What a successor is given.
    DiskSetup successor_setup() const {
        DiskSetup setup = disk_->setup();
        setup.successor = true;
        setup.key = facts().key;
        setup.files = facts().files;
        return setup;
    }

    int write(std::uint64_t sector, const Bytes& bytes) {
        auto request = target().write(sector, bytes);
        return request->wait() ? request->error() : -1;
    }
    Bytes read(std::uint64_t sector, std::uint64_t length) {
        auto request = target().read(sector, length);
        EXPECT_TRUE(request->wait());
        EXPECT_EQ(request->error(), 0);
        return request->done() && request->error() == 0 ? request->data() : Bytes();
    }
    int flush() {
        auto request = target().flush();
        return request->wait() ? request->error() : -1;
    }

private:
    FakeKernel& kernel_;
    std::promise<Result<DiskFacts>> opened_;
    std::promise<Status> closed_;
    std::unique_ptr<Disk> disk_;
    Result<DiskFacts> result_ = Error{};
};

inline DiskSetup setup_for(const std::string& spec, bool writable = true, const std::string& name = "dmu-5-51712") {
    DiskSetup setup;
    setup.instance = "dom-5";
    setup.name = name;
    auto parsed = parse_spec(spec);
    EXPECT_TRUE(parsed);
    setup.spec = *parsed;
    setup.writable = writable;
    return setup;
}

// Kernel, device-mapper and xenstore of one host.
class TestHost {
public:
    TestHost() {
        dm.on_table = [this](const std::string& name, const DmTable& table) { on_table(name, table); };
    }
    FakeKernel kernel;
    FakeDmKernel dm;
    FakeXenstore store;

private:
    void on_table(const std::string& name, const DmTable& table) {
        std::lock_guard lock(mutex_);
        if (table.sectors == 0) {
            if (keys_.count(name)) kernel.target(keys_[name]).remove_table();
            keys_.erase(name);
            return;
        }
        std::string key = table.parameters.substr(0, table.parameters.find(' '));
        keys_[name] = key;
        kernel.target(key).load_table(fake_table(table.sectors, table.parameters, table.read_only));
    }
    std::mutex mutex_;
    std::map<std::string, std::string> keys_;
};

// A mapper with its event loop on a thread, heard by handle() or by the control socket.
class TestMapper {
public:
    explicit TestMapper(TestHost& host, const std::string& instance = "dom-5", KernelAccess* access = nullptr) {
        std::promise<void> ready;
        thread_ = std::thread([&, this, instance] {
            MapperServices services{access ? *access : access_to(host.kernel), host.dm.connect(),
                                    [&host]() -> Result<std::unique_ptr<Xenstore>> { return host.store.connect(); }};
            EventLoop loop;
            loop_ = &loop;
            mapper_ = std::make_unique<Mapper>(loop, instance, std::move(services), [&] {
                finished_ = true;
                loop.quit();
            });
            auto server = std::make_unique<ControlServer>(
                loop,
                [this](const control::Json& request, const Mapper::Reply& reply) { mapper_->handle(request, reply); });
            mapper_->adopt();
            EXPECT_TRUE(server->listen(control::socket_path(instance), getuid()));
            ready.set_value();
            loop.run();
            server.reset();
            mapper_.reset();
        });
        ready.get_future().get();
    }
    ~TestMapper() { kill(); }

    // Nothing is committed, nothing undone.
    void kill() {
        if (!thread_.joinable()) return;
        if (!finished_) loop_->post([this] { loop_->quit(); });
        thread_.join();
    }
    void stop() {
        loop_->post([this] { mapper_->stop(); });
        thread_.join();
    }
    bool finished() const { return finished_; }

private:
    EventLoop* loop_ = nullptr;
    std::unique_ptr<Mapper> mapper_;
    std::atomic<bool> finished_ = false;
    std::thread thread_;
};

inline control::Json add_request(const std::string& spec, const std::string& mode = "w",
                                 const std::string& name = "dmu-5-51712",
                                 const std::string& user = "backend/vbd/5/51712") {
    return {{"command", "add"}, {"spec", spec}, {"mode", mode}, {"name", name}, {"user", user}};
}
inline control::Json remove_request(const std::string& user = "backend/vbd/5/51712") {
    return {{"command", "remove"}, {"user", user}};
}

// A file whose file system is full, or broken, when the test says so.
struct Faults {
    std::atomic<bool> full = false;
    std::atomic<bool> broken_writes = false;
    std::atomic<bool> hold_syncs = false;
    std::atomic<bool> broken_syncs = false;
    std::atomic<unsigned> syncs = 0;
};

class FaultableFile final : public WrappedFile {
public:
    FaultableFile(std::unique_ptr<BlockFile> file, std::shared_ptr<Faults> faults)
        : WrappedFile(std::move(file)), faults_(std::move(faults)) {}

    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        if (faults_->full) return Error{Code::no_space, name() + ": the file system is full"};
        return WrappedFile::allocate(offset, length);
    }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override {
        if (faults_->broken_writes) return Error{Code::io, name() + ": the disk is broken"};
        return WrappedFile::write(offset, from);
    }
    Status sync() override {
        ++faults_->syncs;
        while (faults_->hold_syncs) std::this_thread::sleep_for(1ms);
        if (faults_->broken_syncs) return Error{Code::io, name() + ": the disk is broken"};
        return WrappedFile::sync();
    }

private:
    std::shared_ptr<Faults> faults_;
};

}  // namespace dmu::test
