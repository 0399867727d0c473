// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of formats/qcow2 share.
#pragma once

#include "tests/unit/formats/support.h"

namespace dmu {

using Options = std::vector<std::pair<std::string, std::string>>;

struct Qcow2Variant {
    std::string name;
    std::uint32_t cluster = 65536;
    Options options{};
    bool backing = false;
    bool zeroing = true;  // fresh space reads as zeros

    bool has(const std::string& key) const {
        for (const auto& [k, value] : options)
            if (k == key && value != "off") return true;
        return false;
    }
    bool is_v2() const {
        for (const auto& option : options)
            if (option == std::pair<std::string, std::string>("compat", "0.10")) return true;
        return false;
    }
};

inline void PrintTo(const Qcow2Variant& variant, std::ostream* out) {
    *out << variant.name;
}

inline std::vector<Qcow2Variant> qcow2_variants() {
    std::vector<Qcow2Variant> all{
        {"Plain", 65536},
        {"V2", 65536, {{"compat", "0.10"}}},
        {"V2Backing", 4096, {{"compat", "0.10"}}, true},
        {"Backing", 65536, {}, true},
        {"BackingGarbage", 4096, {}, true, false},
        {"ExtendedL2", 16384, {{"extended_l2", "on"}}},
        {"ExtendedL2Backing", 16384, {{"extended_l2", "on"}}, true},
        {"DataFile", 65536, {{"data_file", "data.raw"}}},
        {"DataFileRaw", 4096, {{"data_file", "data.raw"}, {"data_file_raw", "on"}}},
        {"DataFileExtended", 16384, {{"data_file", "data.raw"}, {"extended_l2", "on"}}},
        {"Zstd", 65536, {{"compression_type", "zstd"}}},
        {"Lazy", 4096, {{"lazy_refcounts", "on"}}},
        {"Preallocated", 4096, {{"preallocation", "metadata"}}},
        {"Full", 4096, {{"preallocation", "full"}}, false, false},
    };
    for (const char* bits : {"1", "2", "4", "8", "32", "64"})
        all.push_back({"Refcount" + std::string(bits), 512, {{"refcount_bits", bits}}});
    for (std::uint32_t cluster = 512; cluster <= 2 << 20; cluster *= 4)
        all.push_back({"Cluster" + std::to_string(cluster), cluster, {}, true, cluster != 2048});
    return all;
}

// Names inside images reach what lies in /m of a MemoryDisks.
class MemoryNeighbours final : public Neighbours {
public:
    explicit MemoryNeighbours(MemoryDisks& disks) : disks_(disks) {}
    Result<std::unique_ptr<BlockFile>> open(const std::string& name, OpenMode mode) override {
        const auto path = "/m/" + name;
        return MemoryDisks::open(&disks_, {0, 1, path, mode, false});
    }
    Result<std::unique_ptr<BlockFile>> create(const std::string& name) override {
        const auto path = "/m/" + name;
        return MemoryDisks::open(&disks_, {0, 1, path, {true, false}, true});
    }

private:
    MemoryDisks& disks_;
};

inline Status create_qcow2(MemoryDisks& disks, const std::string& path, std::uint64_t size, const Qcow2Variant& variant,
                           const std::optional<BackingReference>& backing = {}) {
    CreateOptions options;
    options.virtual_size = size;
    options.cluster_size = variant.cluster;
    options.backing = backing;
    options.options = variant.options;
    MemoryNeighbours neighbours(disks);
    options.neighbours = &neighbours;
    disks.add(path)->zeroing = variant.zeroing;
    MemoryFile file(disks.stores[path], path);
    return find_format("qcow2")->create(file, options);
}

inline Result<CheckReport> check_qcow2(MemoryDisks& disks, const std::string& path, Repair repair = Repair::none) {
    MemoryFile file(disks.stores[path], path, repair != Repair::none);
    CheckOptions options;
    options.repair = repair;
    return find_format("qcow2")->check(file, options);
}

// Neither corruption nor leaks.
inline ::testing::AssertionResult is_clean(const Result<CheckReport>& report) {
    const auto sound = is_sound(report);
    if (!sound) return sound;
    if (report->leaks == 0) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << report->leaks << " leaks: " << joined(report->messages);
}

// As a writer with lazy refcounts leaves an image that it could not close.
inline bool is_dirty(const Bytes& image) {
    return load_be<std::uint32_t>(image, 4) >= 3 && (load_be<std::uint64_t>(image, 72) & 1) != 0;
}

// Every refcount is anything, also past the file's end, and some blocks of them are not there.
inline void make_dirty(Bytes& image, std::mt19937_64& random) {
    store_be<std::uint64_t>(image, 72, load_be<std::uint64_t>(image, 72) | 1);
    const auto cluster = std::uint64_t{1} << load_be<std::uint32_t>(image, 20);
    const auto table = load_be<std::uint64_t>(image, 48);
    const auto entries = load_be<std::uint32_t>(image, 56) * cluster / 8;
    const auto how = random() % 3;
    for (std::uint64_t i = 0; i < entries; i++) {
        const auto block = load_be<std::uint64_t>(image, table + i * 8);
        if (block == 0) continue;
        for (std::uint64_t at = block; at < block + cluster; at++)
            image[at] = how == 0 ? std::byte{0} : how == 1 ? std::byte{0xff} : static_cast<std::byte>(random());
        if (random() % 4 == 0) store_be<std::uint64_t>(image, table + i * 8, 0);
    }
}

// What opening put off.
inline Status finish_work(Image& image) {
    Status done;
    while (done && image.has_work()) done = image.work();
    return done;
}

// A directory where syncs cost nothing.
inline std::string fast_directory() {
    return std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp";
}

// What qemu makes of an image in memory: its verdict, and the content.
struct QemuView {
    TempDir directory{fast_directory()};

    // encryption: "aes", "luks"; empty: none.
    explicit QemuView(const MemoryDisks& disks, const std::string& encryption = "", const std::string& key_file = "")
        : node_(encryption.empty() ? "-f qcow2 "
                                   : "--object secret,id=s,file='" + key_file +
                                         "' --image-opts driver=qcow2,encrypt.key-secret=s,encrypt.format=" +
                                         encryption + ",file.filename=") {
        for (const auto& [path, store] : disks.stores)
            write_file(directory / std::filesystem::path(path).filename().string(), store->bytes);
    }
    Ran check(const std::string& name) {
        return run_command("cd '" + directory.path() + "' && qemu-img check " + node_ + name);
    }
    Bytes content(const std::string& name) {
        const auto ran =
            run_command("cd '" + directory.path() + "' && qemu-img convert -O raw " + node_ + name + " out.raw");
        EXPECT_EQ(ran.status, 0) << ran.output;
        return read_file(directory / "out.raw");
    }

private:
    const std::string node_;
};

}  // namespace dmu
