// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/qcow2/refcounts.h"

#include <algorithm>
#include <iterator>

#include "formats/core/endian.h"
#include "formats/core/units.h"

namespace dmu::qcow2 {

namespace {

// A lease changes some hundred bytes of a block; direct I/O wants no less than this anywhere.
constexpr std::uint64_t written_unit = 4096;

}  // namespace

std::uint64_t load_refcount(std::span<const std::byte> block, unsigned order, std::uint64_t index) {
    switch (order) {
        case 3:
            return load_be<std::uint8_t>(block, index);
        case 4:
            return load_be<std::uint16_t>(block, index * 2);
        case 5:
            return load_be<std::uint32_t>(block, index * 4);
        case 6:
            return load_be<std::uint64_t>(block, index * 8);
        default:
            break;
    }
    const unsigned bits = 1U << order;
    const auto per_byte = 8 / bits;
    const auto shift = static_cast<unsigned>(index % per_byte) * bits;
    return std::to_integer<unsigned>(block[index / per_byte]) >> shift & ((1U << bits) - 1);
}

void store_refcount(std::span<std::byte> block, unsigned order, std::uint64_t index, std::uint64_t value) {
    switch (order) {
        case 3:
            return store_be<std::uint8_t>(block, index, static_cast<std::uint8_t>(value));
        case 4:
            return store_be<std::uint16_t>(block, index * 2, static_cast<std::uint16_t>(value));
        case 5:
            return store_be<std::uint32_t>(block, index * 4, static_cast<std::uint32_t>(value));
        case 6:
            return store_be<std::uint64_t>(block, index * 8, value);
        default:
            break;
    }
    const unsigned bits = 1U << order;
    const auto per_byte = 8 / bits;
    const auto shift = static_cast<unsigned>(index % per_byte) * bits;
    const auto mask = ((1U << bits) - 1) << shift;
    const auto old = std::to_integer<unsigned>(block[index / per_byte]);
    block[index / per_byte] = static_cast<std::byte>((old & ~mask) | (static_cast<unsigned>(value) << shift & mask));
}

Refcounts::Refcounts(BlockFile& file, Header& header, std::uint64_t cache_bytes)
    : file_(file), header_(header), cache_(std::max<std::uint64_t>(cache_bytes / header.cluster_bytes(), 4)) {
}

Error Refcounts::corrupt(const std::string& what) const {
    return {Code::corrupt, "qcow2 image '" + file_.name() + "': " + what + "; run a check of the image"};
}

Status Refcounts::load(std::uint64_t file_bytes) {
    std::vector<std::byte> raw(header_.refcount_table_bytes());
    auto done = file_.read(header_.refcount_table_offset, raw);
    if (!done) return done;
    table_.resize(raw.size() / 8);
    const auto end = align_up(file_bytes, header_.cluster_bytes());
    for (std::size_t i = 0; i < table_.size(); i++) {
        const auto offset = table_[i] = load_be<std::uint64_t>(raw, i * 8);
        if (offset == 0) continue;
        const auto who = "refcount block " + std::to_string(i) + " at byte " + std::to_string(offset);
        if (offset % header_.cluster_bytes() != 0) return corrupt(who + " is not aligned to clusters");
        if (offset >= end) return corrupt(who + " lies past the end of the file");
    }
    return ok();
}

Result<Refcounts::Block*> Refcounts::block(std::uint64_t index) {
    if (auto* found = cache_.find(index)) return found;
    if (!has_block(index)) return nullptr;
    Block raw(header_.cluster_bytes());
    auto done = file_.read(table_[index], raw);
    if (!done) return done.error();
    return &cache_.insert(index, std::move(raw));
}

Result<std::uint64_t> Refcounts::get(std::uint64_t cluster) {
    const auto found = block(block_of(cluster));
    if (!found) return found.error();
    if (*found == nullptr) return std::uint64_t{0};
    return load_refcount(**found, header_.refcount_order, cluster % header_.block_clusters());
}

Status Refcounts::set(std::uint64_t cluster, std::uint64_t value) {
    const auto index = block_of(cluster);
    const auto found = block(index);
    if (!found) return found.error();
    if (*found == nullptr) return corrupt("cluster " + std::to_string(cluster) + " has no refcount block");
    const auto at = cluster % header_.block_clusters();
    store_refcount(**found, header_.refcount_order, at, value);
    const std::uint64_t unit = std::min<std::uint64_t>(written_unit, header_.cluster_bytes());
    const auto first = align_down((at << header_.refcount_order) / 8, unit);
    mark(index, {first, first + unit});
    return ok();
}

void Refcounts::changed(std::uint64_t index) {
    mark(index, {0, header_.cluster_bytes()});
}

void Refcounts::mark(std::uint64_t index, Span span) {
    cache_.set_pinned(index, true);
    const auto [at, fresh] = dirty_.try_emplace(index, span);
    if (fresh) return;
    at->second.first = std::min(at->second.first, span.first);
    at->second.end = std::max(at->second.end, span.end);
}

Status Refcounts::write_block(std::uint64_t index, Span span) {
    const std::span<const std::byte> block(*cache_.find(index));
    return file_.write(table_[index] + span.first, block.subspan(span.first, span.end - span.first));
}

Status Refcounts::add(std::uint64_t cluster, std::int64_t by) {
    const auto old = get(cluster);
    if (!old) return old.error();
    if (by < 0 && *old < static_cast<std::uint64_t>(-by))
        return corrupt("cluster " + std::to_string(cluster) + " is in use, its refcount is " + std::to_string(*old));
    if (by > 0 && most() - *old < static_cast<std::uint64_t>(by))
        return Error{Code::unsupported, "qcow2 image '" + file_.name() + "': its refcounts of " +
                                            std::to_string(header_.refcount_bits()) +
                                            " bits can't count another user of a cluster"};
    return set(cluster, *old + static_cast<std::uint64_t>(by));
}

Result<Refcounts::Run> Refcounts::find_free(std::uint64_t from, std::uint64_t to, std::uint64_t need,
                                            std::uint64_t want) {
    const auto per_block = header_.block_clusters();
    const auto end = std::min(to, align_down(from, per_block) + per_block);
    const auto found = block(block_of(from));
    if (!found) return found.error();
    Run run{from, 0};
    for (auto at = from; at < end; at++) {
        const bool used = *found != nullptr && load_refcount(**found, header_.refcount_order, at % per_block) != 0;
        if (!used && ++run.count == want) return run;
        if (!used) continue;
        if (run.count >= need) return run;
        run = {at + 1, 0};
    }
    if (run.count >= need) return run;
    return Run{end, 0};
}

void Refcounts::add_block(std::uint64_t index, std::uint64_t offset) {
    cache_.insert(index, Block(header_.cluster_bytes()));
    table_[index] = offset;
    changed(index);
    fresh_.insert(index);
}

bool Refcounts::move_table(std::uint64_t offset, std::uint64_t clusters) {
    if (clusters > max_refcount_table_bytes >> header_.cluster_bits) return false;
    table_.resize((clusters << header_.cluster_bits) / 8);
    header_.refcount_table_offset = offset;
    header_.refcount_table_clusters = static_cast<std::uint32_t>(clusters);
    moved_ = true;
    return true;
}

Status Refcounts::write() {
    if (!fresh_.empty() || moved_) return make_durable();
    while (!dirty_.empty()) {
        const auto [index, span] = *dirty_.begin();
        auto done = write_block(index, span);
        if (!done) return done;
        cache_.set_pinned(index, false);
        dirty_.erase(index);
    }
    return ok();
}

Status Refcounts::write_table() {
    if (moved_) {
        std::vector<std::byte> raw(header_.refcount_table_bytes());
        for (std::size_t i = 0; i < table_.size(); i++) store_be<std::uint64_t>(raw, i * 8, table_[i]);
        auto done = file_.write(header_.refcount_table_offset, raw);
        if (done) done = file_.sync();
        const auto encoded = encode_header(header_);
        if (!encoded) return encoded.error();
        return done ? file_.write(0, *encoded) : done;
    }
    // A block may lie where one before it counts: what points at them gets to the disk as one
    // sector, and sector after sector.
    constexpr std::uint64_t per_sector = sector_size / 8;
    for (auto first = fresh_.begin(); first != fresh_.end();) {
        const auto end = fresh_.lower_bound(align_down(*first, per_sector) + per_sector);
        std::vector<std::byte> raw((*std::prev(end) - *first + 1) * 8);
        for (std::size_t at = 0; at < raw.size(); at += 8) store_be<std::uint64_t>(raw, at, table_[*first + at / 8]);
        auto done = file_.write(header_.refcount_table_offset + *first * 8, raw);
        if (done && end != fresh_.end()) done = file_.sync();
        if (!done) return done;
        first = end;
    }
    return ok();
}

// A block before the entry that points at it, a table before the header.
Status Refcounts::make_durable() {
    for (const auto& [index, span] : dirty_) {
        auto done = write_block(index, span);
        if (!done) return done;
    }
    auto done = file_.sync();
    if (done && (!fresh_.empty() || moved_)) {
        done = write_table();
        if (done) done = file_.sync();
    }
    if (!done) return done;
    for (const auto& [index, span] : dirty_) cache_.set_pinned(index, false);
    dirty_.clear();
    fresh_.clear();
    moved_ = false;
    return ok();
}

}  // namespace dmu::qcow2
