// SPDX-License-Identifier: GPL-2.0-or-later
// Images in memory with the less usual features, some data in each, and what must hold of
// every state of their files.
#pragma once

#include <sys/wait.h>

#include <sstream>

#include "formats/qcow2/bitmaps.h"
#include "tests/unit/formats/marked.h"
#include "tests/unit/formats/qcow2_support.h"

namespace dmu {

enum class Extra { none, compressed, bitmaps, unknown_autoclear };

struct Qcow2Feature {
    Qcow2Variant variant;
    std::string encryption{};  // "aes", "luks"; empty: none
    Extra extra = Extra::none;
    bool snapshots = false;
};

inline void PrintTo(const Qcow2Feature& feature, std::ostream* out) {
    *out << feature.variant.name;
}

class FeatureDisk {
public:
    static constexpr std::uint64_t sectors = 1024;
    static constexpr std::uint64_t base_write = 1, start_write = 2;  // and the test's own writes from 3 on
    static constexpr std::uint64_t first_written = 100, written = 300;
    inline static const std::string path = "/m/top.qcow2";

    MemoryDisks disks;
    Bytes start{Bytes(sectors * sector_size)};  // the guest's disk

    // False: qemu is needed, and not there.
    bool make(const Qcow2Feature& feature) {
        feature_ = feature;
        std::optional<BackingReference> backing;
        if (feature.variant.backing) {
            start = marked_data(0, sectors, base_write);
            disks.add("/m/base")->bytes = start;
            backing = BackingReference{"base", "raw"};
        }
        auto variant = feature.variant;
        if (!feature.encryption.empty()) {
            write_file(key(), Bytes(9, std::byte{'k'}));
            variant.options.insert(variant.options.end(), {{"encryption", feature.encryption}, {"key-file", key()}});
            if (feature.encryption == "luks") variant.options.emplace_back("iter_time", "1");
        }
        EXPECT_OK(create_qcow2(disks, path, start.size(), variant, backing));
        write_start();
        if (feature.extra == Extra::bitmaps && !add_bitmap()) return false;
        if (feature.extra == Extra::unknown_autoclear) store_be<std::uint64_t>(image(), 88, unknown_bit);
        for (const auto& [name, store] : disks.stores) made_[name] = store->bytes;
        return true;
    }
    // As it was made.
    void reset() {
        disks.wrap = nullptr;
        for (const auto& [name, bytes] : made_) disks.add(name)->bytes = bytes;
    }
    Bytes& image() { return disks.stores[path]->bytes; }
    std::string spec() const {
        return "qcow2" + (feature_.encryption.empty() ? "" : ";key-file=" + key()) + ":" + path;
    }
    // The files that an image consists of, without its backing file.
    std::vector<std::string> files() const {
        std::vector<std::string> all{path};
        if (disks.stores.count("/m/data.raw") != 0) all.push_back("/m/data.raw");
        return all;
    }

    // Of the files as they lie on the disk at any time.
    void expect_nothing_plain(const MemoryDisks& seen) const {
        if (feature_.encryption.empty()) return;
        for (const auto& file : files()) EXPECT_FALSE(holds_plain_text(seen.stores.at(file)->bytes)) << file;
    }
    // That the image is written to must be on the disk before any of it is.
    void expect_marked_or_unchanged(MemoryDisks& seen, const Bytes& content) const {
        if (feature_.extra == Extra::none || feature_.extra == Extra::compressed) return;
        EXPECT_TRUE(is_marked(seen) || content == start) << "written to, and not marked";
    }
    bool is_marked(MemoryDisks& seen) const {
        const auto& bytes = seen.stores[path]->bytes;
        if (feature_.extra == Extra::unknown_autoclear) return (load_be<std::uint64_t>(bytes, 88) & unknown_bit) == 0;
        MemoryFile file(seen.stores[path], path, false);
        const auto header = qcow2::decode_header(std::span(bytes).first(feature_.variant.cluster), bytes.size(), path);
        EXPECT_OK(header);
        const auto bitmaps = qcow2::read_bitmaps(file, *header);
        EXPECT_OK(bitmaps);
        // All of them, and none got lost.
        return bitmaps->size() == 2 && (*bitmaps)[0].in_use() && (*bitmaps)[1].in_use();
    }
    Bytes read(MemoryDisks& seen) const {
        Bytes content(start.size());
        auto chain = seen.chain(spec(), false);
        EXPECT_OK(chain);
        if (chain) EXPECT_OK((*chain)->read({0}, content));
        return content;
    }
    // Also what qemu says and reads. It calls it an error where "copied" and a leaked refcount
    // disagree, which a crash while snapshots change leaves: such a flag costs a copy at most.
    void ask_qemu(const MemoryDisks& seen, const std::function<::testing::AssertionResult(const Bytes&)>& right) {
        if (!has_qemu()) return;
        QemuView qemu(seen, feature_.encryption, key());
        const auto verdict = qemu.check("top.qcow2");
        std::istringstream lines(verdict.output);
        bool sound = WIFEXITED(verdict.status) &&
                     (WEXITSTATUS(verdict.status) == 0 || WEXITSTATUS(verdict.status) == 3 || feature_.snapshots);
        for (std::string line; std::getline(lines, line);)
            if (line.starts_with("ERROR") && !(feature_.snapshots && line.find("OFLAG_COPIED") != line.npos))
                sound = false;
        EXPECT_TRUE(sound) << verdict.output;
        EXPECT_TRUE(right(qemu.content("top.qcow2")));
    }

private:
    static constexpr std::uint64_t unknown_bit = std::uint64_t{1} << 40;

    std::string key() const { return directory_ / "key"; }

    // As a writer of long ago: several compressed clusters lie in one host cluster.
    void write_start() {
        auto chain = disks.chain(spec(), true);
        ASSERT_OK(chain);
        auto& top = (*chain)->top();
        const auto cluster = feature_.variant.cluster / sector_size;
        if (feature_.extra == Extra::compressed) {
            for (std::uint64_t s = 0; s < sectors; s += cluster)
                ASSERT_OK(top.write_compressed({s * sector_size}, marked_data(s, cluster, start_write)));
            start = marked_data(0, sectors, start_write);
        } else {
            const auto data = marked_data(first_written, written, start_write);
            StandIn target(**chain);
            ASSERT_OK(target.write({first_written * sector_size}, data));
            std::copy(data.begin(), data.end(), start.begin() + first_written * sector_size);
        }
        ASSERT_OK(top.close());
    }
    // Ours makes none.
    bool add_bitmap() {
        if (!has_qemu()) return false;
        QemuView qemu(disks);
        const auto ran = run_command("cd '" + qemu.directory.path() +
                                     "' && qemu-img bitmap --add top.qcow2 one && qemu-img bitmap --add top.qcow2 two");
        EXPECT_EQ(ran.status, 0) << ran.output;
        image() = read_file(qemu.directory / "top.qcow2");
        EXPECT_FALSE(is_marked(disks));
        return true;
    }

    Qcow2Feature feature_;
    std::map<std::string, Bytes> made_;
    TempDir directory_{fast_directory()};
};

}  // namespace dmu
