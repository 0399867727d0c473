// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of formats/ share.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "formats/core/chain.h"
#include "formats/core/endian.h"
#include "formats/core/stand_in.h"
#include "tests/fakes/memory_file.h"

#define ASSERT_OK(expression)                                  \
    do {                                                       \
        const auto& result_of_ = (expression);                 \
        ASSERT_TRUE(result_of_) << result_of_.error().message; \
    } while (false)
#define EXPECT_OK(expression)                                  \
    do {                                                       \
        const auto& result_of_ = (expression);                 \
        EXPECT_TRUE(result_of_) << result_of_.error().message; \
    } while (false)

namespace dmu {

using Bytes = std::vector<std::byte>;

// "holds" is a part of the message.
template <typename T>
::testing::AssertionResult fails_with(const Result<T>& result, Code code, const std::string& holds) {
    if (result) return ::testing::AssertionFailure() << "did not fail; expected: " << holds;
    if (result.error().code != code)
        return ::testing::AssertionFailure()
               << "code " << static_cast<int>(result.error().code) << ": " << result.error().message;
    if (result.error().message.find(holds) == std::string::npos)
        return ::testing::AssertionFailure() << "message: " << result.error().message << "; expected: " << holds;
    return ::testing::AssertionSuccess();
}

inline Bytes pattern(std::size_t size, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Bytes bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

// A seed to repeat a sequence with: DMU_TEST_SEED; printed with every failure by SCOPED_TRACE.
// Without it each sequence takes the next number from one that the process prints.
inline std::uint64_t test_seed() {
    if (const char* text = std::getenv("DMU_TEST_SEED")) return std::strtoull(text, nullptr, 0);
    static std::uint64_t next = [] {
        const std::uint64_t first = std::random_device{}();
        std::printf("seeds from %llu on\n", static_cast<unsigned long long>(first));
        return first;
    }();
    return next++;
}

// A directory of its own, removed at the end.
class TempDir {
public:
    explicit TempDir(const std::string& base = std::filesystem::temp_directory_path()) {
        std::string name = base + "/dmu-test-XXXXXX";
        path_ = ::mkdtemp(name.data());
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

inline void write_file(const std::string& path, const Bytes& bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

inline Bytes read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

// Exit status and what it said.
struct Ran {
    int status = -1;
    std::string output;
};
inline Ran run_command(const std::string& command) {
    Ran ran;
    std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr) return ran;
    char buffer[4096];
    for (std::size_t got; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.output.append(buffer, got);
    ran.status = ::pclose(pipe);
    return ran;
}

// Of qemu's programs. Where this machine's CPU time stands still, as it does for seconds in
// a VM whose host took its CPUs away, they can't time the key derivation: later, then.
inline Ran run_qemu(const std::string& command) {
    auto ran = run_command(command);
    for (int i = 0; i < 60 && ran.output.find("Unable to get accurate CPU usage") != std::string::npos; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        ran = run_command(command);
    }
    return ran;
}

// What asks it and goes on without: it is said once that it is left out.
inline bool has_qemu() {
    static const bool there = [] {
        const bool found = run_command("qemu-img --version && qemu-io --version").status == 0;
        if (!found) std::printf("Skipped: what qemu-img and qemu-io judge; they are not there\n");
        return found;
    }();
    return there;
}

// Images by path in memory, and how each opening of one is wrapped.
struct MemoryDisks {
    using Wrap = std::function<std::unique_ptr<BlockFile>(unsigned layer, std::unique_ptr<BlockFile>)>;

    std::map<std::string, std::shared_ptr<MemoryStore>> stores;
    Wrap wrap;

    std::shared_ptr<MemoryStore> add(const std::string& path) { return stores[path] = std::make_shared<MemoryStore>(); }

    static Result<std::unique_ptr<BlockFile>> open(void* context, const Chain::FileRequest& request) {
        auto& self = *static_cast<MemoryDisks*>(context);
        if (request.create) {
            if (self.stores.count(request.path) != 0) return Error{Code::busy, request.path};
            self.add(request.path);
        }
        const auto found = self.stores.find(request.path);
        if (found == self.stores.end()) return Error{Code::not_found, request.path};
        std::unique_ptr<BlockFile> file =
            std::make_unique<MemoryFile>(found->second, request.path, request.mode.writable);
        return self.wrap ? self.wrap(request.layer, std::move(file)) : std::move(file);
    }

    Result<std::unique_ptr<Chain>> chain(const std::string& spec, bool writable) {
        const auto parsed = parse_spec(spec);
        if (!parsed) return parsed.error();
        auto chain = Chain::open(*parsed, writable, PathPolicy{}, &MemoryDisks::open, this);
        if (chain) (*chain)->set_opener(&MemoryDisks::open, this);
        return chain;
    }

    // A fresh qcow image; backing: a path, or empty.
    Status create(const std::string& path, std::uint64_t size, std::uint32_t cluster, const std::string& backing = "") {
        CreateOptions options{size, cluster, {}};
        if (!backing.empty()) options.backing = BackingReference{backing, ""};
        MemoryFile file(add(path), path);
        return find_format("qcow")->create(file, options);
    }

    Result<CheckReport> check(const std::string& path) {
        MemoryFile file(stores[path], path, false);
        return find_format("qcow")->check(file, {});
    }
};

inline std::string joined(const std::vector<std::string>& lines) {
    std::string text;
    for (const auto& line : lines) text += line + "\n";
    return text;
}

// Who asks for no more than a range is told the same of it.
inline ::testing::AssertionResult is_same_alone(Chain& chain, GuestRange range) {
    const auto all = chain.look_up(range), alone = chain.look_up(range, LookAhead::none);
    if (!all || !alone) return ::testing::AssertionFailure() << (all ? alone : all).error().message;
    auto end = range.start.bytes;
    for (std::size_t i = 0; i < alone->size(); i++) {
        if (i >= all->size()) return ::testing::AssertionFailure() << "there are more mappings";
        const auto &one = (*alone)[i], &other = (*all)[i];
        const auto length = std::min(other.length, range.end() - other.start.bytes);
        if (one.start != other.start || one.length != length || one.kind != other.kind || one.layer != other.layer ||
            one.file != other.file || one.host != other.host || one.writable != other.writable ||
            one.leasable != other.leasable)
            return ::testing::AssertionFailure() << "mapping " << i << " at " << one.start.bytes;
        end = one.start.bytes + one.length;
    }
    if (end != range.end()) return ::testing::AssertionFailure() << "it ends at " << end << ", not " << range.end();
    return ::testing::AssertionSuccess();
}

// No corruption in an image in memory.
inline ::testing::AssertionResult is_sound(const Result<CheckReport>& report) {
    if (!report) return ::testing::AssertionFailure() << report.error().message;
    if (report->corruptions != 0) return ::testing::AssertionFailure() << joined(report->messages);
    return ::testing::AssertionSuccess();
}

}  // namespace dmu
