// SPDX-License-Identifier: GPL-2.0-or-later
// What the metadata of each format costs, over files in memory: look-up, first write
// (asked for, and from a lease), commit. For the whole path see tests/bench/run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <unordered_map>

#include "formats/core/image.h"

namespace {

using namespace dmu;

constexpr std::uint64_t disk_bytes = 1 << 30, grain = 65536, grains = disk_bytes / grain;
constexpr std::uint64_t lease_bytes = 4 << 20;

template <typename T>
T must(Result<T> result) {
    if (result) return std::move(*result);
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::abort();
}

void must(const Status& status) {
    if (status) return;
    std::fprintf(stderr, "%s\n", status.error().message.c_str());
    std::abort();
}

// What was written, by pages; space that was only allocated costs nothing.
struct Pages {
    std::unordered_map<std::uint64_t, std::array<std::byte, 4096>> pages;
    std::uint64_t size = 0;
};

class HollowFile final : public BlockFile {
public:
    explicit HollowFile(std::shared_ptr<Pages> store) : store_(std::move(store)) {}
    const std::string& name() const override { return name_; }
    Result<std::uint64_t> size() const override { return store_->size; }
    Status read(std::uint64_t offset, std::span<std::byte> into) override {
        each(offset, into.size(), [&](std::uint64_t page, std::size_t skip, std::size_t done, std::size_t bytes) {
            const auto found = store_->pages.find(page);
            if (found == store_->pages.end()) {
                std::memset(into.data() + done, 0, bytes);
            } else {
                std::memcpy(into.data() + done, found->second.data() + skip, bytes);
            }
        });
        return ok();
    }
    Status write(std::uint64_t offset, std::span<const std::byte> from) override {
        each(offset, from.size(), [&](std::uint64_t page, std::size_t skip, std::size_t done, std::size_t bytes) {
            std::memcpy(store_->pages[page].data() + skip, from.data() + done, bytes);
        });
        store_->size = std::max(store_->size, offset + from.size());
        return ok();
    }
    Status sync() override { return ok(); }
    Result<bool> allocate(std::uint64_t offset, std::uint64_t length) override {
        store_->size = std::max(store_->size, offset + length);
        return true;
    }
    Status truncate(std::uint64_t size) override {
        store_->size = size;
        return ok();
    }
    bool read_only() const override { return false; }
    int descriptor() const override { return -1; }
    std::uint32_t direct_alignment() const override { return 0; }

private:
    template <typename F>
    static void each(std::uint64_t offset, std::size_t length, F&& do_one) {
        for (std::size_t done = 0; done < length;) {
            const auto skip = (offset + done) % 4096, bytes = std::min<std::uint64_t>(4096 - skip, length - done);
            do_one((offset + done) / 4096, skip, done, bytes);
            done += bytes;
        }
    }
    const std::string name_ = "bench";
    std::shared_ptr<Pages> store_;
};

std::unique_ptr<Image> fresh(const char* format) {
    auto store = std::make_shared<Pages>();
    HollowFile file(store);
    CreateOptions options;
    options.virtual_size = disk_bytes;
    options.cluster_size = grain;
    must(find_format(format)->create(file, options));
    auto image = must(find_format(format)->open(std::make_unique<HollowFile>(store), {true, {}}));
    must(image->begin_writing());
    return image;
}

void put(Image& image, std::uint64_t index, const Place& place, std::uint64_t skip = 0) {
    must(image.apply({ChangeKind::data, {index * grain}, grain, place.file, {place.host.bytes + skip}}));
}

void look_up(benchmark::State& state, const char* format) {
    auto image = fresh(format);
    // Every other one, so that no two are one extent.
    for (std::uint64_t i = 0; i < grains; i += 2) put(*image, i, must(image->reserve({{i * grain}, grain})));
    must(image->commit(DataState::durable));
    std::minstd_rand random(1);
    for (auto _ : state) benchmark::DoNotOptimize(must(image->look_up({{random() % grains * grain}, grain})));
}

// One grain after another, a fresh disk whenever one is full.
template <typename F>
void write_grains(benchmark::State& state, const char* format, F&& write) {
    auto image = fresh(format);
    std::uint64_t index = 0;
    for (auto _ : state) {
        if (index == grains) {
            state.PauseTiming();
            image = fresh(format);
            index = 0;
            state.ResumeTiming();
        }
        write(*image, index++);
    }
    state.SetItemsProcessed(state.iterations());
}

void first_write(benchmark::State& state, const char* format) {
    write_grains(state, format, [](Image& image, std::uint64_t index) {
        put(image, index, must(image.reserve({{index * grain}, grain})));
    });
}

void leased_write(benchmark::State& state, const char* format) {
    Place lease;
    std::uint64_t used = 0;
    write_grains(state, format, [&](Image& image, std::uint64_t index) {
        if (index == 0 || used == lease.length) {
            lease = must(image.reserve_any(lease_bytes));
            used = 0;
        }
        put(image, index, lease, used);
        used += grain;
    });
}

// Of 64 first writes together, by what a guest's flush costs.
void commit(benchmark::State& state, const char* format) {
    write_grains(state, format, [](Image& image, std::uint64_t index) {
        put(image, index, must(image.reserve({{index * grain}, grain})));
        if (index % 64 == 63) must(image.commit(DataState::durable));
    });
}

}  // namespace

// offline.cc
void add_offline_benchmarks();

int main(int count, char** arguments) {
    for (const char* format : {"qcow", "qcow2", "vmdk"}) {
        const auto add = [&](const char* what, void (*run)(benchmark::State&, const char*)) {
            benchmark::RegisterBenchmark((std::string(what) + "/" + format).c_str(), run, format);
        };
        add("look_up", look_up);
        add("first_write", first_write);
        add("leased_write", leased_write);
        add("first_write_and_commit_of_64", commit);
    }
    add_offline_benchmarks();
    benchmark::Initialize(&count, arguments);
    if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
