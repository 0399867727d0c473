// SPDX-License-Identifier: GPL-2.0-or-later
#include "formats/vmdk/grow.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "formats/core/endian.h"

namespace dmu::vmdk {

namespace {

class Growing {
public:
    Growing(BlockFile& file, const SparseHeader& header, std::uint64_t capacity)
        : file_(file), old_(header), new_(header) {
        new_.capacity = capacity;
    }

    Status run();

private:
    std::uint64_t sectors_of(const SparseHeader& header) const {
        return (header.directory_bytes() + sector_size - 1) / sector_size;
    }
    Status lay_out();
    Status clear_rest(std::uint64_t directory);
    Status write_directory(std::uint64_t from, std::uint64_t to, std::uint64_t first_table);
    Status write_header();

    BlockFile& file_;
    const SparseHeader old_;
    SparseHeader new_;
    std::uint64_t first_tables_ = 0, second_tables_ = 0;  // sectors
};

// Space at the file's end, reading as zeros.
Status Growing::lay_out() {
    const auto size = file_.size();
    if (!size) return size.error();
    const bool has_second = old_.redundant != 0;
    const auto start = align_up(*size, old_.grain_bytes());
    auto next = start / sector_size;
    const auto take = [&](std::uint64_t sectors) { return std::exchange(next, next + sectors); };
    const auto tables = (new_.directory_entries() - old_.directory_entries()) * (old_.table_space() / sector_size);
    first_tables_ = take(tables);
    if (has_second) second_tables_ = take(tables);
    if (sectors_of(new_) > sectors_of(old_)) {
        new_.directory = take(sectors_of(new_));
        if (has_second) new_.redundant = take(sectors_of(new_));
    }
    const auto end = align_up(next * sector_size, old_.grain_bytes());
    if (end / sector_size > most_sectors)
        return Error{Code::no_space, "vmdk extent '" + file_.name() + "': it has reached the 2 TiB of its pointers"};
    if (end == *size) return ok();
    const auto zeros = file_.allocate(*size, end - *size);
    if (!zeros) return zeros.error();
    const std::vector<std::byte> nothing(std::min<std::uint64_t>(end - *size, 1 << 20));
    for (auto at = *size; !*zeros && at < end; at += nothing.size()) {
        auto done = file_.write(at, std::span(nothing).first(std::min<std::uint64_t>(nothing.size(), end - at)));
        if (!done) return done;
    }
    return ok();
}

// Entries past the disk's old end, which nobody looked at.
Status Growing::clear_rest(std::uint64_t directory) {
    const auto last = old_.directory_entries() - 1;
    const auto used = (old_.capacity + old_.grain - 1) / old_.grain - last * old_.table_entries;
    std::array<std::byte, 4> raw{};
    auto done = file_.read(directory * sector_size + last * 4, raw);
    const std::uint64_t table = load_le<std::uint32_t>(raw, 0);
    if (!done || table == 0 || used == old_.table_entries) return done;
    const std::vector<std::byte> nothing((old_.table_entries - used) * 4);
    return file_.write(table * sector_size + used * 4, nothing);
}

Status Growing::write_directory(std::uint64_t from, std::uint64_t to, std::uint64_t first_table) {
    std::vector<std::byte> raw(sectors_of(new_) * sector_size);
    auto done = file_.read(from * sector_size, std::span(raw).first(old_.directory_bytes()));
    if (!done) return done;
    const auto step = old_.table_space() / sector_size;
    for (auto i = old_.directory_entries(); i < new_.directory_entries(); i++, first_table += step)
        store_le<std::uint32_t>(raw, i * 4, static_cast<std::uint32_t>(first_table));
    return file_.write(to * sector_size, raw);
}

Status Growing::write_header() {
    std::array<std::byte, sector_size> raw{};
    auto done = file_.read(0, raw);
    if (!done) return done;
    store_le<std::uint64_t>(raw, 12, new_.capacity);
    if (new_.redundant != 0) store_le<std::uint64_t>(raw, 48, new_.redundant);
    store_le<std::uint64_t>(raw, 56, new_.directory);
    done = file_.write(0, raw);
    return done ? file_.sync() : done;
}

Status Growing::run() {
    auto done = lay_out();
    if (done) done = clear_rest(old_.directory);
    if (done) done = write_directory(old_.directory, new_.directory, first_tables_);
    if (done && old_.redundant != 0) done = clear_rest(old_.redundant);
    if (done && old_.redundant != 0) done = write_directory(old_.redundant, new_.redundant, second_tables_);
    if (done) done = file_.sync();
    return done ? write_header() : done;
}

}  // namespace

Status grow_hosted(BlockFile& file, const SparseHeader& header, std::uint64_t capacity) {
    return Growing(file, header, capacity).run();
}

}  // namespace dmu::vmdk
