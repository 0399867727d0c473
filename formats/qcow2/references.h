// SPDX-License-Identifier: GPL-2.0-or-later
// Who uses which cluster, found by walking everything that points at one: what the
// refcounts should be. Reads the image by itself, without open() and its allocator.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "formats/core/image.h"
#include "formats/core/ranges.h"
#include "formats/qcow2/entry.h"
#include "formats/qcow2/snapshots.h"

namespace dmu::qcow2 {

class References {
public:
    References(BlockFile& file, const Header& header, std::uint64_t file_bytes)
        : file_(file), header_(header), file_bytes_(file_bytes) {}

    // Everything but the refcount table and its blocks. I/O errors only; what is wrong
    // goes to faults().
    Status walk();
    // Them too.
    Status walk_refcounts(std::vector<std::uint64_t>& table);

    std::uint64_t count(std::uint64_t cluster) const;
    // Clusters with users, in order.
    void visit_used(const std::function<void(std::uint64_t cluster)>& visit) const;
    std::uint64_t end() const { return end_; }  // one past the last cluster that is used
    std::uint64_t guest_clusters() const { return guest_clusters_; }
    // What can't be put right by other refcounts.
    std::uint64_t faults() const { return faults_; }
    const std::vector<std::string>& messages() const { return messages_; }
    std::uint64_t file_clusters() const;
    void fault(const std::string& what);

    // Each entry of the active tables: where on disk, the word, its users. After walk().
    using Visit = std::function<Status(std::uint64_t at, std::uint64_t word, std::uint64_t users)>;
    Status visit_active(const Visit& visit);

private:
    enum class Kind : std::uint8_t { none, fixed, table, data, compressed };
    // Small: a hostile image has users far apart.
    static constexpr std::uint64_t page_clusters = 64;
    struct Page {
        std::array<std::uint32_t, page_clusters> counts{};
        std::array<Kind, page_clusters> kinds{};
    };

    // As an L1 table first had it.
    struct Table {
        std::uint64_t guest = 0;
        bool active = false;
        std::uint32_t users = 0;
    };

    void take(std::uint64_t offset, std::uint64_t bytes, Kind kind, const std::string& who, std::uint32_t users = 1);
    // False: it lies over something else.
    bool take_cluster(std::uint64_t cluster, Kind kind, std::uint32_t users);
    bool take_fixed(std::uint64_t first, std::uint64_t end);
    Status walk_l1(std::uint64_t offset, std::uint64_t entries, bool active, const std::string& who);
    Status walk_tables();
    void take_entry(const Entry& entry, const Table& table, std::uint64_t guest);
    Status walk_bitmaps();
    Result<std::vector<std::uint64_t>> read_words(std::uint64_t offset, std::uint64_t count);

    BlockFile& file_;
    const Header& header_;
    const std::uint64_t file_bytes_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
    Ranges fixed_;                           // clusters
    std::map<std::uint64_t, Table> tables_;  // by offset: each is read once, whoever shares it
    std::uint64_t end_ = 0, guest_clusters_ = 0, faults_ = 0;
    std::vector<std::string> messages_;
};

}  // namespace dmu::qcow2
